//! Authentication and limits: keys, where they are stored, and what they have used.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

mod client;
mod config;
mod key;
mod key_locks;
mod limits;
mod shared;
mod spending;
mod store;
#[cfg(test)]
mod tests;
mod window;

pub use config::{AccessConfig, RedisTlsConfig, UrlLookup};
pub use key::{Key, KeyLimits, NewKey, has_key_format};
pub use limits::Refusal;
pub use store::{Store, StoreError};

use key_locks::KeyLocks;
use limits::Limiter;
use shared::RedisCounters;

use crate::hint::Hint;

/// How long a key that was looked up is trusted: a revoked key works at most this much longer.
const CACHE_TTL: Duration = Duration::from_secs(5);
/// How long to wait after a failure of the store before it is asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// How long a known key is still accepted while the store is unreachable.
const MAX_STALE_AGE: Duration = Duration::from_secs(600);
/// How long shutdown waits for open bills to be charged and written to the store.
const SHUTDOWN_BILLING_TIMEOUT: Duration = Duration::from_secs(10);
/// The least time that the store has for the last write, even if the bills took longer.
const FINAL_WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// How many keys, known and unknown, are cached.
const MAX_CACHED_KEYS: usize = 10_000;

/// Keys by their ids, `None` for ids that are no key's, and when they were looked up.
type KeyCache = HashMap<String, (Instant, Option<Arc<Key>>)>;

/// Why a caller is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Denied {
    /// No key was sent.
    #[error("this server needs a key")]
    Missing,
    /// The key is not known, or was revoked.
    #[error("the key is not valid")]
    Unknown,
    /// The store of the keys cannot be asked.
    #[error("keys cannot be checked now")]
    Unavailable,
}

impl Hint for Denied {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Missing => "send it as `Authorization: Bearer …`; its operator makes keys with `server keys create`".into(),
            Self::Unavailable => "try again a little later".into(),
            Self::Unknown => return None,
        })
    }
}

/// All keys, and what they have used.
pub struct Access {
    config: AccessConfig,
    store: RwLock<Option<Store>>,
    limiter: Limiter,
    /// The bills that are open, and those that are being counted after their request has ended.
    counting: TaskTracker,
    /// Whether a key was ever made. From then on every caller needs one.
    requires_key: AtomicBool,
    /// When the store was last seen to be empty.
    seen_empty: Mutex<Option<Instant>>,
    key_cache: Mutex<KeyCache>,
    /// Held during a lookup, so that others waiting for the same key use its result.
    looking_up: KeyLocks,
    /// When the store last failed.
    failed: Mutex<Option<Instant>>,
}

impl Access {
    /// Opens the keys that `config` configures. `urls` looks up the variables that it names.
    /// Without a store's URL and without a file there are no keys.
    ///
    /// # Errors
    /// When the store, or Redis, cannot be opened.
    pub async fn open(config: &AccessConfig, urls: UrlLookup<'_>) -> Result<Self, StoreError> {
        let redis = config.redis_url(urls)?;
        let shared =
            redis.map(|url| RedisCounters::new(&url, config.redis_tls.as_ref())).transpose()?;
        let limiter = Limiter::new(shared);
        let store = match config.store_url(urls)? {
            Some(url) => Some(Store::connect(&url).await?),
            None => Self::embedded(&config.store).await?,
        };
        let access = Self {
            config: config.clone(),
            store: RwLock::new(store),
            limiter,
            counting: TaskTracker::new(),
            requires_key: AtomicBool::new(false),
            seen_empty: Mutex::new(None),
            key_cache: Mutex::default(),
            looking_up: KeyLocks::default(),
            failed: Mutex::default(),
        };
        access.refresh().await?;
        Ok(access)
    }

    async fn embedded(path: &Path) -> Result<Option<Store>, StoreError> {
        match path.exists() {
            true => Store::embedded(path).await.map(Some),
            false => Ok(None),
        }
    }

    /// Opens the embedded store once its file exists, and checks whether there are keys now.
    ///
    /// # Errors
    /// When the file is no store that can be read.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        if self.store().is_none()
            && let Some(store) = Self::embedded(&self.config.store).await?
        {
            *self.store.write().unwrap_or_else(PoisonError::into_inner) = Some(store);
        }
        if let Some(store) = self.store()
            && store.has_keys().await?
        {
            self.requires_key.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn store(&self) -> Option<Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether callers need a key.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn requires_key(&self) -> Result<bool, Denied> {
        if self.requires_key.load(Ordering::Relaxed) {
            return Ok(true);
        }
        {
            let mut seen = self.seen_empty.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.is_some_and(|seen| seen.elapsed() < CACHE_TTL) {
                return Ok(false);
            }
            *seen = Some(Instant::now());
        }
        self.refresh().await.map_err(unavailable)?;
        Ok(self.requires_key.load(Ordering::Relaxed))
    }

    /// The key that `bearer` is; `None` where none is needed.
    ///
    /// # Errors
    /// When a key is needed and `bearer` is none that is valid, or the store cannot be read.
    pub async fn authenticate(&self, bearer: Option<&str>) -> Result<Option<Arc<Key>>, Denied> {
        if !self.requires_key().await? {
            return Ok(None);
        }
        let bearer = bearer.ok_or(Denied::Missing)?;
        let (id, secret) = key::split(bearer).ok_or(Denied::Unknown)?;
        let key = self.find(id).await?.ok_or(Denied::Unknown)?;
        if key.accepts(secret) { Ok(Some(key)) } else { Err(Denied::Unknown) }
    }

    async fn find(&self, id: &str) -> Result<Option<Arc<Key>>, Denied> {
        if let Some(cached) = self.cached(id) {
            return Ok(cached);
        }
        let _alone = self.looking_up.lock(id).await;
        if let Some(cached) = self.cached(id) {
            return Ok(cached);
        }
        match self.look_up(id).await {
            Ok(key) => {
                let mut key_cache = self.key_cache();
                if key_cache.len() >= MAX_CACHED_KEYS {
                    key_cache.retain(|_, (at, _)| at.elapsed() < CACHE_TTL);
                }
                if key_cache.len() < MAX_CACHED_KEYS {
                    key_cache.insert(id.to_owned(), (Instant::now(), key.clone()));
                }
                Ok(key)
            }
            Err(denied) => match self.key_cache().get(id) {
                Some((at, Some(key))) if at.elapsed() < MAX_STALE_AGE => {
                    tracing::warn!("using a cached key");
                    Ok(Some(Arc::clone(key)))
                }
                _ => Err(denied),
            },
        }
    }

    /// What was looked up a moment ago.
    fn cached(&self, id: &str) -> Option<Option<Arc<Key>>> {
        let key_cache = self.key_cache();
        let (at, key) = key_cache.get(id)?;
        (at.elapsed() < CACHE_TTL).then(|| key.clone())
    }

    /// Asks the store, unless it failed a moment ago: otherwise each request would wait for its
    /// time-out.
    async fn look_up(&self, id: &str) -> Result<Option<Arc<Key>>, Denied> {
        if self.failed().is_some_and(|at| at.elapsed() < RETRY_PAUSE) {
            return Err(Denied::Unavailable);
        }
        let Some(store) = self.store() else { return Err(Denied::Unavailable) };
        match store.find(id).await {
            Ok(key) => Ok(key.map(Arc::new)),
            Err(error) => {
                *self.failed() = Some(Instant::now());
                Err(unavailable(error))
            }
        }
    }

    fn failed(&self) -> MutexGuard<'_, Option<Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key_cache(&self) -> MutexGuard<'_, KeyCache> {
        self.key_cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts `requests` of `key` at the time `now`, or says which limit it has reached.
    ///
    /// # Errors
    /// When a limit is reached, or what the key has spent cannot be read.
    pub async fn admit(&self, key: &Key, requests: u32, now: SystemTime) -> Result<(), Refusal> {
        self.limiter.admit(key, requests, self.store().as_ref(), now).await
    }

    /// Counts what a request of `key` has used.
    pub async fn record(&self, key: &Key, tokens: u64, cost: f64, now: SystemTime) {
        self.limiter.record(key, self.store().as_ref(), tokens, cost, now).await;
    }

    /// A bill that is charged before the returned value is dropped, for which [`Self::finish`]
    /// waits.
    pub fn open_bill(&self) -> TaskTrackerToken {
        self.counting.token()
    }

    /// Runs `counting` on a task of its own, which [`Self::finish`] waits for.
    pub fn count(
        &self,
        counting: impl Future<Output = ()> + Send + 'static,
        runtime: &Handle,
    ) -> JoinHandle<()> {
        self.counting.spawn_on(counting, runtime)
    }

    /// Waits for the open bills, and writes to the store what was counted since the last write,
    /// before the process ends.
    pub async fn finish(&self) {
        self.counting.close();
        let until = Instant::now() + SHUTDOWN_BILLING_TIMEOUT;
        if tokio::time::timeout_at(until.into(), self.counting.wait()).await.is_err() {
            let requests = self.counting.len();
            tracing::error!(requests, "the server ends before what these have used is charged");
        }
        if let Some(store) = self.store() {
            self.limiter.finish(&store, until.max(Instant::now() + FINAL_WRITE_TIMEOUT)).await;
        }
    }
}

fn unavailable(error: StoreError) -> Denied {
    tracing::error!(%error, "the store of the keys cannot be read");
    Denied::Unavailable
}
