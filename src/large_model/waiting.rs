//! Whether a call still waits to be sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a call waits for its turn: nothing of it is being served, so it costs nothing if it is
/// given up. Clones share it. A model that does not wait leaves it as it is.
#[derive(Debug, Clone, Default)]
pub struct Waiting(Arc<AtomicBool>);

impl Waiting {
    /// It waits now.
    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// It is sent now.
    pub(super) fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether it waits.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
