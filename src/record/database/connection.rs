//! Connections to either database, which create the table if it is missing.

use std::fs::OpenOptions;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{Connection as _, PgConnection, SqliteConnection};

use super::{Rows, TIMEOUT, WriteError, with_timeout};

/// How long making the table and its indexes may take: those of an old table may be large.
const SCHEMA_TIMEOUT: Duration = Duration::from_secs(120);

/// `record` is the line that a file would have: the type `JSON` stores it verbatim, while `JSONB`
/// does not allow U+0000. Altering a table blocks its readers, so it is done only if the column
/// `caller` is missing.
const POSTGRES: [&str; 4] = [
    "CREATE TABLE IF NOT EXISTS prompt_r1_episodes (
        key UUID PRIMARY KEY, id TEXT NOT NULL, created_at TIMESTAMPTZ NOT NULL, caller TEXT,
        policy TEXT NOT NULL, large_model TEXT NOT NULL, finish_reason TEXT NOT NULL,
        record JSON NOT NULL)",
    "DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_attribute
                WHERE attrelid = 'prompt_r1_episodes'::regclass AND attname = 'caller') THEN
            ALTER TABLE prompt_r1_episodes ADD COLUMN caller TEXT;
        END IF;
    END $$",
    "CREATE INDEX IF NOT EXISTS prompt_r1_episodes_created_at ON prompt_r1_episodes (created_at)",
    "CREATE INDEX IF NOT EXISTS prompt_r1_episodes_caller
        ON prompt_r1_episodes (caller, created_at, key) WHERE caller IS NOT NULL",
];
const SQLITE: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS prompt_r1_episodes (
        key TEXT PRIMARY KEY, id TEXT NOT NULL, created_at INTEGER NOT NULL, caller TEXT,
        policy TEXT NOT NULL, large_model TEXT NOT NULL, finish_reason TEXT NOT NULL,
        record TEXT NOT NULL)",
    "CREATE INDEX IF NOT EXISTS prompt_r1_episodes_created_at
        ON prompt_r1_episodes (created_at, key)",
    "CREATE INDEX IF NOT EXISTS prompt_r1_episodes_caller
        ON prompt_r1_episodes (caller, created_at, key) WHERE caller IS NOT NULL",
];
/// The id of the advisory lock that replicas hold while they create the table. Any number that
/// nothing else uses.
const SCHEMA_LOCK: i64 = 0x7072_6f6d_7074_7232;

/// Each row is written at most once, even if the connection breaks before the acknowledgement.
const INSERT_MANY: &str = "
    INSERT INTO prompt_r1_episodes
        (key, id, created_at, caller, policy, large_model, finish_reason, record)
    SELECT key::uuid, id, to_timestamp(created), caller, policy, large_model, finish_reason,
        record::json
    FROM UNNEST($1::text[], $2::text[], $3::int8[], $4::text[], $5::text[], $6::text[],
        $7::text[], $8::text[])
        AS new (key, id, created, caller, policy, large_model, finish_reason, record)
    ON CONFLICT (key) DO NOTHING";
const INSERT_ONE: &str = "
    INSERT INTO prompt_r1_episodes
        (key, id, created_at, caller, policy, large_model, finish_reason, record)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (key) DO NOTHING";

/// Where a database is.
pub(in crate::record) enum DatabaseLocation {
    Postgres(PgConnectOptions),
    Sqlite(SqliteConnectOptions),
}

/// A connection to a database that has the table.
pub(super) enum Connection {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

impl DatabaseLocation {
    /// Opens SQLite in this file, created with permissions for its owner alone.
    pub(in crate::record) fn sqlite(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(path)?;
        // Readers do not block writers.
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(TIMEOUT);
        Ok(Self::Sqlite(options.journal_mode(SqliteJournalMode::Wal)))
    }

    pub(super) async fn connect(&self) -> Result<Connection, WriteError> {
        match self {
            Self::Postgres(options) => {
                let mut open = with_timeout(TIMEOUT, PgConnection::connect_with(options)).await?;
                with_timeout(SCHEMA_TIMEOUT, make(&mut open)).await?;
                Ok(Connection::Postgres(open))
            }
            Self::Sqlite(options) => {
                let mut open =
                    with_timeout(TIMEOUT, SqliteConnection::connect_with(options)).await?;
                for statement in SQLITE {
                    with_timeout(SCHEMA_TIMEOUT, sqlx::query(statement).execute(&mut open)).await?;
                }
                Ok(Connection::Sqlite(open))
            }
        }
    }
}

async fn make(connection: &mut PgConnection) -> sqlx::Result<()> {
    let mut making = connection.begin().await?;
    // When replicas start together, PostgreSQL fails if two create the same table at once.
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(SCHEMA_LOCK).execute(&mut *making).await?;
    for statement in POSTGRES {
        sqlx::query(statement).execute(&mut *making).await?;
    }
    making.commit().await
}

impl Connection {
    /// Writes these rows, or none of them.
    pub(super) async fn insert(&mut self, rows: &Rows, range: Range<usize>) -> sqlx::Result<()> {
        match self {
            Self::Postgres(open) => {
                sqlx::query(INSERT_MANY)
                    .bind(&rows.keys[range.clone()])
                    .bind(&rows.ids[range.clone()])
                    .bind(&rows.created[range.clone()])
                    .bind(&rows.callers[range.clone()])
                    .bind(&rows.policies[range.clone()])
                    .bind(&rows.large_models[range.clone()])
                    .bind(&rows.finish_reasons[range.clone()])
                    .bind(&rows.records[range])
                    .execute(open)
                    .await?;
            }
            Self::Sqlite(open) => {
                let mut writing = open.begin().await?;
                for at in range {
                    sqlx::query(INSERT_ONE)
                        .bind(&rows.keys[at])
                        .bind(&rows.ids[at])
                        .bind(rows.created[at])
                        .bind(&rows.callers[at])
                        .bind(&rows.policies[at])
                        .bind(&rows.large_models[at])
                        .bind(rows.finish_reasons[at])
                        .bind(&rows.records[at])
                        .execute(&mut *writing)
                        .await?;
                }
                writing.commit().await?;
            }
        }
        Ok(())
    }
}
