//! Admits as many episodes as may run, queues a bounded number, and rejects the rest. No single key
//! can use all of it: clients that read slowly hold their slots for long.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::fair_share;
use crate::http::error::ApiError;

/// Counts the episodes in flight and in the queue, in total and for each key.
pub(in crate::http) struct Admission {
    all: SlotPool,
    /// Keys with episodes in flight or queued.
    keys: Mutex<HashMap<String, Weak<SlotPool>>>,
}

/// Permission for episodes to run, released when dropped.
pub(in crate::http) struct Permit {
    _slots: OwnedSemaphorePermit,
    _slots_of_key: Option<(OwnedSemaphorePermit, Arc<SlotPool>)>,
}

impl Admission {
    pub(in crate::http) fn new(size: usize, queue: usize) -> Self {
        Self { all: SlotPool::new(size, queue), keys: Mutex::default() }
    }

    /// Waits until `deadline` for slots for `episodes` of the key with this id, or without one.
    pub(in crate::http) async fn admit(
        &self,
        episodes: u32,
        key: Option<&str>,
        deadline: Instant,
    ) -> Result<Permit, ApiError> {
        if episodes as usize > self.all.size {
            let size = self.all.size;
            let message = format!("this server runs at most {size} episodes at once");
            return Err(ApiError::invalid("n", message));
        }
        let own = match key.map(|key| self.pool_of(key)) {
            Some(pool) => Some((pool.take(episodes, deadline).await?, pool)),
            None => None,
        };
        Ok(Permit { _slots: self.all.take(episodes, deadline).await?, _slots_of_key: own })
    }

    /// Running episodes, and queued requests, including those queued for their key.
    pub(in crate::http) fn counts(&self) -> (usize, usize) {
        let waiting = |pool: &SlotPool| pool.waiting.load(Ordering::Relaxed);
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let own: usize = keys.values().filter_map(Weak::upgrade).map(|pool| waiting(&pool)).sum();
        let running = self.all.size.saturating_sub(self.all.slots.available_permits());
        (running, waiting(&self.all) + own)
    }

    fn pool_of(&self, key: &str) -> Arc<SlotPool> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = keys.get(key).and_then(Weak::upgrade) {
            return pool;
        }
        keys.retain(|_, pool| pool.strong_count() > 0);
        let pool = Arc::new(self.all.share());
        keys.insert(key.to_owned(), Arc::downgrade(&pool));
        pool
    }
}

/// Slots, and a queue for them.
struct SlotPool {
    slots: Arc<Semaphore>,
    size: usize,
    waiting: AtomicUsize,
    queue: usize,
}

/// One request in the queue, which leaves the queue when dropped.
struct QueueEntry<'a>(&'a AtomicUsize);

impl Drop for QueueEntry<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SlotPool {
    fn new(size: usize, queue: usize) -> Self {
        let size = size.clamp(1, Semaphore::MAX_PERMITS);
        let waiting = AtomicUsize::new(0);
        Self { slots: Arc::new(Semaphore::new(size)), size, waiting, queue }
    }

    /// The slots and the queue that one key may use.
    fn share(&self) -> Self {
        Self::new(fair_share::per_caller(self.size), fair_share::per_caller(self.queue))
    }

    async fn take(
        &self,
        episodes: u32,
        deadline: Instant,
    ) -> Result<OwnedSemaphorePermit, ApiError> {
        let episodes = episodes.min(u32::try_from(self.size).unwrap_or(u32::MAX));
        if let Ok(permit) = Arc::clone(&self.slots).try_acquire_many_owned(episodes) {
            return Ok(permit);
        }
        let busy = || {
            let message = reason!("the server is busy"; hint: "try again a little later");
            ApiError::overloaded(message, Duration::from_secs(1))
        };
        let entry = QueueEntry(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.queue {
            return Err(busy());
        }
        let slots = Arc::clone(&self.slots).acquire_many_owned(episodes);
        let permit = tokio::time::timeout_at(deadline.into(), slots).await;
        drop(entry);
        match permit {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(busy()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn no_key_takes_every_slot() {
        for (size, most) in [(1, 1), (2, 1), (4, 3), (16, 14), (64, 56)] {
            let admission = Admission::new(size, 0);
            let soon = Instant::now() + Duration::from_secs(9);
            let mut held = Vec::new();
            while let Ok(permit) = admission.admit(1, Some("greedy"), soon).await {
                held.push(permit);
            }
            assert_eq!(held.len(), most, "{size}");
            for key in [Some("other"), None] {
                assert_eq!(admission.admit(1, key, soon).await.is_ok(), most < size, "{size}");
            }
            drop(held);
            assert!(admission.admit(size as u32, Some("greedy"), soon).await.is_ok());
        }
    }
}
