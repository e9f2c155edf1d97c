//! Reads recorded episodes in pages, newest first. The cost of a page is bounded, so a page may end
//! before it is full; its cursor continues from there.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde::Deserialize;
use serde::de::IgnoredAny;

mod database;
mod files;

use database::DatabaseArchive;
use files::Position;

use super::config::{self, Destination};
use super::{Record, RecordConfig, RecordError};
use crate::compute::{self, ComputeError, StopSignal};
use crate::episode::{EpisodeUsage, FinishReason};

/// Bytes of episodes that are read for one page.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Episodes that are examined for one page.
const MAX_EPISODES: usize = 2000;
/// The longest search for the episodes of one page.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a store may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why recorded episodes cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// The cursor does not belong to this archive.
    #[error("the cursor is not valid")]
    Cursor,
    /// The folder or the database fails.
    #[error("the recorded episodes cannot be read: {0}")]
    Store(String),
    /// Too many readers at once, or it takes too long.
    #[error(transparent)]
    Compute(#[from] ComputeError),
}

/// A filter on episodes. `None` matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The id of the key that asked.
    pub caller: Option<String>,
    /// The policy's name.
    pub policy: Option<String>,
    /// The large model's name.
    pub large_model: Option<String>,
    /// Why the episode ended.
    pub finish_reason: Option<FinishReason>,
    /// Seconds since 1970 at or after which it ended.
    pub since: Option<u64>,
    /// Seconds since 1970 before which it ended.
    pub until: Option<u64>,
    /// What its question or answer contains, ignoring case.
    pub text: Option<String>,
}

impl Filter {
    fn matches(&self, episode: &ListedEpisode) -> bool {
        let is = |wanted: &Option<String>, value: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted == value)
        };
        let is_callers =
            self.caller.as_ref().is_none_or(|caller| episode.caller.as_ref() == Some(caller));
        is_callers
            && is(&self.policy, &episode.policy)
            && is(&self.large_model, &episode.large_model)
            && self.finish_reason.is_none_or(|reason| reason == episode.finish_reason)
            && self.since.is_none_or(|since| episode.created >= since)
            && self.until.is_none_or(|until| episode.created < until)
            && self.text.as_ref().is_none_or(|text| {
                let text = text.to_lowercase();
                [&episode.question, &episode.answer]
                    .into_iter()
                    .any(|part| part.to_lowercase().contains(&text))
            })
    }
}

/// An episode in a list.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ListedEpisode {
    /// The reply's id.
    #[serde(rename = "id")]
    pub reply_id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The id of the key that asked.
    pub caller: Option<String>,
    /// The policy's name.
    pub policy: String,
    /// The large model's name.
    pub large_model: String,
    /// The question.
    pub question: String,
    /// The answer.
    pub answer: String,
    /// Why the episode ended.
    pub finish_reason: FinishReason,
    /// What both models used.
    pub usage: EpisodeUsage,
    trajectory: Turns,
}

/// Turns that are only counted.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Turns {
    turns: Vec<IgnoredAny>,
}

impl ListedEpisode {
    /// How many turns it took.
    pub fn turns(&self) -> usize {
        self.trajectory.turns.len()
    }
}

/// A page of episodes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// Where each is in the archive, and what it is; the newest first.
    pub episodes: Vec<(String, ListedEpisode)>,
    /// Where the next page begins; `None` where no episode is left.
    pub next: Option<String>,
}

/// The entries found for a page so far, and the cost.
struct Search {
    filter: Filter,
    limit: usize,
    until: Instant,
    found: Vec<(String, ListedEpisode)>,
    bytes: usize,
    episodes: usize,
}

impl Search {
    fn new(filter: Filter, limit: usize) -> Self {
        let until = Instant::now() + SEARCH_TIMEOUT;
        Self { filter, limit, until, found: Vec::new(), bytes: 0, episodes: 0 }
    }

    /// Examines an episode; `None` is one that the store has excluded already.
    fn examine(&mut self, id: impl FnOnce() -> String, record: Option<&[u8]>) {
        self.episodes += 1;
        let Some(record) = record else { return };
        self.bytes += record.len();
        // Lines that are no record are skipped, as trainers do.
        let Ok(episode) = serde_json::from_slice::<ListedEpisode>(record) else { return };
        if self.filter.matches(&episode) {
            self.found.push((id(), episode));
        }
    }

    /// Whether the page is full, or its cost bound is reached.
    fn is_over(&self) -> bool {
        self.found.len() >= self.limit
            || self.bytes >= MAX_BYTES
            || self.episodes >= MAX_EPISODES
            || Instant::now() >= self.until
    }

    fn page(self, next: Option<String>) -> Page {
        Page { episodes: self.found, next }
    }
}

/// The episodes that a recorder wrote.
pub struct Archive {
    store: Store,
}

enum Store {
    Folder(PathBuf),
    Database(DatabaseArchive),
}

impl Archive {
    /// Opens the records of a recorder with this configuration. A database may become available
    /// later.
    ///
    /// # Errors
    /// When the configuration names no place, or its URL is invalid.
    pub fn open(
        config: &RecordConfig,
        urls: &dyn Fn(&str) -> Option<SecretString>,
    ) -> Result<Self, RecordError> {
        let store = match config.destination()? {
            Destination::Folder(folder) => Store::Folder(folder.clone()),
            Destination::Database(variable) => {
                Store::Database(DatabaseArchive::postgres(&config::database_url(variable, urls)?))
            }
            Destination::Sqlite(path) => Store::Database(DatabaseArchive::sqlite(path)),
        };
        Ok(Self { store })
    }

    /// The page that begins at `cursor`, or the first, with at most `limit` episodes. A page may
    /// hold fewer, or none, before the end: the last page is the one without a cursor.
    ///
    /// # Errors
    /// When the cursor is none, the store fails, or too many look at the same time.
    pub async fn list(
        &self,
        filter: Filter,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page, ArchiveError> {
        let search = Search::new(filter, limit);
        match &self.store {
            Store::Folder(folder) => {
                let from = match cursor {
                    Some(cursor) => Some(Position::read(cursor).ok_or(ArchiveError::Cursor)?),
                    None => None,
                };
                let folder = folder.clone();
                let listed = move |_: &StopSignal| files::list(&folder, search, from);
                compute::run(Instant::now() + TIMEOUT, listed).await?.map_err(unreadable)
            }
            Store::Database(rows) => rows.list(search, cursor).await,
        }
    }

    /// The episode of this id in a list. With a `caller`, only where its key asked.
    ///
    /// # Errors
    /// When the store fails, or too many look at the same time.
    pub async fn get(
        &self,
        id: &str,
        caller: Option<&str>,
    ) -> Result<Option<Record>, ArchiveError> {
        let deadline = Instant::now() + TIMEOUT;
        let parse = |line: Vec<u8>| serde_json::from_slice::<Record>(&line).ok();
        let record = match &self.store {
            Store::Folder(folder) => {
                let Some(position) = Position::read(id) else { return Ok(None) };
                let folder = folder.clone();
                let read = move |_: &StopSignal| files::line(&folder, position);
                let line = compute::run(deadline, read).await?.map_err(unreadable)?;
                match line {
                    Some(line) => {
                        compute::run_on(line.len(), deadline, move || parse(line)).await?
                    }
                    None => None,
                }
            }
            Store::Database(rows) => match rows.get(id).await? {
                Some(row) => {
                    compute::run_on(row.len(), deadline, move || parse(row.into_bytes())).await?
                }
                None => None,
            },
        };
        let is_callers =
            |record: &Record| caller.is_none_or(|id| record.caller.as_deref() == Some(id));
        Ok(record.filter(is_callers))
    }
}

fn unreadable(error: std::io::Error) -> ArchiveError {
    ArchiveError::Store(error.to_string())
}
