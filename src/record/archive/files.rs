//! Lines of files, read backwards.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::super::files::{numbers, path, whole_lines};
use super::{Page, Search};

/// Bytes that are read first; a line that is longer takes twice as many each time.
const STEP: u64 = 64 * 1024;

/// Where a line begins: the number of its file, and the bytes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    number: u64,
    offset: u64,
}

impl Position {
    /// Reads what [`Position::name`] wrote.
    pub(super) fn read(name: &str) -> Option<Self> {
        let (number, offset) = name.split_once('-')?;
        let position = Self { number: number.parse().ok()?, offset: offset.parse().ok()? };
        // One position has one name.
        (position.name() == name).then_some(position)
    }

    fn name(self) -> String {
        format!("{}-{}", self.number, self.offset)
    }
}

/// The episodes before a position, else the newest.
pub(super) fn list(folder: &Path, mut search: Search, from: Option<Position>) -> io::Result<Page> {
    for number in numbers(folder)?.into_iter().rev() {
        if from.is_some_and(|from| number > from.number) {
            continue;
        }
        let mut file = match File::open(path(folder, number)) {
            Ok(file) => file,
            // Removed in the meantime, as it was the oldest.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if search.filter.since.is_some_and(|since| is_older(&file, since)) {
            break;
        }
        let whole = whole_lines(&mut file)?;
        let end = match from {
            Some(from) if from.number == number => from.offset.min(whole),
            _ => whole,
        };
        let mut lines = Backwards { file, start: end, buffer: Vec::new() };
        while let Some((offset, line)) = lines.next()? {
            let position = Position { number, offset };
            search.examine(|| position.name(), Some(&line));
            if search.is_over() {
                return Ok(search.page(Some(position.name())));
            }
        }
    }
    Ok(search.page(None))
}

/// Whether nothing was written to a file since then.
fn is_older(file: &File, since: u64) -> bool {
    let modified = file.metadata().and_then(|metadata| metadata.modified()).ok();
    let seconds = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    seconds.is_some_and(|at| at.as_secs() < since)
}

/// The line that begins at a position.
pub(super) fn line(folder: &Path, position: Position) -> io::Result<Option<Vec<u8>>> {
    let Position { number, offset } = position;
    let mut file = match File::open(path(folder, number)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if offset >= file.metadata()?.len() {
        return Ok(None);
    }
    // What comes before it must be the end of a line.
    let mut before = [b'\n'];
    if offset > 0 {
        file.seek(SeekFrom::Start(offset - 1))?;
        file.read_exact(&mut before)?;
    }
    let mut line = Vec::new();
    if before == *b"\n" {
        BufReader::new(file).read_until(b'\n', &mut line)?;
    }
    Ok((line.last() == Some(&b'\n')).then_some(line))
}

/// The lines of a file from an end of a line to its beginning.
struct Backwards {
    file: File,
    /// The bytes before `buffer`, which are yet to be read.
    start: u64,
    /// Whole lines, but for the first, which may begin before it.
    buffer: Vec<u8>,
}

impl Backwards {
    /// The line before, and where it begins.
    fn next(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        loop {
            let inner = self.buffer.len().saturating_sub(1);
            if let Some(at) = memchr::memrchr(b'\n', &self.buffer[..inner]) {
                let line = self.buffer.split_off(at + 1);
                return Ok(Some((self.start + at as u64 + 1, line)));
            }
            if self.start == 0 {
                let line = std::mem::take(&mut self.buffer);
                return Ok((!line.is_empty()).then_some((0, line)));
            }
            let step = STEP.max(self.buffer.len() as u64).min(self.start);
            self.start -= step;
            let mut longer = Vec::with_capacity(step as usize + self.buffer.len());
            self.file.seek(SeekFrom::Start(self.start))?;
            (&self.file).take(step).read_to_end(&mut longer)?;
            longer.append(&mut self.buffer);
            self.buffer = longer;
        }
    }
}
