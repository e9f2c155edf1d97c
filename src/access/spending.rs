//! What keys have spent. It is read from the store at intervals and written with a delay, so that
//! no request waits for a disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::key_locks::KeyLocks;
use super::{Key, Store, StoreError};

/// How long a value that was read is used: other replicas' spending is seen this much later.
const CACHE_TTL: Duration = Duration::from_secs(1);
/// Spending within this time is written together.
const WRITE_DELAY: Duration = Duration::from_millis(200);
/// The pause after a failure at the end of the server.
const FINAL_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Money by key and day (days since 1970), millionths.
#[derive(Default)]
pub(super) struct Spending {
    state: Mutex<SpendingState>,
    /// Held while a key's spending is read or written, so that nothing is counted twice.
    store_locks: KeyLocks,
}

#[derive(Default)]
struct SpendingState {
    /// What the store has, by key: there are no more entries than valid keys.
    cached: HashMap<String, CachedSpending>,
    /// What is not in the store yet.
    unsaved: HashMap<(String, i64), i64>,
    /// Whether a task that writes this is scheduled.
    is_writing: bool,
}

#[derive(Clone, Copy)]
struct CachedSpending {
    day: i64,
    micros: i64,
    at: Instant,
}

impl Spending {
    /// What a key has spent on a day. While the store is unreachable, the last known value is used.
    pub(super) async fn of(&self, key: &Key, store: Option<&Store>, day: i64) -> i64 {
        if self.cached(key, day).is_none_or(|cached| cached.at.elapsed() >= CACHE_TTL)
            && let Some(store) = store
        {
            self.look_up(key, store, day).await;
        }
        let state = self.state();
        let cached = state.cached.get(&key.id).filter(|cached| cached.day == day);
        let unsaved = state.unsaved.get(&(key.id.clone(), day));
        cached.map_or(0, |cached| cached.micros) + unsaved.copied().unwrap_or(0)
    }

    async fn look_up(&self, key: &Key, store: &Store, day: i64) {
        let _alone = self.store_locks.lock(&key.id).await;
        let cached = self.cached(key, day);
        if cached.is_some_and(|cached| cached.at.elapsed() < CACHE_TTL) {
            return;
        }
        let micros = store.spent(&key.id, day).await.unwrap_or_else(|error| {
            tracing::error!(%error, key = key.id, "cannot look up what a key has spent");
            cached.map_or(0, |cached| cached.micros)
        });
        self.state()
            .cached
            .insert(key.id.clone(), CachedSpending { day, micros, at: Instant::now() });
    }

    fn cached(&self, key: &Key, day: i64) -> Option<CachedSpending> {
        self.state().cached.get(&key.id).copied().filter(|cached| cached.day == day)
    }

    /// Adds to what a key has spent on a day. Must be called on a runtime.
    pub(super) fn add(self: &Arc<Self>, key: &Key, store: &Store, day: i64, micros: i64) {
        let mut state = self.state();
        *state.unsaved.entry((key.id.clone(), day)).or_default() += micros;
        if !std::mem::replace(&mut state.is_writing, true) {
            let (spending, store) = (Arc::clone(self), store.clone());
            tokio::spawn(async move {
                let mut pause = WRITE_DELAY;
                while spending.is_writing() {
                    tokio::time::sleep(pause).await;
                    pause = if spending.save(&store).await { WRITE_DELAY } else { CACHE_TTL };
                }
            });
        }
    }

    /// Whether something is to be written, in which case a task for it is scheduled.
    fn is_writing(&self) -> bool {
        let mut state = self.state();
        state.is_writing = !state.unsaved.is_empty();
        state.is_writing
    }

    /// Writes what is not in the store yet, and returns whether all was written. What could not be
    /// written stays for the next time.
    pub(super) async fn save(&self, store: &Store) -> bool {
        let entries: Vec<_> = self.state().unsaved.keys().cloned().collect();
        let mut is_all = true;
        for entry in entries {
            if let Err(error) = self.save_one(&entry, store).await {
                tracing::error!(%error, key = entry.0, "cannot store what a key has spent");
                is_all = false;
            }
        }
        is_all
    }

    async fn save_one(&self, entry: &(String, i64), store: &Store) -> Result<(), StoreError> {
        let (id, day) = entry;
        let _alone = self.store_locks.lock(id).await;
        let Some(micros) = self.state().unsaved.get(entry).copied() else { return Ok(()) };
        store.spend(id, *day, micros).await?;
        let mut state = self.state();
        if let Some(unsaved) = state.unsaved.get_mut(entry) {
            *unsaved -= micros;
            if *unsaved == 0 {
                state.unsaved.remove(entry);
            }
        }
        if let Some(cached) = state.cached.get_mut(id).filter(|cached| cached.day == *day) {
            cached.micros += micros;
        }
        Ok(())
    }

    /// Writes what is not in the store yet, again and again until `until`, and logs what is lost.
    pub(super) async fn finish(&self, store: &Store, until: Instant) {
        let saved = async {
            while !self.save(store).await {
                tokio::time::sleep(FINAL_RETRY_PAUSE).await;
            }
        };
        if tokio::time::timeout_at(until.into(), saved).await.is_err() {
            for ((key, day), micros) in &self.state().unsaved {
                tracing::error!(
                    key,
                    day,
                    micros,
                    "the server ends, and what a key has spent is lost"
                );
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, SpendingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
