//! Rows of a table in SQLite or PostgreSQL. While the database is unreachable, records wait in the
//! queue and are written once it is back; records that find the queue full are dropped.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

mod connection;

pub(super) use connection::DatabaseLocation;

use super::{Record, RecorderState, Sink};
use connection::Connection;

/// How long writing may take, beside its bytes.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The slowest that bytes are written: so many a second.
const SLOWEST: usize = 1024 * 1024;
/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// A connection that is made on demand.
pub(super) struct Database {
    server: DatabaseLocation,
    /// A runtime of this thread alone, so that requests and records do not block each other.
    runtime: Runtime,
    connection: Option<Connection>,
    /// Whether the last attempt failed, which was logged.
    is_down: bool,
    shared: Arc<RecorderState>,
}

/// The outcome of a write.
#[derive(PartialEq, Eq)]
enum WriteOutcome {
    Written,
    /// The database rejected one of the rows.
    Refused,
    /// The database is unreachable, and there is no time to wait for it.
    GivenUp,
}

/// Why rows were not written.
enum WriteError {
    Refused(String),
    Down(String),
}

impl From<sqlx::Error> for WriteError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code());
        // Classes of SQLSTATE: data exceptions, and violated constraints.
        let is_refused = code.is_some_and(|code| {
            code.len() == 5 && (code.starts_with("22") || code.starts_with("23"))
        });
        match error {
            _ if is_refused => Self::Refused(error.to_string()),
            // It may show the URL, and with it the password.
            sqlx::Error::Configuration(_) => Self::Down("its URL cannot be used".to_owned()),
            error => Self::Down(error.to_string()),
        }
    }
}

impl Database {
    pub(super) fn new(server: DatabaseLocation, shared: Arc<RecorderState>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self { server, runtime, connection: None, is_down: false, shared })
    }

    /// Writes these rows, retrying while the database is unreachable and the server runs.
    fn insert(&mut self, rows: &Rows, range: Range<usize>) -> WriteOutcome {
        loop {
            let is_ending = self.shared.is_ending.load(Ordering::SeqCst);
            if is_ending && self.is_down {
                return WriteOutcome::GivenUp;
            }
            match self.attempt(rows, range.clone()) {
                Ok(()) => {
                    if std::mem::take(&mut self.is_down) {
                        tracing::info!("episodes are recorded again");
                    }
                    return WriteOutcome::Written;
                }
                Err(WriteError::Refused(reason)) => {
                    if range.len() == 1 {
                        tracing::error!(reason, "the database does not take an episode");
                    }
                    return WriteOutcome::Refused;
                }
                Err(WriteError::Down(reason)) => {
                    if !std::mem::replace(&mut self.is_down, true) {
                        tracing::error!(reason, "cannot record episodes; they wait");
                    }
                }
            }
            if !is_ending {
                std::thread::park_timeout(PAUSE);
            }
        }
    }

    fn attempt(&mut self, rows: &Rows, range: Range<usize>) -> Result<(), WriteError> {
        let bytes: usize = rows.records[range.clone()].iter().map(String::len).sum();
        let limit = TIMEOUT + Duration::from_secs((bytes / SLOWEST) as u64);
        let Self { server, runtime, connection, .. } = self;
        let done = runtime.block_on(async {
            let open = match connection {
                Some(open) => open,
                None => connection.insert(server.connect().await?),
            };
            with_timeout(limit, open.insert(rows, range)).await
        });
        if done.is_err() {
            self.connection = None;
        }
        done
    }
}

impl Sink for Database {
    fn write(&mut self, records: &[Box<Record>]) -> usize {
        let rows = Rows::new(records);
        let count = rows.keys.len();
        match self.insert(&rows, 0..count) {
            WriteOutcome::Written => count,
            // A rejected row does not take others with it.
            WriteOutcome::Refused if count > 1 => (0..count)
                .filter(|&at| self.insert(&rows, at..at + 1) == WriteOutcome::Written)
                .count(),
            WriteOutcome::Refused | WriteOutcome::GivenUp => 0,
        }
    }
}

/// The result of `work`, unless it takes too long.
async fn with_timeout<T>(
    limit: Duration,
    work: impl Future<Output = sqlx::Result<T>>,
) -> Result<T, WriteError> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => done.map_err(WriteError::from),
        Err(_) => Err(WriteError::Down(format!("no answer within {} s", limit.as_secs()))),
    }
}

/// Rows to be written, by column.
#[derive(Default)]
struct Rows {
    keys: Vec<String>,
    ids: Vec<String>,
    created: Vec<i64>,
    callers: Vec<Option<String>>,
    policies: Vec<String>,
    large_models: Vec<String>,
    finish_reasons: Vec<&'static str>,
    records: Vec<String>,
}

impl Rows {
    fn new(records: &[Box<Record>]) -> Self {
        let mut rows = Self::default();
        for record in records {
            let line = match serde_json::to_string(record) {
                Ok(line) => line,
                Err(error) => {
                    tracing::error!(%error, "cannot record an episode");
                    continue;
                }
            };
            // The reply's id is not unique: a reply may contain answers of several episodes.
            rows.keys.push(Uuid::now_v7().to_string());
            rows.ids.push(record.id.clone());
            rows.created.push(record.created.cast_signed());
            rows.callers.push(record.caller.clone());
            rows.policies.push(record.policy.clone());
            rows.large_models.push(record.large_model.clone());
            rows.finish_reasons.push(record.episode.finish_reason.as_str());
            rows.records.push(line);
        }
        rows
    }
}
