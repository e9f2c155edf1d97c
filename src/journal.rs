//! An append-only file of JSON Lines, read again by the next process.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A file of JSON Lines. Two processes must not open it at the same time.
#[derive(Debug)]
pub struct Journal {
    file: File,
}

/// A journal that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system refused it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A whole line does not have the form of the others.
    #[error("line {line} is damaged: {reason}")]
    Damaged {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl Journal {
    /// Opens or creates the file and its folder, and passes every line to `each`, in order. An
    /// incomplete last line, as a killed process leaves it, is logged and removed.
    ///
    /// # Errors
    /// When the folder cannot be created, the file cannot be opened, read or shortened, or a line
    /// cannot be parsed.
    pub fn open<T: DeserializeOwned>(
        path: &Path,
        mut each: impl FnMut(T),
    ) -> Result<Self, JournalError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut reader = BufReader::new(&file);
        let mut whole = 0;
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let length = reader.read_until(b'\n', &mut line)?;
            if !line.ends_with(b"\n") {
                break;
            }
            each(serde_json::from_slice(&line).map_err(|error| JournalError::Damaged {
                line: number,
                reason: error.to_string(),
            })?);
            whole += length as u64;
        }
        if !line.is_empty() {
            tracing::warn!(path = %path.display(), "removing an unfinished line at the file's end");
            file.set_len(whole)?;
        }
        Ok(Self { file })
    }

    /// Appends rows by one write. They survive the end of this process, and a power loss once
    /// [`Journal::sync`] has returned.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append<T: Serialize>(&mut self, rows: &[T]) -> io::Result<()> {
        let mut text = Vec::new();
        for row in rows {
            serde_json::to_writer(&mut text, row)?;
            text.push(b'\n');
        }
        self.file.write_all(&text)
    }

    /// Syncs what was appended to the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn rows(path: &Path) -> Result<Vec<u32>, JournalError> {
        let mut found = Vec::new();
        Journal::open(path, |row| found.push(row)).map(|_| found)
    }

    #[test]
    fn rows_are_found_again_up_to_any_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let mut journal = Journal::open(&path, |_: u32| panic!("it is new")).unwrap();
        journal.append(&[10, 20]).unwrap();
        journal.append(&[30]).unwrap();
        journal.sync().unwrap();
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(whole, b"10\n20\n30\n");
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let expected = &[10, 20, 30][..cut / 3];
            assert_eq!(rows(&path).unwrap(), expected, "cut at {cut}");
            assert_eq!(std::fs::metadata(&path).unwrap().len() as usize, cut / 3 * 3);
            // The next row starts on a line of its own.
            Journal::open(&path, |_: u32| {}).unwrap().append(&[40]).unwrap();
            assert_eq!(rows(&path).unwrap(), [expected, &[40]].concat());
        }
    }

    #[test]
    fn a_damaged_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(&path, "10\nten\n30\n").unwrap();
        let error = rows(&path).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { line: 2, .. }), "{error}");
        let error = rows(folder.path()).unwrap_err();
        assert!(matches!(error, JournalError::Io(_)), "{error}");
    }
}
