//! Records finished episodes, to be examined or trained on: JSON Lines in a folder, or rows of a
//! table in SQLite or PostgreSQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::chat::ChatMessage;
use crate::engine::Sampling;
use crate::episode::Episode;

mod archive;
mod config;
mod database;
mod files;
#[cfg(test)]
mod tests;

pub use archive::{Archive, ArchiveError, Filter, ListedEpisode, Page};
pub use config::{RecordConfig, RecordError};

use config::Destination;
use database::{Database, DatabaseLocation};
use files::Files;

/// Records that are written together at most.
const BATCH: usize = 64;
/// To a batch of so many bytes, none is added: a database may be slow.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// One line, or the column `record` of a row: an episode and its request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The reply's id.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The id of the key that asked; none where no key was needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// The policy's name.
    pub policy: String,
    /// The large model's name.
    pub large_model: String,
    /// The question.
    pub question: String,
    /// Parts of the question that are no text, such as images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Value>,
    /// The message that asked, if it had more than the question's text, with nulls in place of the
    /// attachments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<ChatMessage>,
    /// Messages before the question; the whole conversation if it continued after the question.
    pub conversation: Vec<ChatMessage>,
    /// Whether the conversation continued after the question, as with the result of a tool.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_continued: bool,
    /// How the large model sampled: `temperature` and `seed`, where the request gave it any.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub large_model_sampling: Map<String, Value>,
    /// How the policy sampled.
    pub sampling: Sampling,
    /// The answer, how the episode ended, every turn, and the tokens with their log-probabilities.
    #[serde(flatten)]
    pub episode: Episode,
}

impl Record {
    /// Its approximate size in memory.
    fn bytes(&self) -> usize {
        const EACH: usize = 512;
        let messages = self.conversation.iter().chain(&self.message).map(|message| {
            let extra: usize = message.extra.values().map(value_bytes).sum();
            EACH + value_bytes(&message.content) + extra
        });
        let turns = self.episode.trajectory.turns.iter().map(|turn| {
            let reply = turn
                .observation
                .as_ref()
                .map_or(0, |seen| seen.reply.len() + seen.sent.as_ref().map_or(0, String::len));
            // Thoughts and prompts are part of the text as well.
            EACH + 2 * turn.text.len() + reply
        });
        let tokens = self.episode.trajectory.trace.ids.len() * 9;
        let texts = self.question.len() + self.episode.answer.len();
        let attachments: usize = self.attachments.iter().map(value_bytes).sum();
        EACH + texts + tokens + attachments + messages.sum::<usize>() + turns.sum::<usize>()
    }
}

fn value_bytes(value: &Value) -> usize {
    const EACH: usize = 80;
    EACH + match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(value_bytes).sum(),
        Value::Object(map) => {
            map.iter().map(|(key, value)| EACH + key.len() + value_bytes(value)).sum()
        }
        _ => 0,
    }
}

/// Counts of records by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Written.
    pub written: u64,
    /// Dropped: the queue was full, or the disk or database failed.
    pub dropped: u64,
}

/// What the recorder and its thread share.
#[derive(Debug, Default)]
struct RecorderState {
    written: AtomicU64,
    dropped: AtomicU64,
    /// The bytes of the records that wait.
    waiting: AtomicUsize,
    /// Set when no more records come; what cannot be written now is lost.
    is_ending: AtomicBool,
}

/// Where records go.
trait Sink {
    /// Writes records, and returns how many. Logs failures. May block for long.
    fn write(&mut self, records: &[Box<Record>]) -> usize;
}

/// Writes records on its own thread. Dropping it writes what waits, and joins the thread.
#[derive(Debug)]
pub struct Recorder {
    queue: Option<SyncSender<Box<Record>>>,
    queue_bytes: usize,
    shared: Arc<RecorderState>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Starts a file in the folder of `config`, creating the folder if needed, or connects to its
    /// database, whose URL `urls` looks up. A database may become available later: until then,
    /// records wait.
    ///
    /// # Errors
    /// When nothing can be written to the folder, or the URL is none.
    pub fn start(
        config: &RecordConfig,
        urls: &dyn Fn(&str) -> Option<SecretString>,
    ) -> Result<Self, RecordError> {
        match config.destination()? {
            Destination::Folder(folder) => {
                let failed = |source| RecordError::Folder { folder: folder.clone(), source };
                let files = Files::open(config, folder).map_err(failed)?;
                Self::spawn(config, |_| Ok(Box::new(files)))
            }
            Destination::Sqlite(path) => {
                let failed = |source| RecordError::File { path: path.clone(), source };
                let server = DatabaseLocation::sqlite(path).map_err(failed)?;
                Self::spawn(config, |shared| Ok(Box::new(Database::new(server, shared)?)))
            }
            Destination::Database(variable) => {
                let url = config::database_url(variable, urls)?;
                let server = DatabaseLocation::Postgres(config::connect_options(variable, &url)?);
                Self::spawn(config, |shared| Ok(Box::new(Database::new(server, shared)?)))
            }
        }
    }

    /// `make` is called on the new thread.
    fn spawn(
        config: &RecordConfig,
        make: impl FnOnce(Arc<RecorderState>) -> std::io::Result<Box<dyn Sink>> + Send + 'static,
    ) -> Result<Self, RecordError> {
        let (queue, waiting) = sync_channel::<Box<Record>>(config.queue.max(1));
        let shared = Arc::new(RecorderState::default());
        let counted = Arc::clone(&shared);
        let write_all = move || {
            let mut sink = match make(Arc::clone(&counted)) {
                Ok(sink) => sink,
                // The queue closes; records offered from now on are dropped and counted.
                Err(error) => return tracing::error!(%error, "episodes are not recorded"),
            };
            // Connects to the database before there is anything to write.
            sink.write(&[]);
            while let Ok(record) = waiting.recv() {
                let mut bytes = record.bytes();
                let mut records = vec![record];
                while records.len() < BATCH
                    && bytes < BATCH_BYTES
                    && let Ok(record) = waiting.try_recv()
                {
                    bytes += record.bytes();
                    records.push(record);
                }
                let written = sink.write(&records);
                counted.waiting.fetch_sub(bytes, Ordering::Relaxed);
                counted.written.fetch_add(written as u64, Ordering::Relaxed);
                let dropped = records.len() - written;
                counted.dropped.fetch_add(dropped as u64, Ordering::Relaxed);
            }
        };
        let thread = Builder::new().name("recorder".into()).spawn(write_all);
        let thread = thread.map_err(RecordError::Thread)?;
        let queue_bytes = config.queue_bytes;
        Ok(Self { queue: Some(queue), queue_bytes, shared, thread: Some(thread) })
    }

    /// Queues a record, or drops it if too many wait. Never blocks.
    pub fn offer(&self, record: Record) {
        let bytes = record.bytes();
        let waiting = self.shared.waiting.fetch_add(bytes, Ordering::Relaxed);
        // A record longer than the whole bound is accepted when nothing else waits.
        let fits = waiting == 0 || waiting + bytes <= self.queue_bytes;
        let queue = self.queue.as_ref().filter(|_| fits);
        let is_taken = queue.is_some_and(|queue| queue.try_send(Box::new(record)).is_ok());
        if !is_taken {
            self.shared.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What became of the records so far.
    pub fn counts(&self) -> RecordCounts {
        RecordCounts {
            written: self.shared.written.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, Ordering::SeqCst);
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // It may be waiting to retry.
            thread.thread().unpark();
            // A panic in it has been reported by itself.
            let _ = thread.join();
        }
    }
}
