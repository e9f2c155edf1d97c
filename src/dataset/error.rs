//! What can be wrong with a file of tasks.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use super::ReadSummary;

use crate::hint::Hint;

/// A row that is not a task.
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

/// A file that yields no tasks.
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
        "`{}` is not a Parquet file: {reason}",
        path.display()
    )]
    NotParquet {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is of a kind that is not read.
    #[error("`{}` is {kind}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
        /// What to do about it.
        hint: &'static str,
    },
    /// Two columns have one name.
    #[error("`{}` has the column `{column}` twice", path.display())]
    DuplicateColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
    },
    /// A Parquet file has no column of any known form.
    #[error(
        "`{}` has no column of a known form; it has {found}",
        path.display()
    )]
    NoKnownColumn {
        /// The file.
        path: PathBuf,
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
    /// A folder or a glob brings no file.
    #[error(
        "there is no data file at `{}`",
        path.display()
    )]
    NoFile {
        /// The folder or glob.
        path: PathBuf,
    },
    /// A folder holds files of more than one split.
    #[error(
        "`{}` holds more than one split: {splits}",
        path.display()
    )]
    MixedSplits {
        /// The folder.
        path: PathBuf,
        /// The splits, separated by commas.
        splits: String,
    },
    /// No row can be used.
    #[error("`{}` holds no row that can be used, of {}{}", path.display(), summary.rows, reasons(summary))]
    NoTask {
        /// The file.
        path: PathBuf,
        /// What became of its rows.
        summary: Box<ReadSummary>,
    },
    /// Too many rows cannot be parsed.
    #[error(
        "{} of {} rows of `{}` were rejected, more than the allowed share of {allowed}{}",
        summary.rejected, summary.rows, path.display(), reasons(summary)
    )]
    TooManyRejected {
        /// The file.
        path: PathBuf,
        /// The share that may be rejected.
        allowed: f64,
        /// What became of its rows.
        summary: Box<ReadSummary>,
    },
    /// `max_rejected` is not between 0 and 1.
    #[error("`max_rejected` is {0}, but it must be a share from 0 to 1")]
    MaxRejected(f64),
    /// The rows contain more text than allowed.
    #[error(
        "`{}` holds more than {limit} bytes of text up to row {row}",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The row at which the bound was passed.
        row: usize,
        /// The bound, bytes.
        limit: u64,
    },
    /// No row is of a wanted source and kind.
    #[error("`{}` holds no row of the wanted `sources` and `kinds`; it has {found}", path.display())]
    NothingSelected {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: String,
    },
}

impl Hint for DatasetError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::NotParquet { .. } => "it may be truncated, or a pointer left by Git LFS; JSON Lines files end in `.jsonl`".into(),
            Self::Unreadable { hint, .. } => (*hint).into(),
            Self::DuplicateColumn { .. } => "rename or drop one of them".into(),
            Self::NoKnownColumn { .. } => "set `question` and `answer` to the names of its columns".into(),
            Self::NoFile { .. } => "files end in `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet`, with or without `.gz` or `.zst`".into(),
            Self::MixedSplits { path, .. } => format!("name the files of one, such as `{}/train*`", path.display()).into(),
            Self::TooManyRejected { .. } => "repair the rows, or raise `max_rejected`".into(),
            Self::TooLarge { .. } => "set `limit`, or raise `max_bytes`".into(),
            _ => return None,
        })
    }
}

/// Why rows were not used, a line each.
fn reasons(summary: &ReadSummary) -> String {
    summary.reasons().iter().map(|reason| format!("\n  {reason}")).collect()
}
