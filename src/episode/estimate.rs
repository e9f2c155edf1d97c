//! Usage of a cancelled call, estimated from the length of its texts because none is reported.

use std::sync::{Arc, PoisonError};

use super::{EpisodeUsage, Tally};
use crate::large_model::{CallUsage, FailedCalls, LargeModelError, Prices, Waiting};
use crate::token_estimate::TokenEstimate;
use crate::trajectory::TokenUsage;

/// A call in progress. Its estimated usage is in the tally at all times, so that it counts even if
/// the call is cancelled; the reported usage replaces it at the end. Dropped while the call waits
/// to be sent, it leaves nothing there.
pub(super) struct CallEstimate {
    tally: Tally,
    /// Usage before this call.
    before: EpisodeUsage,
    role: fn(&mut EpisodeUsage) -> &mut CallUsage,
    prices: Prices,
    /// Tokens.
    read: u64,
    written: TokenEstimate,
    /// What is known to have been billed, in place of the estimate.
    billed: Option<TokenUsage>,
    /// Further calls that failed in its place.
    pub(super) lost: FailedCalls,
    /// Whether it waits to be sent.
    pub(super) waiting: Waiting,
}

impl CallEstimate {
    /// A call of `role` that reads about so many tokens.
    pub(super) fn begin(
        tally: &Tally,
        before: EpisodeUsage,
        role: fn(&mut EpisodeUsage) -> &mut CallUsage,
        prices: Prices,
        read: u64,
    ) -> Self {
        let written = TokenEstimate::default();
        let (tally, lost, waiting) =
            (Arc::clone(tally), FailedCalls::default(), Waiting::default());
        let begun =
            Self { tally, before, role, prices, read, written, billed: None, lost, waiting };
        begun.publish();
        begun
    }

    /// More text was written.
    pub(super) fn write(&mut self, text: &str) {
        self.written.push(text);
        self.publish();
    }

    /// The call failed.
    pub(super) fn fail(&mut self, error: &LargeModelError) {
        self.billed = error.billed();
    }

    /// Whether any text was received.
    pub(super) fn has_written(&self) -> bool {
        self.written.tokens() > 0
    }

    /// The estimated usage of the call, or what is known of it.
    pub(super) fn used(&self) -> CallUsage {
        let estimate = || TokenUsage::reported(self.read, self.written.tokens());
        let tokens = self.billed.unwrap_or_else(estimate);
        CallUsage { calls: 1, tokens, cost: self.prices.cost(tokens) }
    }

    /// The estimated usage of calls that failed in its place.
    pub(super) fn lost(&self) -> CallUsage {
        self.lost.used()
    }

    /// The usage before the call plus the estimates.
    pub(super) fn usage(&self) -> EpisodeUsage {
        self.usage_with(self.used())
    }

    fn usage_with(&self, used: CallUsage) -> EpisodeUsage {
        let mut usage = self.before;
        let role = (self.role)(&mut usage);
        *role += used;
        *role += self.lost();
        usage
    }

    fn publish(&self) {
        self.tell(self.usage());
    }

    fn tell(&self, usage: EpisodeUsage) {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner) = usage;
    }
}

impl Drop for CallEstimate {
    fn drop(&mut self) {
        if self.waiting.is_on() {
            self.tell(self.usage_with(CallUsage::default()));
        }
    }
}
