//! What keys have used: in fixed windows of a minute, and of a day for money.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::shared::RedisCounters;
use super::spending::Spending;
use super::window::{DAY, KeyUsage, MINUTE, Timestamp};
use super::{Key, Store};

/// A limit that a key has reached.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Requests of this minute.
    #[error("the key has reached its limit of {limit} requests a minute")]
    Requests {
        /// The limit.
        limit: u64,
        /// Until the next minute.
        retry_after: Duration,
    },
    /// Tokens of this minute.
    #[error("the key has reached its limit of {limit} tokens a minute")]
    Tokens {
        /// The limit.
        limit: u64,
        /// Until the next minute.
        retry_after: Duration,
    },
    /// Money of this day.
    #[error("the key has spent its budget of {limit} for today")]
    Budget {
        /// The limit.
        limit: f64,
        /// Until the next day (UTC).
        retry_after: Duration,
    },
}

/// Counts for this process, or for all replicas.
pub(super) struct Limiter {
    shared: Option<RedisCounters>,
    spending: Arc<Spending>,
    /// By key.
    minutes: Mutex<HashMap<String, Minute>>,
}

/// What was counted in a minute.
#[derive(Default)]
struct Minute {
    /// Since 1970.
    number: u64,
    requests: u64,
    tokens: u64,
}

impl Minute {
    /// Starts a new window when the minute has changed.
    fn advance_to(&mut self, number: u64) -> &mut Self {
        // A request may read the clock before the minute changes and get here after another has
        // seen the change.
        if self.number != number && self.number != number + 1 {
            *self = Self { number, ..Self::default() };
        }
        self
    }
}

impl Limiter {
    /// Counts for this process, or in `shared`.
    pub(super) fn new(shared: Option<RedisCounters>) -> Self {
        Self { shared, spending: Arc::default(), minutes: Mutex::default() }
    }

    /// Counts requests, unless a limit is reached. While Redis cannot be asked, this process
    /// counts for itself.
    pub(super) async fn admit(
        &self,
        key: &Key,
        requests: u32,
        store: Option<&Store>,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let limits = &key.limits;
        let is_limited = limits.requests_per_minute.is_some()
            || limits.tokens_per_minute.is_some()
            || limits.budget_per_day.is_some();
        if !is_limited {
            return Ok(());
        }
        let now = Timestamp::new(now);
        let own = self.begin(key, requests, now);
        let shared = match &self.shared {
            Some(shared) => {
                shared.begin(&key.id, requests, now).await.map(Some).unwrap_or_else(|error| {
                    tracing::warn!(%error, "counting requests and tokens in this process only");
                    None
                })
            }
            None => None,
        };
        let mut used = shared.unwrap_or(own);
        if limits.budget_per_day.is_some() {
            // Redis does not have what was counted locally while it was unreachable.
            let kept = self.spending.of(key, store, now.day() as i64).await;
            used.micros = used.micros.max(kept);
        }
        let minute = now.until_next(MINUTE);
        match limits.requests_per_minute {
            Some(limit) if used.requests > limit => {
                return Err(Refusal::Requests { limit, retry_after: minute });
            }
            _ => {}
        }
        match limits.tokens_per_minute {
            Some(limit) if used.tokens >= limit => {
                return Err(Refusal::Tokens { limit, retry_after: minute });
            }
            _ => {}
        }
        match limits.budget_per_day {
            Some(limit) if used.micros as f64 / 1e6 >= limit => {
                Err(Refusal::Budget { limit, retry_after: now.until_next(DAY) })
            }
            _ => Ok(()),
        }
    }

    /// Counts what a request has used.
    pub(super) async fn record(
        &self,
        key: &Key,
        store: Option<&Store>,
        tokens: u64,
        cost: f64,
        now: SystemTime,
    ) {
        let now = Timestamp::new(now);
        // Rounded up, so that a small cost is not lost.
        let micros = (cost.max(0.0) * 1e6).ceil() as i64;
        if let Some(minute) = self.minutes().get_mut(&key.id) {
            let minute = minute.advance_to(now.minute());
            minute.tokens = minute.tokens.saturating_add(tokens);
        }
        let shared = match &self.shared {
            Some(shared) => shared.record(&key.id, tokens, micros, now).await,
            None => Ok(()),
        };
        if let Err(error) = shared {
            tracing::warn!(%error, key = key.id, "cannot share what a key has used");
        }
        if let Some(store) = store.filter(|_| micros > 0) {
            self.spending.add(key, store, now.day() as i64, micros);
        }
    }

    /// Writes to the store what was spent since the last write, and tries to until `until`.
    pub(super) async fn finish(&self, store: &Store, until: Instant) {
        self.spending.finish(store, until).await;
    }

    fn begin(&self, key: &Key, requests: u32, now: Timestamp) -> KeyUsage {
        let mut minutes = self.minutes();
        let minute = minutes.entry(key.id.clone()).or_default().advance_to(now.minute());
        minute.requests += u64::from(requests);
        KeyUsage { requests: minute.requests, tokens: minute.tokens, micros: 0 }
    }

    /// There are no more entries than valid keys.
    fn minutes(&self) -> MutexGuard<'_, HashMap<String, Minute>> {
        self.minutes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
