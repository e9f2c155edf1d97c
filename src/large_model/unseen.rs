//! What a model writes out of sight.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::token_estimate::TokenEstimate;

/// What is written of a reply and not handed on as it comes, as thoughts and the arguments of tools
/// are: it is billed though the call ends without a reply. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct UnseenText(Arc<Mutex<TokenEstimate>>);

impl UnseenText {
    /// More was written.
    pub fn push(&self, text: &str) {
        self.lock().push(text);
    }

    /// Takes all of it out: another model is asked.
    pub(super) fn take(&self) -> TokenEstimate {
        std::mem::take(&mut *self.lock())
    }

    /// Puts it back: the failure of the model that wrote it is returned.
    pub(super) fn put_back(&self, text: TokenEstimate) {
        *self.lock() = text;
    }

    /// About how many tokens it has.
    pub fn tokens(&self) -> u64 {
        self.lock().tokens()
    }

    fn lock(&self) -> MutexGuard<'_, TokenEstimate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
