//! What a model thinks out of sight.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::token_estimate::TokenEstimate;

/// The thoughts of a call in progress that are not handed on as they come: they are billed though
/// the call ends without a reply. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct UnseenThoughts(Arc<Mutex<TokenEstimate>>);

impl UnseenThoughts {
    /// More was thought.
    pub fn push(&self, text: &str) {
        self.lock().push(text);
    }

    /// Takes all of it out: another model is asked.
    pub(super) fn take(&self) -> TokenEstimate {
        std::mem::take(&mut *self.lock())
    }

    /// Puts it back: the failure of the model that thought it is returned.
    pub(super) fn put_back(&self, thoughts: TokenEstimate) {
        *self.lock() = thoughts;
    }

    /// About how many tokens it has.
    pub fn tokens(&self) -> u64 {
        self.lock().tokens()
    }

    fn lock(&self) -> MutexGuard<'_, TokenEstimate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
