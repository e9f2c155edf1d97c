//! Files that are closed at a size, of which the newest are kept.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
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
    file: BufWriter<File>,
    bytes: u64,
}

impl Files {
    /// Goes on with the newest file.
    pub(super) fn open(config: &RecordConfig, folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let number = numbers(folder)?.last().copied().unwrap_or(1);
        let (file, bytes) = append(folder, number)?;
        let RecordConfig { max_bytes, max_files, .. } = *config;
        Ok(Self { folder: folder.to_owned(), max_bytes, max_files, number, file, bytes })
    }

    /// Writes a line; it reaches the system at the next flush.
    fn append(&mut self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.max_bytes {
            self.begin_next()?;
        }
        self.file.write_all(&line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn begin_next(&mut self) -> io::Result<()> {
        self.file.flush()?;
        let (file, bytes) = append(&self.folder, self.number + 1)?;
        self.number += 1;
        (self.file, self.bytes) = (file, bytes);
        let numbers = numbers(&self.folder)?;
        let excess = numbers.len().saturating_sub(self.max_files.max(1));
        for number in &numbers[..excess] {
            std::fs::remove_file(path(&self.folder, *number))?;
        }
        Ok(())
    }
}

impl Sink for Files {
    fn write(&mut self, records: &[Box<Record>]) -> usize {
        let is_good = |result: io::Result<()>| {
            if let Err(error) = &result {
                tracing::error!(%error, "cannot write an episode down");
            }
            result.is_ok()
        };
        let written = records.iter().filter(|record| is_good(self.append(record))).count();
        // Whatever waited by now goes to the disk together.
        if is_good(self.file.flush()) { written } else { 0 }
    }
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{PREFIX}{number:06}{SUFFIX}"))
}

fn append(folder: &Path, number: u64) -> io::Result<(BufWriter<File>, u64)> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path(folder, number))?;
    let bytes = file.metadata()?.len();
    Ok((BufWriter::new(file), bytes))
}

/// The numbers of our files, in order.
fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
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
