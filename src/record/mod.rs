//! Episodes written down as they end, to be looked at or trained on: JSON Lines in a folder.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{Builder, JoinHandle};

use serde::{Deserialize, Serialize};

use crate::chat::ChatMessage;
use crate::engine::Sampling;
use crate::episode::Episode;

mod files;
#[cfg(test)]
mod tests;

use files::Files;

/// What is written down, and where: the table `[record]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordConfig {
    /// The folder of the files. They hold what callers asked and were told.
    pub folder: PathBuf,
    /// Bytes after which a file is closed and the next begun. Default: 104857600 (100 MiB).
    #[serde(default = "default_max_bytes")]
    pub max_bytes: u64,
    /// Files that are kept, the one in use included. Default: 10.
    #[serde(default = "default_max_files")]
    pub max_files: usize,
    /// Episodes that may wait to be written; further ones are dropped, and counted. Default: 1024.
    #[serde(default = "default_queue")]
    pub queue: usize,
}

fn default_max_bytes() -> u64 {
    100 * 1024 * 1024
}

fn default_max_files() -> usize {
    10
}

fn default_queue() -> usize {
    1024
}

/// One line: an episode, and what it was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The reply's id.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The policy's name.
    pub policy: String,
    /// The large model's name.
    pub large_model: String,
    /// The question.
    pub question: String,
    /// Messages before the question.
    pub conversation: Vec<ChatMessage>,
    /// How the policy sampled.
    pub sampling: Sampling,
    /// The answer, how the episode ended, every turn, and the tokens with their log-probabilities.
    #[serde(flatten)]
    pub episode: Episode,
}

/// How many records became what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Written.
    pub written: u64,
    /// Dropped: the queue was full, or the disk.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Counters {
    written: AtomicU64,
    dropped: AtomicU64,
}

/// Writes records on a thread of its own. Dropping it writes what waits, and ends the thread.
#[derive(Debug)]
pub struct Recorder {
    queue: Option<SyncSender<Box<Record>>>,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Begins a file in the folder of `config`, which is made if it is not there.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub fn start(config: &RecordConfig) -> std::io::Result<Self> {
        let mut files = Files::open(config)?;
        let (queue, waiting) = sync_channel::<Box<Record>>(config.queue.max(1));
        let counters = Arc::new(Counters::default());
        let counted = Arc::clone(&counters);
        let thread = Builder::new().name("recorder".into()).spawn(move || {
            while let Ok(record) = waiting.recv() {
                // Whatever waits by now goes to the disk together.
                let mut outcomes = vec![files.write(&record)];
                outcomes.extend(waiting.try_iter().take(256).map(|record| files.write(&record)));
                let flushed = files.flush();
                for outcome in outcomes {
                    match (outcome, &flushed) {
                        (Ok(()), Ok(())) => counted.written.fetch_add(1, Ordering::Relaxed),
                        (Err(error), _) => {
                            tracing::error!(%error, "cannot write an episode down");
                            counted.dropped.fetch_add(1, Ordering::Relaxed)
                        }
                        (_, Err(error)) => {
                            tracing::error!(%error, "cannot write an episode down");
                            counted.dropped.fetch_add(1, Ordering::Relaxed)
                        }
                    };
                }
            }
        })?;
        Ok(Self { queue: Some(queue), counters, thread: Some(thread) })
    }

    /// Takes a record, or drops it where too many wait. Never waits.
    pub fn offer(&self, record: Record) {
        let sent = self.queue.as_ref().map(|queue| queue.try_send(Box::new(record)));
        match sent {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => {
                self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// What became of the records so far.
    pub fn counts(&self) -> RecordCounts {
        RecordCounts {
            written: self.counters.written.load(Ordering::Relaxed),
            dropped: self.counters.dropped.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported by itself.
            let _ = thread.join();
        }
    }
}
