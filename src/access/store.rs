//! Where keys are kept: SQLite in a file, or PostgreSQL.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::any::{AnyPoolOptions, AnyRow, install_default_drivers};
use sqlx::{AnyPool, Row};

use super::{Key, NewKey};

use crate::hint::{Hint, Reason};

/// How long a statement may wait for a connection, and SQLite for another writer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a statement may take with these waits: a network may lose the answer.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(12);

/// One statement each; both databases take them as they are.
const SCHEMA: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS prompt_r1_keys (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, hash TEXT NOT NULL, created_at BIGINT NOT NULL,
        revoked_at BIGINT NOT NULL, limits TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS prompt_r1_spending (
        key_id TEXT NOT NULL, day BIGINT NOT NULL, micros BIGINT NOT NULL,
        PRIMARY KEY (key_id, day))",
];
/// The id of the advisory lock that replicas hold while they create the tables. Any number that
/// nothing else uses.
const SCHEMA_LOCK: i64 = 0x7072_6f6d_7074_7231;
/// `revoked_at` of a valid key.
const VALID: i64 = 0;

/// A store of keys that failed, or is configured wrongly.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The named environment variable is not set.
    #[error("the variable `{0}` is not set")]
    Unset(String),
    /// The URL has another scheme than expected.
    #[error("the variable `{variable}` holds no URL that begins with `{scheme}`")]
    Scheme {
        /// The variable.
        variable: String,
        /// What it should begin with.
        scheme: &'static str,
    },
    /// The database failed.
    #[error("the store of the keys failed: {0}")]
    Database(String),
    /// Redis cannot be used.
    #[error("the shared limits cannot be used: {0}")]
    Redis(Reason),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
    /// No such key.
    #[error("there is no key `{0}`")]
    NoKey(String),
    /// An entry of the store is invalid.
    #[error("the key `{id}` in the store is damaged: {reason}")]
    Damaged {
        /// The key.
        id: String,
        /// What is wrong.
        reason: String,
    },
}

impl Hint for StoreError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Unset(_) => "export it, or leave its key out of `[access]`".into(),
            Self::NoKey(_) => "`server keys list` shows all".into(),
            Self::Redis(reason) => return reason.hint(),
            Self::Scheme { scheme, .. } => format!("`{scheme}USER:PASSWORD@HOST/DATABASE`").into(),
            Self::Database(_) => {
                "`access.store`, or the URL in the variable of `access.store_url_env`, must name a database that the server can reach and write to"
                    .into()
            }
            Self::Random(_) => "try again later: a machine that has just started may have none yet".into(),
            Self::Damaged { .. } => {
                "correct `limits` in its row of `prompt_r1_keys`, or delete the row".into()
            }
        })
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // Errors of the configuration may show the URL, and with it the password.
        match error {
            sqlx::Error::Configuration(_) => Self::Database("its URL cannot be read".to_owned()),
            error => Self::Database(error.to_string()),
        }
    }
}

/// A store. Clones share its connections.
#[derive(Clone)]
pub struct Store {
    pool: AnyPool,
}

impl Store {
    /// SQLite in this file, which is made if it is not there.
    ///
    /// # Errors
    /// When the file cannot be made, opened or brought to this version.
    pub async fn embedded(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_str().ok_or_else(|| {
            StoreError::Database(format!("`{}` is not a UTF-8 path", path.display()))
        })?;
        let escaped = path.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
        Self::connect(&format!("sqlite://{escaped}?mode=rwc").into()).await
    }

    /// The database at this URL.
    ///
    /// # Errors
    /// When the URL is none, or the database cannot be reached.
    pub async fn connect(url: &SecretString) -> Result<Self, StoreError> {
        install_default_drivers();
        let url = url.expose_secret();
        // SQLite has one writer at a time.
        let is_sqlite = url.starts_with("sqlite:");
        let connections = if is_sqlite { 1 } else { 8 };
        let options = AnyPoolOptions::new().max_connections(connections).acquire_timeout(TIMEOUT);
        let pool = options.connect(url).await?;
        let mut making = pool.begin().await?;
        if !is_sqlite {
            // When replicas start together, PostgreSQL fails if two create the same table at once.
            let alone = format!("SELECT 1 FROM pg_advisory_xact_lock({SCHEMA_LOCK})");
            sqlx::query(&alone).execute(&mut *making).await?;
        }
        for statement in SCHEMA {
            sqlx::query(statement).execute(&mut *making).await?;
        }
        making.commit().await?;
        Ok(Self { pool })
    }

    /// Whether there is, or ever was, a key.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn has_keys(&self) -> Result<bool, StoreError> {
        let found = sqlx::query("SELECT id FROM prompt_r1_keys LIMIT 1");
        Ok(with_timeout(found.fetch_optional(&self.pool)).await?.is_some())
    }

    /// Stores a key.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn create(&self, new: &NewKey) -> Result<(), StoreError> {
        let key = &new.key;
        let limits = serde_json::to_string(&key.limits)
            .map_err(|error| StoreError::Database(error.to_string()))?;
        sqlx::query("INSERT INTO prompt_r1_keys VALUES ($1, $2, $3, $4, $5, $6)")
            .bind(&key.id)
            .bind(&key.name)
            .bind(&key.hash)
            .bind(key.created_at)
            .bind(VALID)
            .bind(limits)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// All keys, the oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn list(&self) -> Result<Vec<Key>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, name, hash, created_at, revoked_at, limits FROM prompt_r1_keys
             ORDER BY created_at, id",
        );
        rows.fetch_all(&self.pool).await?.iter().map(read).collect()
    }

    /// The key of this id.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn find(&self, id: &str) -> Result<Option<Key>, StoreError> {
        let row = sqlx::query(
            "SELECT id, name, hash, created_at, revoked_at, limits FROM prompt_r1_keys
             WHERE id = $1",
        );
        let row = with_timeout(row.bind(id).fetch_optional(&self.pool)).await?;
        row.as_ref().map(read).transpose()
    }

    /// Makes a key invalid for good.
    ///
    /// # Errors
    /// When there is no such key, or the store cannot be written.
    pub async fn revoke(&self, id: &str, now: i64) -> Result<(), StoreError> {
        let done = sqlx::query("UPDATE prompt_r1_keys SET revoked_at = $1 WHERE id = $2")
            .bind(now.max(VALID + 1))
            .bind(id)
            .execute(&self.pool)
            .await?;
        match done.rows_affected() {
            0 => Err(StoreError::NoKey(id.to_owned())),
            _ => Ok(()),
        }
    }

    /// What a key has spent on a day (days since 1970), millionths.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn spent(&self, id: &str, day: i64) -> Result<i64, StoreError> {
        let row =
            sqlx::query("SELECT micros FROM prompt_r1_spending WHERE key_id = $1 AND day = $2");
        let row = with_timeout(row.bind(id).bind(day).fetch_optional(&self.pool)).await?;
        Ok(row.map_or(Ok(0), |row| row.try_get(0))?)
    }

    /// Adds to what a key has spent on a day, millionths.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn spend(&self, id: &str, day: i64, micros: i64) -> Result<(), StoreError> {
        let adding = sqlx::query(
            "INSERT INTO prompt_r1_spending VALUES ($1, $2, $3) ON CONFLICT (key_id, day)
             DO UPDATE SET micros = prompt_r1_spending.micros + excluded.micros",
        );
        with_timeout(adding.bind(id).bind(day).bind(micros).execute(&self.pool)).await.map(|_| ())
    }
}

/// What a statement of a request returns, if it does in time.
async fn with_timeout<T>(
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(STATEMENT_TIMEOUT, statement).await {
        Ok(answered) => Ok(answered?),
        Err(_) => Err(StoreError::Database("it does not answer".to_owned())),
    }
}

fn read(row: &AnyRow) -> Result<Key, StoreError> {
    let id: String = row.try_get(0)?;
    let limits: String = row.try_get(5)?;
    let limits = serde_json::from_str(&limits)
        .map_err(|error| StoreError::Damaged { id: id.clone(), reason: error.to_string() })?;
    let revoked_at: i64 = row.try_get(4)?;
    Ok(Key {
        id,
        name: row.try_get(1)?,
        hash: row.try_get(2)?,
        created_at: row.try_get(3)?,
        revoked_at: (revoked_at != VALID).then_some(revoked_at),
        limits,
    })
}
