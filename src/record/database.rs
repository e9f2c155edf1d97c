//! Rows of a PostgreSQL table. While the database cannot be reached, records wait: they are written
//! once it is back, and those that find the queue full are dropped.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

use super::{Record, RecorderState, Sink};

/// How long connecting and writing may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// `record` is the line that a file would have: the type `JSON` keeps it letter by letter, while
/// `JSONB` has no room for U+0000.
const SCHEMA: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS prompt_r1_episodes (
        key UUID PRIMARY KEY, id TEXT NOT NULL, created_at TIMESTAMPTZ NOT NULL,
        policy TEXT NOT NULL, large_model TEXT NOT NULL, finish_reason TEXT NOT NULL,
        record JSON NOT NULL)",
    "CREATE INDEX IF NOT EXISTS prompt_r1_episodes_created_at ON prompt_r1_episodes (created_at)",
];
/// What replicas lock while they make the table: any number that nobody else uses.
const SCHEMA_LOCK: i64 = 0x7072_6f6d_7074_7232;

/// Rows are written at most once, though the connection may break before that is acknowledged.
const INSERT: &str = "
    INSERT INTO prompt_r1_episodes
        (key, id, created_at, policy, large_model, finish_reason, record)
    SELECT key::uuid, id, to_timestamp(created), policy, large_model, finish_reason, record::json
    FROM UNNEST($1::text[], $2::text[], $3::float8[], $4::text[], $5::text[], $6::text[],
        $7::text[]) AS new (key, id, created, policy, large_model, finish_reason, record)
    ON CONFLICT (key) DO NOTHING";

/// A connection that is made when it is needed.
pub(super) struct Database {
    options: PgConnectOptions,
    /// Of this thread alone: requests and records do not wait for each other.
    runtime: Runtime,
    connection: Option<PgConnection>,
    /// Whether the last try failed, which was logged.
    is_down: bool,
    shared: Arc<RecorderState>,
}

/// What became of rows.
#[derive(PartialEq, Eq)]
enum WriteOutcome {
    Written,
    /// The database is there, and does not take one of them.
    Refused,
    /// It is not there, and there is no time to wait for it.
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
        let is_refused = code.is_some_and(|code| code.starts_with("22") || code.starts_with("23"));
        match error {
            _ if is_refused => Self::Refused(error.to_string()),
            // It may show the URL, and with it the password.
            sqlx::Error::Configuration(_) => Self::Down("its URL cannot be used".to_owned()),
            error => Self::Down(error.to_string()),
        }
    }
}

impl Database {
    pub(super) fn new(options: PgConnectOptions, shared: Arc<RecorderState>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self { options, runtime, connection: None, is_down: false, shared })
    }

    /// Writes these rows, trying for as long as the database is away and the server runs.
    fn insert(&mut self, rows: &Rows, range: Range<usize>) -> WriteOutcome {
        loop {
            let is_ending = self.shared.is_ending.load(Ordering::SeqCst);
            if is_ending && self.is_down {
                return WriteOutcome::GivenUp;
            }
            match self.attempt(rows, range.clone()) {
                Ok(()) => {
                    if std::mem::take(&mut self.is_down) {
                        tracing::info!("episodes are written down again");
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
                        tracing::error!(reason, "cannot write episodes down; they wait");
                    }
                }
            }
            if !is_ending {
                std::thread::park_timeout(PAUSE);
            }
        }
    }

    fn attempt(&mut self, rows: &Rows, range: Range<usize>) -> Result<(), WriteError> {
        let Self { options, runtime, connection, .. } = self;
        let attempt = async {
            let open = match connection {
                Some(open) => open,
                None => connection.insert(connect(options).await?),
            };
            rows.insert(range, open).await
        };
        let done = runtime.block_on(async { tokio::time::timeout(TIMEOUT, attempt).await });
        let done = match done {
            Ok(done) => done.map_err(WriteError::from),
            Err(_) => Err(WriteError::Down(format!("no answer within {} s", TIMEOUT.as_secs()))),
        };
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
            // One that is refused takes no other with it.
            WriteOutcome::Refused if count > 1 => (0..count)
                .filter(|&at| self.insert(&rows, at..at + 1) == WriteOutcome::Written)
                .count(),
            WriteOutcome::Refused | WriteOutcome::GivenUp => 0,
        }
    }
}

/// A connection to a database that has the table.
async fn connect(options: &PgConnectOptions) -> sqlx::Result<PgConnection> {
    let mut connection = PgConnection::connect_with(options).await?;
    let mut making = connection.begin().await?;
    // Replicas that start together: PostgreSQL fails where two make the same table at once.
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(SCHEMA_LOCK).execute(&mut *making).await?;
    for statement in SCHEMA {
        sqlx::query(statement).execute(&mut *making).await?;
    }
    making.commit().await?;
    Ok(connection)
}

/// Rows to be written, by column.
#[derive(Default)]
struct Rows {
    keys: Vec<String>,
    ids: Vec<String>,
    created: Vec<f64>,
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
                    tracing::error!(%error, "cannot write an episode down");
                    continue;
                }
            };
            // The reply's id will not do: a reply may hold the answers of several episodes.
            rows.keys.push(Uuid::now_v7().to_string());
            rows.ids.push(record.id.clone());
            rows.created.push(record.created as f64);
            rows.policies.push(record.policy.clone());
            rows.large_models.push(record.large_model.clone());
            rows.finish_reasons.push(record.episode.finish_reason.as_str());
            rows.records.push(line);
        }
        rows
    }

    async fn insert(&self, range: Range<usize>, to: &mut PgConnection) -> sqlx::Result<()> {
        sqlx::query(INSERT)
            .bind(&self.keys[range.clone()])
            .bind(&self.ids[range.clone()])
            .bind(&self.created[range.clone()])
            .bind(&self.policies[range.clone()])
            .bind(&self.large_models[range.clone()])
            .bind(&self.finish_reasons[range.clone()])
            .bind(&self.records[range])
            .execute(to)
            .await?;
        Ok(())
    }
}
