//! Rows of a database, a few at a time.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions, AnyRow, install_default_drivers};
use sqlx::{AnyPool, Row};
use uuid::Uuid;

use super::{ArchiveError, Filter, MAX_BYTES, Page, Search, TIMEOUT};
use crate::compute;

/// The most rows that are examined at once.
const CHUNK: usize = 64;
/// A time, in seconds since 1970, after every episode.
const NEVER: i64 = 253_402_300_799;

/// The rows of one database.
pub(super) struct DatabaseArchive {
    pool: Result<AnyPool, String>,
    dialect: &'static Dialect,
}

/// SQL that differs between the two databases.
struct Dialect {
    key: &'static str,
    created: &'static str,
    record: &'static str,
    /// Of a number of seconds.
    time: fn(&str) -> String,
    /// Of a parameter that is a key.
    as_key: fn(&str) -> String,
    session: &'static [&'static str],
}

const POSTGRES: Dialect = Dialect {
    key: "key::text",
    created: "CAST(floor(extract(epoch FROM created_at)) AS BIGINT)",
    record: "record::text",
    time: |seconds| format!("to_timestamp({seconds})"),
    as_key: |key| format!("CAST({key} AS UUID)"),
    session: &["SET statement_timeout = '5s'", "SET default_transaction_read_only = on"],
};

const SQLITE: Dialect = Dialect {
    key: "key",
    created: "created_at",
    record: "record",
    time: str::to_owned,
    as_key: str::to_owned,
    session: &["PRAGMA query_only = 1"],
};

/// Where a page ends: the row of its last episode, in the order of time.
#[derive(Debug, Clone)]
struct Cursor {
    created: i64,
    key: String,
}

impl Cursor {
    fn read(name: &str) -> Option<Self> {
        let (created, key) = name.split_once('.')?;
        let key = Uuid::try_parse(key).ok()?.to_string();
        let created = created.parse().ok().filter(|created| (0..=NEVER).contains(created))?;
        Some(Self { created, key })
    }

    /// The condition for rows older than `created`.
    fn before(created: i64) -> Self {
        Self { created, key: Uuid::nil().to_string() }
    }

    fn name(&self) -> String {
        format!("{}.{}", self.created, self.key)
    }
}

impl DatabaseArchive {
    pub(super) fn postgres(url: &SecretString) -> Self {
        Self::new(url.expose_secret(), &POSTGRES)
    }

    pub(super) fn sqlite(path: &Path) -> Self {
        let path = path.to_string_lossy();
        let escaped = path.replace('%', "%25").replace('?', "%3F").replace('#', "%23");
        Self::new(&format!("sqlite://{escaped}?mode=rw"), &SQLITE)
    }

    /// Connects on first use.
    fn new(url: &str, dialect: &'static Dialect) -> Self {
        install_default_drivers();
        let options = AnyPoolOptions::new().max_connections(2).acquire_timeout(TIMEOUT);
        let options = options.after_connect(move |connection, _| {
            Box::pin(async move {
                for statement in dialect.session {
                    sqlx::query(statement).execute(&mut *connection).await?;
                }
                Ok(())
            })
        });
        let connect = url.parse::<AnyConnectOptions>().map(|to| options.connect_lazy_with(to));
        // The error may show the URL, and with it the password.
        let pool = connect.map_err(|_| "its URL cannot be used".to_owned());
        Self { pool, dialect }
    }

    pub(super) async fn list(
        &self,
        mut search: Search,
        cursor: Option<&str>,
    ) -> Result<Page, ArchiveError> {
        // PostgreSQL does not accept this character, and no name contains it.
        let names = [&search.filter.policy, &search.filter.large_model];
        if names.into_iter().flatten().any(|name| name.contains('\0')) {
            return Ok(Page::default());
        }
        let mut last = match cursor {
            Some(cursor) => Some(Cursor::read(cursor).ok_or(ArchiveError::Cursor)?),
            None => None,
        };
        loop {
            let (rows, is_end) = self.before(&search, last.as_ref()).await?;
            let bytes = rows.iter().filter_map(|(_, record)| Some(record.as_ref()?.len())).sum();
            let examine = move || {
                for (cursor, record) in rows {
                    search.examine(|| cursor.key.clone(), record.as_deref().map(str::as_bytes));
                    last = Some(cursor);
                    if search.is_over() {
                        return (search, last, true);
                    }
                }
                (search, last, false)
            };
            let is_over;
            (search, last, is_over) =
                compute::run_on(bytes, std::time::Instant::now() + TIMEOUT, examine).await?;
            if is_over || is_end {
                let next = last.filter(|_| is_over).map(|cursor| cursor.name());
                return Ok(search.page(next));
            }
        }
    }

    /// The next rows, the newest first, as far as the page may read them, at least one; without the
    /// record where the columns rule it out. Also returns whether there are no more.
    async fn before(
        &self,
        search: &Search,
        last: Option<&Cursor>,
    ) -> Result<(Vec<(Cursor, Option<String>)>, bool), ArchiveError> {
        let filter = &search.filter;
        let mut end = Cursor::before(filter.until.map_or(NEVER, second));
        if let Some(last) = last.filter(|last| last.created < end.created) {
            end = last.clone();
        }
        // Their sizes first: all of them together may be more than fits into memory.
        let size = format!("CAST(octet_length({}) AS BIGINT)", self.dialect.record);
        let rows = self.select(&size, filter, &end, CHUNK).await?;
        let sizes = rows.iter().map(|row| row.try_get::<Option<i64>, _>(2));
        let sizes = sizes.collect::<sqlx::Result<Vec<_>>>().map_err(failed)?;
        let sizes = sizes.into_iter().map(|size| size.map_or(0, |size| size as usize));
        let fitting = fitting(sizes, MAX_BYTES.saturating_sub(search.bytes));
        let is_end = rows.len() < CHUNK && fitting == rows.len();
        if fitting == 0 {
            return Ok((Vec::new(), is_end));
        }
        let rows = self.select(self.dialect.record, filter, &end, fitting).await?;
        let read = |row: &AnyRow| Ok((cursor(row)?, row.try_get(2)?));
        let rows = rows.iter().map(read).collect::<sqlx::Result<_>>().map_err(failed)?;
        Ok((rows, is_end))
    }

    /// The cursors of the next rows before `end`, each with `value` unless the columns rule it out.
    async fn select(
        &self,
        value: &str,
        filter: &Filter,
        end: &Cursor,
        limit: usize,
    ) -> Result<Vec<AnyRow>, ArchiveError> {
        let Dialect { key, created, time, as_key, .. } = self.dialect;
        let callers = if filter.caller.is_some() { "AND caller = $7" } else { "" };
        let statement = format!(
            "SELECT {key}, {created}, CASE
                 WHEN policy = COALESCE(CAST($4 AS TEXT), policy)
                     AND large_model = COALESCE(CAST($5 AS TEXT), large_model)
                     AND finish_reason = COALESCE(CAST($6 AS TEXT), finish_reason)
                 THEN {value} END
             FROM prompt_r1_episodes
             WHERE (created_at, key) < ({}, {}) AND created_at >= {} {callers}
             ORDER BY created_at DESC, key DESC LIMIT {limit}",
            time("$1"),
            as_key("$2"),
            time("$3"),
        );
        let mut query = sqlx::query(&statement)
            .bind(end.created)
            .bind(end.key.clone())
            .bind(filter.since.map_or(0, second))
            .bind(filter.policy.clone())
            .bind(filter.large_model.clone())
            .bind(filter.finish_reason.map(|reason| reason.as_str().to_owned()));
        if let Some(caller) = &filter.caller {
            query = query.bind(caller.clone());
        }
        with_timeout(query.fetch_all(self.pool()?)).await
    }

    /// The record of a row.
    pub(super) async fn get(&self, id: &str) -> Result<Option<String>, ArchiveError> {
        let Ok(key) = Uuid::try_parse(id) else { return Ok(None) };
        let Dialect { record, as_key, .. } = self.dialect;
        let statement =
            format!("SELECT {record} FROM prompt_r1_episodes WHERE key = {}", as_key("$1"));
        let query = sqlx::query(&statement).bind(key.to_string());
        let row = with_timeout(query.fetch_optional(self.pool()?)).await?;
        row.map(|row| row.try_get(0)).transpose().map_err(failed)
    }

    fn pool(&self) -> Result<&AnyPool, ArchiveError> {
        self.pool.as_ref().map_err(|reason| ArchiveError::Store(reason.clone()))
    }
}

/// Seconds as a database has them.
fn second(at: u64) -> i64 {
    i64::try_from(at).map_or(NEVER, |at| at.min(NEVER))
}

/// How many items of these sizes are read until they have so many bytes together, at least one.
fn fitting(sizes: impl Iterator<Item = usize>, bytes: usize) -> usize {
    let mut read = 0;
    let is_before = |size: &usize| {
        let is_before = read == 0 || read < bytes;
        read += size;
        is_before
    };
    sizes.take_while(is_before).count()
}

fn cursor(row: &AnyRow) -> sqlx::Result<Cursor> {
    Ok(Cursor { key: row.try_get(0)?, created: row.try_get(1)? })
}

async fn with_timeout<T>(answer: impl Future<Output = sqlx::Result<T>>) -> Result<T, ArchiveError> {
    match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => Err(ArchiveError::Store(format!("no answer within {} s", TIMEOUT.as_secs()))),
    }
}

fn failed(error: sqlx::Error) -> ArchiveError {
    ArchiveError::Store(match error {
        // It may show the URL, and with it the password.
        sqlx::Error::Configuration(_) => "its URL cannot be used".to_owned(),
        error => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use sqlx::{Connection, SqliteConnection};

    use super::*;

    const MIB: usize = 1024 * 1024;

    #[test]
    fn items_are_read_until_the_bound_is_reached() {
        let table: [(&[usize], usize, usize); 6] = [
            (&[], 10, 0),
            (&[20, 1], 10, 1),
            (&[4, 4, 4, 4], 10, 3),
            (&[0, 0, 10, 1], 10, 3),
            (&[5, 5], 0, 1),
            (&[1, 1], 10, 2),
        ];
        for (sizes, bytes, expected) in table {
            assert_eq!(fitting(sizes.iter().copied(), bytes), expected, "{sizes:?}");
        }
    }

    #[tokio::test]
    async fn a_page_reads_no_more_rows_than_its_bytes_allow() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("episodes.db");
        let url = format!("sqlite://{}?mode=rwc", path.display());
        let mut open = SqliteConnection::connect(&url).await.unwrap();
        let table = "CREATE TABLE prompt_r1_episodes (key TEXT PRIMARY KEY, created_at INTEGER,
             caller TEXT, policy TEXT, large_model TEXT, finish_reason TEXT, record TEXT)";
        sqlx::query(table).execute(&mut open).await.unwrap();
        for created in 1..=9 {
            let insert = "INSERT INTO prompt_r1_episodes VALUES ($1, $2, NULL, $3, 'm', 'f', $4)";
            let policy = if created == 8 { "other" } else { "p" };
            let row = sqlx::query(insert).bind(Uuid::from_u128(created).to_string());
            let row = row.bind(created as i64).bind(policy).bind("x".repeat(6 * MIB));
            row.execute(&mut open).await.unwrap();
        }
        let rows = DatabaseArchive::sqlite(&path);
        let filter = Filter { policy: Some("p".to_owned()), ..Filter::default() };
        let mut search = Search::new(filter, 100);
        let (mut last, mut pages) = (None, Vec::new());
        loop {
            let (read, is_end) = rows.before(&search, last.as_ref()).await.unwrap();
            let shown =
                |(cursor, record): &(Cursor, Option<String>)| (cursor.created, record.is_some());
            pages.push(read.iter().map(shown).collect::<Vec<_>>());
            last = read.into_iter().last().map(|(cursor, _)| cursor);
            if is_end {
                break;
            }
        }
        let pages: Vec<_> = pages.iter().map(Vec::as_slice).collect();
        let expected: [&[_]; 3] = [
            &[(9, true), (8, false), (7, true), (6, true)],
            &[(5, true), (4, true), (3, true)],
            &[(2, true), (1, true)],
        ];
        assert_eq!(pages, expected);
        // What the page has read already counts.
        search.bytes = MAX_BYTES - 1;
        assert_eq!(rows.before(&search, None).await.unwrap().0.len(), 1);
    }
}
