//! The memory of request bodies, which is bounded over all requests.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The unit of accounting, bytes.
const UNIT: usize = 1024;

/// The memory of all request bodies together.
pub(super) struct BodyMemory {
    units: Arc<Semaphore>,
}

impl BodyMemory {
    pub(super) fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Self { units: Arc::new(Semaphore::new(units)) }
    }

    /// Reserves `bytes` more for a body that holds `held` already.
    pub(super) async fn grow(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: usize) {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let Ok(more) = Arc::clone(&self.units).acquire_many_owned(units).await else { return };
        match held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
    }
}
