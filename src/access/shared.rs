//! What keys have used, in a Redis that replicas share.

use std::time::Duration;

use redis::Script;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use secrecy::{ExposeSecret, SecretString};

use super::client::client;
use super::window::{KeyUsage, Timestamp};
use super::{RedisTlsConfig, StoreError};

/// How long a Redis call may take. After that this process counts for itself.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Adds to the counters and returns them. They live for one window more than they count, because
/// clocks differ.
const BEGIN: &str = "
local requests = redis.call('INCRBY', KEYS[1], ARGV[1])
if requests == tonumber(ARGV[1]) then redis.call('EXPIRE', KEYS[1], 120) end
local tokens = redis.call('GET', KEYS[2]) or '0'
local micros = redis.call('GET', KEYS[3]) or '0'
return {requests, tonumber(tokens), tonumber(micros)}";

/// Adds tokens and money.
const RECORD: &str = "
redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], 120)
redis.call('INCRBY', KEYS[2], ARGV[2])
redis.call('EXPIRE', KEYS[2], 172800)
return 1";

/// Counters in Redis.
pub(super) struct RedisCounters {
    connection: ConnectionManager,
    begin: Script,
    record: Script,
}

impl RedisCounters {
    /// Connects when first used.
    pub(super) fn new(
        url: &SecretString,
        tls: Option<&RedisTlsConfig>,
    ) -> Result<Self, StoreError> {
        let client = client(url.expose_secret(), tls)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT))
            .set_number_of_retries(1);
        let connection = ConnectionManager::new_lazy_with_config(client, config)
            .map_err(|error| StoreError::Redis(error.to_string().into()))?;
        Ok(Self { connection, begin: Script::new(BEGIN), record: Script::new(RECORD) })
    }

    pub(super) async fn begin(
        &self,
        id: &str,
        requests: u32,
        now: Timestamp,
    ) -> Result<KeyUsage, StoreError> {
        let mut call = self.begin.key(name(id, "requests", now.minute()));
        call.key(name(id, "tokens", now.minute())).key(name(id, "micros", now.day())).arg(requests);
        let mut connection = self.connection.clone();
        let (requests, tokens, micros): (u64, u64, i64) =
            with_timeout(call.invoke_async(&mut connection)).await?;
        Ok(KeyUsage { requests, tokens, micros })
    }

    pub(super) async fn record(
        &self,
        id: &str,
        tokens: u64,
        micros: i64,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut call = self.record.key(name(id, "tokens", now.minute()));
        call.key(name(id, "micros", now.day())).arg(tokens).arg(micros);
        let mut connection = self.connection.clone();
        with_timeout(call.invoke_async::<i64>(&mut connection)).await.map(|_| ())
    }
}

async fn with_timeout<T>(
    query: impl Future<Output = redis::RedisResult<T>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(TIMEOUT * 2, query).await {
        Ok(answered) => answered.map_err(|error| StoreError::Redis(error.to_string().into())),
        Err(_) => Err(StoreError::Redis("it does not answer".into())),
    }
}

fn name(id: &str, what: &str, window: u64) -> String {
    format!("prompt-r1:{{{id}}}:{what}:{window}")
}
