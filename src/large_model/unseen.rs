//! What a call uses that the text which it hands on does not show.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::token_estimate::TokenEstimate;
use crate::trajectory::TokenUsage;

/// The usage of a call in progress beside the text that is handed on as it comes: it is billed
/// though the call ends without a reply. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct UnseenUsage(Arc<Mutex<Unseen>>);

/// What there is of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Unseen {
    /// Of thoughts and the arguments of tools.
    text: TokenEstimate,
    /// What the endpoint says of all so far.
    reported: Option<TokenUsage>,
}

impl UnseenUsage {
    /// More was written.
    pub fn push(&self, text: &str) {
        self.lock().text.push(text);
    }

    /// The endpoint says what was used so far.
    pub fn report(&self, usage: TokenUsage) {
        self.lock().reported = Some(usage);
    }

    /// Takes all of it out: another model is asked.
    pub(super) fn take(&self) -> Unseen {
        std::mem::take(&mut *self.lock())
    }

    /// Puts it back: the failure of the model that used it is returned.
    pub(super) fn put_back(&self, unseen: Unseen) {
        *self.lock() = unseen;
    }

    /// Whether there is any text.
    pub fn is_written(&self) -> bool {
        self.lock().text.tokens() > 0
    }

    /// The usage of the call so far, which has read and handed on about so many tokens.
    pub fn usage(&self, read: u64, handed_on: u64) -> TokenUsage {
        let Unseen { text, reported } = *self.lock();
        let estimate = TokenUsage::reported(read, handed_on + text.tokens());
        let known = reported.unwrap_or(estimate);
        let completion_tokens = known.completion_tokens.max(estimate.completion_tokens);
        TokenUsage { completion_tokens, ..known }
    }

    fn lock(&self) -> MutexGuard<'_, Unseen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
