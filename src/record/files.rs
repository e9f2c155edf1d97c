//! Files that are closed at a size, of which the newest are kept.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use super::{Record, RecordConfig};

const PREFIX: &str = "episodes-";
const SUFFIX: &str = ".jsonl";

/// The files of one folder.
pub(super) struct Files {
    config: RecordConfig,
    number: u64,
    file: BufWriter<File>,
    bytes: u64,
}

impl Files {
    /// Goes on with the newest file.
    pub(super) fn open(config: &RecordConfig) -> io::Result<Self> {
        std::fs::create_dir_all(&config.folder)?;
        let number = numbers(config)?.last().copied().unwrap_or(1);
        let (file, bytes) = append(config, number)?;
        Ok(Self { config: config.clone(), number, file, bytes })
    }

    /// Writes a line; it reaches the system at the next flush.
    pub(super) fn write(&mut self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.config.max_bytes {
            self.begin_next()?;
        }
        self.file.write_all(&line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn begin_next(&mut self) -> io::Result<()> {
        self.file.flush()?;
        let (file, bytes) = append(&self.config, self.number + 1)?;
        self.number += 1;
        (self.file, self.bytes) = (file, bytes);
        let numbers = numbers(&self.config)?;
        let excess = numbers.len().saturating_sub(self.config.max_files.max(1));
        for number in &numbers[..excess] {
            std::fs::remove_file(path(&self.config, *number))?;
        }
        Ok(())
    }
}

fn path(config: &RecordConfig, number: u64) -> PathBuf {
    config.folder.join(format!("{PREFIX}{number:06}{SUFFIX}"))
}

fn append(config: &RecordConfig, number: u64) -> io::Result<(BufWriter<File>, u64)> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path(config, number))?;
    let bytes = file.metadata()?.len();
    Ok((BufWriter::new(file), bytes))
}

/// The numbers of our files, in order.
fn numbers(config: &RecordConfig) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(&config.folder)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let number = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
