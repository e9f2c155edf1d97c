//! Lets in as many episodes as can run, lets a few more wait, and turns the rest away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::error::ApiError;

/// Counts the episodes in flight and those that wait.
pub(in crate::http) struct Admission {
    slots: Arc<Semaphore>,
    size: usize,
    waiting: AtomicUsize,
    queue: usize,
}

/// A place in the queue; given back when dropped.
struct WaitingPlace<'a>(&'a AtomicUsize);

impl Drop for WaitingPlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    pub(in crate::http) fn new(size: usize, queue: usize) -> Self {
        let size = size.clamp(1, Semaphore::MAX_PERMITS);
        let waiting = AtomicUsize::new(0);
        Self { slots: Arc::new(Semaphore::new(size)), size, waiting, queue }
    }

    /// Room for `episodes`, waited for until `deadline`.
    pub(in crate::http) async fn admit(
        &self,
        episodes: u32,
        deadline: Instant,
    ) -> Result<OwnedSemaphorePermit, ApiError> {
        if episodes as usize > self.size {
            let most = self.size;
            let message = format!("this server runs at most {most} episodes at one time");
            return Err(ApiError::invalid("n", message));
        }
        if let Ok(permit) = Arc::clone(&self.slots).try_acquire_many_owned(episodes) {
            return Ok(permit);
        }
        let busy = || {
            let message = "the server is busy\nhint: try again a little later";
            ApiError::overloaded(message, Duration::from_secs(1))
        };
        let place = WaitingPlace(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.queue {
            return Err(busy());
        }
        let slots = Arc::clone(&self.slots).acquire_many_owned(episodes);
        let permit = tokio::time::timeout_at(deadline.into(), slots).await;
        drop(place);
        match permit {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(busy()),
        }
    }
}
