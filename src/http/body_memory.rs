//! The memory of request bodies, which is bounded over all requests.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit of accounting, bytes.
const UNIT: usize = 1024;

/// How many bodies' worth the reserve has: a compressed body is in memory twice.
pub(super) const RESERVED_BODIES: usize = 2;

/// The memory of all request bodies together.
///
/// Bodies take their part as they arrive, so all parts may be taken by bodies that each wait for
/// more. Room for one whole body is therefore kept apart: one of those gets it, finishes, and gives
/// it to the next.
pub(super) struct BodyMemory {
    units: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
}

/// The room of one body, which is given back when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Room {
    units: Option<OwnedSemaphorePermit>,
    /// All of the reserve, in place of units.
    reserve: Option<OwnedSemaphorePermit>,
}

impl BodyMemory {
    /// Of `bytes` in all, for bodies of at most `limit` bytes.
    pub(super) fn new(bytes: usize, limit: usize) -> Self {
        let reserved = limit.saturating_mul(RESERVED_BODIES);
        let units = (bytes.saturating_sub(reserved) / UNIT).min(Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(units)), reserve: Arc::new(Semaphore::new(1)) }
    }

    /// Waits until `room` has at least so many bytes.
    pub(super) async fn grow(&self, room: &mut Room, bytes: usize) {
        let missing = match &room.units {
            _ if room.reserve.is_some() => return,
            Some(held) => units(bytes).saturating_sub(held.num_permits() as u32),
            None => units(bytes),
        };
        if missing == 0 {
            return;
        }
        let more = match Arc::clone(&self.units).try_acquire_many_owned(missing) {
            Ok(more) => Ok(more),
            Err(_) => tokio::select! {
                biased;
                more = Arc::clone(&self.units).acquire_many_owned(missing) => more,
                reserve = Arc::clone(&self.reserve).acquire_owned() => {
                    // The whole body fits there, so what it has is for others.
                    *room = Room { units: None, reserve: reserve.ok() };
                    return;
                }
            },
        };
        // The semaphores are never closed.
        let Ok(more) = more else { return };
        match &mut room.units {
            Some(held) => held.merge(more),
            None => room.units = Some(more),
        }
    }

    /// Gives back what `room` has beyond so many bytes, and the reserve if there are units again.
    pub(super) fn shrink(&self, room: &mut Room, bytes: usize) {
        if room.reserve.is_some() {
            if let Ok(units) = Arc::clone(&self.units).try_acquire_many_owned(units(bytes)) {
                *room = Room { units: Some(units), reserve: None };
            }
        } else if let Some(held) = &mut room.units {
            let excess = held.num_permits().saturating_sub(units(bytes) as usize);
            drop(held.split(excess));
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

    use futures::future::join_all;

    use super::*;

    const LIMIT: usize = 64 * UNIT;
    /// Longer than any of it takes.
    const SOON: Duration = Duration::from_secs(30);

    /// A body that arrives a quarter at a time.
    async fn arrive(memory: &BodyMemory) -> Room {
        let mut room = Room::default();
        for quarter in 1..=4 {
            memory.grow(&mut room, quarter * LIMIT / 4).await;
            tokio::task::yield_now().await;
        }
        room
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
