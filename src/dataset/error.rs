//! What can be wrong with a file of tasks.

use std::fmt;
use std::path::PathBuf;

/// A row that is no task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The file.
    pub file: PathBuf,
    /// The line or row, counted from 1.
    pub row: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` row {}: {}", self.file.display(), self.row, self.reason)
    }
}

/// A file that brings no tasks.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The file could not be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is named or marked as Parquet but is not.
    #[error(
        "`{}` is not a Parquet file: {reason}\nhint: it may be truncated, or a pointer left by Git LFS; JSON Lines files end in `.jsonl`",
        path.display()
    )]
    NotParquet {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is one JSON array.
    #[error(
        "`{}` is a JSON array, not JSON Lines\nhint: write one object per line, as `jq -c '.[]'` does",
        path.display()
    )]
    JsonArray {
        /// The file.
        path: PathBuf,
    },
    /// A Parquet file lacks a column.
    #[error(
        "`{}` has no column {column}; it has {found}\nhint: a task is `question` and `answer`, or `prompt` and `reward_model`",
        path.display()
    )]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The column, or the columns of which one is needed.
        column: &'static str,
        /// The columns found.
        found: String,
    },
    /// A Parquet file breaks off or cannot be decoded.
    #[error("`{}` cannot be decoded at row {row}: {reason}", path.display())]
    Undecodable {
        /// The file.
        path: PathBuf,
        /// The row, counted from 1.
        row: usize,
        /// What the decoder said.
        reason: String,
    },
    /// The file holds no rows.
    #[error("`{}` is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Not one row is a task.
    #[error("`{}` holds no task: all of its rows ({rejected}) were rejected\nhint: {first}", path.display())]
    NoTask {
        /// The file.
        path: PathBuf,
        /// How many rows were rejected.
        rejected: usize,
        /// The first of them, and why.
        first: String,
    },
    /// No task is of a wanted source and kind.
    #[error("`{}` holds no task of the wanted `sources` and `kinds`; it has {found}", path.display())]
    NothingSelected {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: String,
    },
}
