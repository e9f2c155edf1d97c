//! The memory of request bodies, which is bounded over all requests.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::fair_share::CallerShares;

/// The unit of accounting, bytes.
const UNIT: usize = 1024;

/// The size of the reserve, in bodies of maximum length: a compressed body is in memory twice.
pub(super) const RESERVED_BODIES: usize = 2;

/// The memory of all request bodies together.
///
/// Bodies take their part as they arrive, so all parts may be taken by bodies that each wait for
/// more. Room for one whole body is therefore kept apart: one of those gets it, finishes, and gives
/// it to the next. No caller takes all of the rest: its bodies wait for its own share before they
/// stand in the queue of all.
pub(super) struct BodyMemory {
    units: Arc<Semaphore>,
    shares: CallerShares,
    reserve: Arc<Semaphore>,
}

/// The memory of one body, released when dropped.
#[derive(Debug)]
pub(super) struct BodyPermit {
    /// The share of its caller, if that is known.
    share: Option<Arc<Semaphore>>,
    units: Option<Units>,
    /// All of the reserve, in place of units.
    reserve: Option<OwnedSemaphorePermit>,
}

/// Units that are taken.
#[derive(Debug)]
struct Units {
    all: OwnedSemaphorePermit,
    own: Option<OwnedSemaphorePermit>,
}

impl Units {
    fn merge(&mut self, more: Self) {
        self.all.merge(more.all);
        if let (Some(own), Some(more)) = (&mut self.own, more.own) {
            own.merge(more);
        }
    }

    /// Releases all but this many.
    fn keep(&mut self, units: usize) {
        let excess = self.all.num_permits().saturating_sub(units);
        drop(self.all.split(excess));
        if let Some(own) = &mut self.own {
            drop(own.split(excess));
        }
    }
}

impl BodyMemory {
    /// Of `bytes` in all, for bodies of at most `limit` bytes.
    pub(super) fn new(bytes: usize, limit: usize) -> Self {
        let reserved = limit.saturating_mul(RESERVED_BODIES);
        let units = (bytes.saturating_sub(reserved) / UNIT).min(Semaphore::MAX_PERMITS);
        Self {
            units: Arc::new(Semaphore::new(units)),
            shares: CallerShares::new(units),
            reserve: Arc::new(Semaphore::new(1)),
        }
    }

    /// An empty permit for a body of this caller, which is 0 if callers cannot be told apart.
    pub(super) fn permit(&self, caller: u64) -> BodyPermit {
        BodyPermit { share: self.shares.of(caller), units: None, reserve: None }
    }

    /// Waits until `permit` has at least so many bytes.
    pub(super) async fn grow(&self, permit: &mut BodyPermit, bytes: usize) {
        let missing = match &permit.units {
            _ if permit.reserve.is_some() => return,
            Some(held) => units(bytes).saturating_sub(held.all.num_permits() as u32),
            None => units(bytes),
        };
        if missing == 0 {
            return;
        }
        let more = match self.try_take(permit.share.as_ref(), missing) {
            Some(more) => Some(more),
            None => tokio::select! {
                biased;
                more = self.take(permit.share.as_ref(), missing) => more,
                reserve = Arc::clone(&self.reserve).acquire_owned() => {
                    // The whole body fits there, so what it has is for others.
                    (permit.units, permit.reserve) = (None, reserve.ok());
                    return;
                }
            },
        };
        // The semaphores are never closed.
        let Some(more) = more else { return };
        match &mut permit.units {
            Some(held) => held.merge(more),
            None => permit.units = Some(more),
        }
    }

    fn try_take(&self, share: Option<&Arc<Semaphore>>, units: u32) -> Option<Units> {
        let own = match share {
            Some(share) => Some(Arc::clone(share).try_acquire_many_owned(units).ok()?),
            None => None,
        };
        let all = Arc::clone(&self.units).try_acquire_many_owned(units).ok()?;
        Some(Units { all, own })
    }

    async fn take(&self, share: Option<&Arc<Semaphore>>, units: u32) -> Option<Units> {
        let own = match share {
            Some(share) => Some(Arc::clone(share).acquire_many_owned(units).await.ok()?),
            None => None,
        };
        let all = Arc::clone(&self.units).acquire_many_owned(units).await.ok()?;
        Some(Units { all, own })
    }

    /// Gives back what `permit` has beyond so many bytes, and the reserve if there are units again.
    pub(super) fn shrink(&self, permit: &mut BodyPermit, bytes: usize) {
        if permit.reserve.is_some() {
            if let Some(units) = self.try_take(permit.share.as_ref(), units(bytes)) {
                (permit.units, permit.reserve) = (Some(units), None);
            }
        } else if let Some(held) = &mut permit.units {
            held.keep(units(bytes) as usize);
        }
    }

    /// Bytes that are free, the reserve aside.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.units.available_permits() * UNIT
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use futures::FutureExt;
    use futures::future::join_all;

    use super::*;

    const LIMIT: usize = 64 * UNIT;
    /// Longer than any of it takes.
    const SOON: Duration = Duration::from_secs(30);

    /// A body that arrives a quarter at a time.
    async fn arrive(memory: &BodyMemory) -> BodyPermit {
        arrive_of(memory, 0).await
    }

    /// The same of this caller.
    async fn arrive_of(memory: &BodyMemory, caller: u64) -> BodyPermit {
        let mut permit = memory.permit(caller);
        for quarter in 1..=4 {
            memory.grow(&mut permit, quarter * LIMIT / 4).await;
            tokio::task::yield_now().await;
        }
        permit
    }

    #[tokio::test]
    async fn bodies_that_arrive_together_all_finish() {
        // Of the largest, the others have no part at all.
        for bodies in [2, 3, 4] {
            let memory = BodyMemory::new(bodies * LIMIT, LIMIT);
            let before = memory.free();
            let arriving = (0..8).map(|_| async { drop(arrive(&memory).await) });
            let all = tokio::time::timeout(SOON, join_all(arriving)).await;
            assert!(all.is_ok(), "{bodies}");
            assert_eq!((memory.free(), memory.reserve.available_permits()), (before, 1));
        }
    }

    #[tokio::test]
    async fn bodies_of_one_caller_leave_room_for_others() {
        let memory = BodyMemory::new(4 * LIMIT, LIMIT);
        let before = memory.free();
        let mut held = Vec::new();
        let mut waiting = loop {
            let mut next = Box::pin(async {
                let mut permit = memory.permit(1);
                memory.grow(&mut permit, LIMIT).await;
                permit
            });
            match (&mut next).now_or_never() {
                Some(permit) => held.push(permit),
                None => break next,
            }
        };
        // One in its share, and one in the reserve.
        assert_eq!(held.len(), 2);
        let mut other = memory.permit(2);
        assert!(memory.grow(&mut other, LIMIT / 2).now_or_never().is_some());
        drop(held);
        assert!((&mut waiting).now_or_never().is_some());
        drop((waiting, other));
        assert_eq!((memory.free(), memory.reserve.available_permits()), (before, 1));
        // A caller whose bodies arrive together comes to the end of each.
        let arriving = (0..8).map(|_| async { drop(arrive_of(&memory, 1).await) });
        assert!(tokio::time::timeout(SOON, join_all(arriving)).await.is_ok());
    }

    #[tokio::test]
    async fn a_body_waits_while_all_is_taken() {
        let memory = BodyMemory::new(3 * LIMIT, LIMIT);
        let (units, mut reserve) = (arrive(&memory).await, arrive(&memory).await);
        assert!(units.units.is_some() && reserve.reserve.is_some());
        let short = Duration::from_millis(50);
        assert!(tokio::time::timeout(short, arrive(&memory)).await.is_err());
        // The reserve is exchanged as soon as there are units.
        memory.shrink(&mut reserve, LIMIT);
        assert!(reserve.reserve.is_some());
        drop(units);
        memory.shrink(&mut reserve, LIMIT);
        assert!(reserve.reserve.is_none());
        assert_eq!(memory.free(), 0);
        assert!(tokio::time::timeout(SOON, arrive(&memory)).await.is_ok());
        memory.shrink(&mut reserve, 1);
        assert_eq!(memory.free(), LIMIT - UNIT);
    }
}
