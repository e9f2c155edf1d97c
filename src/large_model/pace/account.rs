//! What large models with one URL and one key share: their provider counts by key, whichever of
//! them asks, in serving, training, judging or search.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, Weak};
use std::time::Instant;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tokio::time::sleep_until;

use super::lane::{Lane, Lanes};
use super::lock;
use super::rates::{Limits, Rates};

/// Those of this process. A key stands here as its hash.
type Accounts = HashMap<(String, Option<[u8; 32]>), Weak<Account>>;

static ACCOUNTS: LazyLock<Mutex<Accounts>> = LazyLock::new(Mutex::default);

/// The calls under one URL and key.
#[derive(Default)]
pub(super) struct Account {
    lanes: Mutex<Lanes>,
    /// Held while waiting for the minute to pass, so that calls go on in order.
    minute_lock: tokio::sync::Mutex<()>,
    rates: Mutex<Rates>,
    /// The configured limits of each large model in use. The lowest ones apply to all.
    limits: Mutex<Vec<Weak<Limits>>>,
    has_limits: AtomicBool,
}

impl Account {
    /// The account of `key` at `url`, which `limits` hold for as long as they live.
    pub(super) fn of(url: &str, key: Option<&SecretString>, limits: &Arc<Limits>) -> Arc<Self> {
        let key = key.map(|key| Sha256::digest(key.expose_secret()).into());
        let mut accounts = lock(&ACCOUNTS);
        accounts.retain(|_, account| account.strong_count() > 0);
        let known = accounts.get(&(url.to_owned(), key)).and_then(Weak::upgrade);
        let account = known.unwrap_or_else(|| {
            let account = Arc::new(Self::default());
            accounts.insert((url.to_owned(), key), Arc::downgrade(&account));
            account
        });
        drop(accounts);
        if limits.is_some() {
            lock(&account.limits).push(Arc::downgrade(limits));
            account.has_limits.store(true, Ordering::Relaxed);
        }
        account
    }

    /// Whether requests of a minute are counted.
    pub(super) fn has_limits(&self) -> bool {
        self.has_limits.load(Ordering::Relaxed)
    }

    /// The limits that hold now.
    pub(super) fn limits(&self) -> Limits {
        let mut all = lock(&self.limits);
        all.retain(|limits| limits.strong_count() > 0);
        self.has_limits.store(!all.is_empty(), Ordering::Relaxed);
        let known = all.iter().filter_map(Weak::upgrade);
        known.fold(Limits::default(), |lowest, limits| lowest.and(*limits))
    }

    /// Waits until a request of about `tokens` tokens is within the limits of a minute. Returns its
    /// number among the requests, where they are counted.
    pub(super) async fn take(&self, tokens: u64) -> Option<u64> {
        if !self.has_limits() {
            return None;
        }
        let _turn = self.minute_lock.lock().await;
        loop {
            let taken = lock(&self.rates).take(self.limits(), tokens, Instant::now());
            match taken {
                Ok(number) => return Some(number),
                Err(until) => sleep_until(until.into()).await,
            }
        }
    }

    /// Counts a request without tokens that does not wait for its minute.
    pub(super) fn count(&self) {
        if self.has_limits() {
            lock(&self.rates).count(0, Instant::now());
        }
    }

    /// Puts what a request used in place of what was expected.
    pub(super) fn used(&self, number: u64, tokens: u64) {
        lock(&self.rates).used(number, tokens);
    }

    /// The calls of `model`.
    pub(super) fn lane(&self, model: &str, make: impl FnOnce() -> Lane) -> Arc<Lane> {
        lock(&self.lanes).get(model, make)
    }
}
