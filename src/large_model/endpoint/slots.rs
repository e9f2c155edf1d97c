//! The slots of an endpoint: its concurrent requests. No caller takes all of them: one that reads
//! slowly holds its slots for long.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::fair_share::CallerShares;

/// All slots, and the shares of callers.
pub(super) struct Slots {
    all: Arc<Semaphore>,
    shares: CallerShares,
}

/// A slot in use, which is given back when dropped.
pub(super) struct ConcurrencySlot {
    _all: OwnedSemaphorePermit,
    _own: Option<OwnedSemaphorePermit>,
}

impl Slots {
    pub(super) fn new(size: usize) -> Self {
        let size = size.min(Semaphore::MAX_PERMITS);
        Self { all: Arc::new(Semaphore::new(size)), shares: CallerShares::new(size) }
    }

    /// A slot for this caller, if there is one now.
    pub(super) fn try_take(&self, caller: u64) -> Option<ConcurrencySlot> {
        let own = match self.shares.of(caller) {
            Some(share) => Some(share.try_acquire_owned().ok()?),
            None => None,
        };
        let all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(ConcurrencySlot { _all: all, _own: own })
    }

    /// Waits for a slot for this caller. The semaphores are never closed.
    pub(super) async fn take(&self, caller: u64) -> Option<ConcurrencySlot> {
        let own = match self.shares.of(caller) {
            Some(share) => Some(share.acquire_owned().await.ok()?),
            None => None,
        };
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(ConcurrencySlot { _all: all, _own: own })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn no_caller_takes_every_slot() {
        let slots = Slots::new(4);
        let held: Vec<_> = std::iter::from_fn(|| slots.try_take(1)).collect();
        assert_eq!(held.len(), 3);
        // Waiting for its own share, it does not stand before others.
        let mut waiting = Box::pin(slots.take(1));
        assert!((&mut waiting).now_or_never().is_none());
        let other = slots.take(2).now_or_never().flatten();
        assert!(other.is_some());
        assert!(slots.try_take(0).is_none());
        drop((held, other));
        assert!(waiting.now_or_never().flatten().is_some());
        // Callers that are not known apart share all.
        let held: Vec<_> = std::iter::from_fn(|| slots.try_take(0)).collect();
        assert_eq!(held.len(), 4);
    }
}
