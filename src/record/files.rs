//! Files that are rotated at a size, of which the newest are retained.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Record, RecordConfig, Sink};

const PREFIX: &str = "episodes-";
const SUFFIX: &str = ".jsonl";

/// The files of one folder.
pub(super) struct Files {
    folder: PathBuf,
    max_bytes: u64,
    max_files: usize,
    number: u64,
    file: File,
    /// The length of the whole lines in the file.
    bytes: u64,
    /// Whether an incomplete line may follow.
    is_torn: bool,
}

impl Files {
    /// Continues the newest file. An incomplete last line, as a killed process leaves it, is
    /// truncated: the next line would be lost with it.
    pub(super) fn open(config: &RecordConfig, folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let number = numbers(folder)?.last().copied().unwrap_or(1);
        let mut file = append(folder, number)?;
        let bytes = whole_lines(&mut file)?;
        let RecordConfig { max_bytes, max_files, .. } = *config;
        let folder = folder.to_owned();
        let mut files = Self { folder, max_bytes, max_files, number, file, bytes, is_torn: true };
        files.truncate_incomplete_line()?;
        Ok(files)
    }

    /// Writes whole lines, or none of them.
    fn write_lines(&mut self, lines: &[u8]) -> io::Result<()> {
        self.truncate_incomplete_line()?;
        self.is_torn = true;
        let written = self.file.write_all(lines);
        if written.is_ok() {
            self.bytes += lines.len() as u64;
            self.is_torn = false;
        } else {
            // This may fail too; the next write tries again.
            let _ = self.truncate_incomplete_line();
        }
        written
    }

    /// Truncates an incomplete last line.
    fn truncate_incomplete_line(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.bytes)?;
            self.is_torn = false;
        }
        Ok(())
    }

    fn begin_next(&mut self) -> io::Result<()> {
        let mut file = append(&self.folder, self.number + 1)?;
        self.bytes = whole_lines(&mut file)?;
        self.number += 1;
        (self.file, self.is_torn) = (file, true);
        let numbers = numbers(&self.folder)?;
        let excess = numbers.len().saturating_sub(self.max_files.max(1));
        for number in &numbers[..excess] {
            std::fs::remove_file(path(&self.folder, *number))?;
        }
        Ok(())
    }

    /// Writes the lines that go to the same file, and returns how many were written.
    fn write_batch(&mut self, lines: &[Vec<u8>]) -> usize {
        // Written together, as that is cheaper; if that fails, one by one, as some may fit.
        let error = match self.write_lines(&lines.concat()) {
            Ok(()) => return lines.len(),
            Err(error) => error,
        };
        tracing::error!(%error, "cannot record episodes");
        match lines {
            [] | [_] => 0,
            lines => lines.iter().filter(|line| self.write_lines(line).is_ok()).count(),
        }
    }
}

impl Sink for Files {
    fn write(&mut self, records: &[Box<Record>]) -> usize {
        let (mut written, mut batch, mut bytes) = (0, Vec::new(), 0);
        for record in records {
            let mut line = match serde_json::to_vec(record) {
                Ok(line) => line,
                Err(error) => {
                    tracing::error!(%error, "cannot record an episode");
                    continue;
                }
            };
            line.push(b'\n');
            let whole = self.bytes + bytes;
            if whole > 0 && whole + line.len() as u64 > self.max_bytes {
                written += self.write_batch(&std::mem::take(&mut batch));
                bytes = 0;
                if let Err(error) = self.begin_next() {
                    tracing::error!(%error, "cannot begin a file of episodes");
                }
            }
            bytes += line.len() as u64;
            batch.push(line);
        }
        written + self.write_batch(&batch)
    }
}

pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{PREFIX}{number:06}{SUFFIX}"))
}

fn append(folder: &Path, number: u64) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path(folder, number))
}

/// The length of a file up to the end of its last whole line.
pub(super) fn whole_lines(file: &mut File) -> io::Result<u64> {
    const STEP: u64 = 64 * 1024;
    let mut end = file.metadata()?.len();
    while end > 0 {
        let start = end.saturating_sub(STEP);
        let mut part = vec![0; (end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut part)?;
        if let Some(at) = part.iter().rposition(|&byte| byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// The numbers of our files, in order.
pub(super) fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let number = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
