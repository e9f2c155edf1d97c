//! The configuration of recording.

use std::borrow::Cow;
use std::path::PathBuf;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;

use crate::hint::Hint;

/// The table `[record]`: whether and where episodes are recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordConfig {
    /// The folder of the files. They contain callers' questions and the answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// The file of a SQLite database to write to instead; it is made if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlite: Option<PathBuf>,
    /// The name of the environment variable that holds the URL of a PostgreSQL database to write
    /// to instead of files, such as `DATABASE_URL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_env: Option<String>,
    /// The ids of keys that may read the episodes of all callers at `/v1/episodes`; `*` means
    /// anyone, even without a key. Every other key reads its own episodes. Default: none.
    #[serde(default)]
    pub readers: Vec<String>,
    /// Bytes after which a file is closed and the next begun. Default: 104857600 (100 MiB).
    #[serde(default = "default_max_bytes")]
    pub max_bytes: u64,
    /// The number of files, the current one included; the oldest is deleted. Default: 10.
    #[serde(default = "default_max_files")]
    pub max_files: usize,
    /// Episodes that may wait to be written; more are dropped and counted. Default: 1024.
    #[serde(default = "default_queue")]
    pub queue: usize,
    /// Bytes of the waiting episodes; more are dropped and counted. Default: 67108864 (64 MiB).
    #[serde(default = "default_queue_bytes")]
    pub queue_bytes: usize,
}

/// In `readers`, stands for all.
const ANYONE: &str = "*";

fn default_max_bytes() -> u64 {
    100 * 1024 * 1024
}

fn default_max_files() -> usize {
    10
}

fn default_queue_bytes() -> usize {
    64 * 1024 * 1024
}

fn default_queue() -> usize {
    1024
}

/// Recording is not configured correctly.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// No destination, or more than one.
    #[error("`[record]` needs one of `folder`, `sqlite` and `url_env`")]
    Destination,
    /// A bound of 0.
    #[error("`record.{0}` must be at least 1")]
    Zero(&'static str),
    /// The variable that is named is not there.
    #[error("`record.url_env`: the variable `{0}` is not set")]
    Unset(String),
    /// The variable holds something else.
    #[error("`record.url_env`: the variable `{0}` holds no URL of a PostgreSQL database")]
    Url(String),
    /// The folder cannot be written to.
    #[error("cannot record episodes in `{}`: {source}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The database's file cannot be made.
    #[error("cannot record episodes in `{}`: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system gives no thread.
    #[error("cannot record episodes: {0}")]
    Thread(std::io::Error),
}

impl Hint for RecordError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Destination => "files, a SQLite database, or a PostgreSQL database".into(),
            Self::Zero(_) => "leave it out for the default".into(),
            Self::Unset(_) => "export it, or set `record.folder` instead".into(),
            Self::Url(_) => "`postgres://USER:PASSWORD@HOST/DATABASE`".into(),
            Self::Folder { .. } => {
                "`record.folder` is a folder that the server may write to".into()
            }
            Self::File { .. } => "`record.sqlite` is a file that the server may write to".into(),
            Self::Thread(_) => "raise the limits on threads and memory of the server's user".into(),
        })
    }
}

/// Where records go.
pub(super) enum Destination<'a> {
    Folder(&'a PathBuf),
    Sqlite(&'a PathBuf),
    /// The name of the variable with its URL.
    Database(&'a str),
}

impl RecordConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// When no destination is set, or more than one, or a bound is 0.
    pub fn check(&self) -> Result<(), RecordError> {
        self.destination()?;
        let bounds = [
            ("max_bytes", self.max_bytes),
            ("max_files", self.max_files as u64),
            ("queue", self.queue as u64),
            ("queue_bytes", self.queue_bytes as u64),
        ];
        match bounds.into_iter().find(|(_, value)| *value == 0) {
            Some((key, _)) => Err(RecordError::Zero(key)),
            None => Ok(()),
        }
    }

    pub(super) fn destination(&self) -> Result<Destination<'_>, RecordError> {
        match (&self.folder, &self.sqlite, &self.url_env) {
            (Some(folder), None, None) => Ok(Destination::Folder(folder)),
            (None, Some(path), None) => Ok(Destination::Sqlite(path)),
            (None, None, Some(variable)) => Ok(Destination::Database(variable)),
            _ => Err(RecordError::Destination),
        }
    }

    /// Whether the key of this id, or a caller without one, may read the episodes of all callers.
    pub fn reads_all(&self, key: Option<&str>) -> bool {
        self.readers.iter().any(|reader| reader == ANYONE || Some(reader.as_str()) == key)
    }
}

/// The URL of a database that is in `variable`, as `urls` looks it up. No error shows it: there may
/// be a password in it.
pub(super) fn database_url(
    variable: &str,
    urls: &dyn Fn(&str) -> Option<SecretString>,
) -> Result<SecretString, RecordError> {
    let url = urls(variable).ok_or_else(|| RecordError::Unset(variable.to_owned()))?;
    connect_options(variable, &url)?;
    Ok(url)
}

/// How to reach the database of a URL, which is in `variable`.
pub(super) fn connect_options(
    variable: &str,
    url: &SecretString,
) -> Result<PgConnectOptions, RecordError> {
    let url = url.expose_secret();
    let is_ours = ["postgres://", "postgresql://"].iter().any(|start| url.starts_with(start));
    let options = is_ours.then(|| PgConnectOptions::from_str(url).ok()).flatten();
    options.ok_or_else(|| RecordError::Url(variable.to_owned()))
}
