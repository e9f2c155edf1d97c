//! Usage of a cancelled call, estimated from the length of its texts because none is reported.

use std::sync::{Arc, PoisonError};

use super::{EpisodeUsage, RoleUsage, Tally};
use crate::large_model::{FailedCalls, LargeModelError, Prices};
use crate::token_estimate::TokenEstimate;
use crate::trajectory::TokenUsage;

/// A call in progress. Its estimated usage is in the tally at all times, so that it counts even if
/// the call is cancelled; the reported usage replaces it at the end.
pub(super) struct CallEstimate {
    tally: Tally,
    /// Usage before this call.
    before: EpisodeUsage,
    role: fn(&mut EpisodeUsage) -> &mut RoleUsage,
    prices: Prices,
    /// Tokens.
    read: u64,
    written: TokenEstimate,
    /// What is known to have been billed, in place of the estimate.
    billed: Option<TokenUsage>,
    /// Further calls that failed in its place.
    pub(super) lost: FailedCalls,
}

impl CallEstimate {
    /// A call of `role` that reads about so many tokens.
    pub(super) fn begin(
        tally: &Tally,
        before: EpisodeUsage,
        role: fn(&mut EpisodeUsage) -> &mut RoleUsage,
        prices: Prices,
        read: u64,
    ) -> Self {
        let written = TokenEstimate::default();
        let (tally, lost) = (Arc::clone(tally), FailedCalls::default());
        let begun = Self { tally, before, role, prices, read, written, billed: None, lost };
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
    pub(super) fn used(&self) -> RoleUsage {
        let estimate = || TokenUsage::reported(self.read, self.written.tokens());
        let tokens = self.billed.unwrap_or_else(estimate);
        RoleUsage { calls: 1, tokens, cost: self.prices.cost(tokens) }
    }

    /// The estimated usage of calls that failed in its place.
    pub(super) fn lost(&self) -> RoleUsage {
        self.lost.used().into()
    }

    /// The usage before the call plus the estimates.
    pub(super) fn usage(&self) -> EpisodeUsage {
        let mut usage = self.before;
        let role = (self.role)(&mut usage);
        *role += self.used();
        *role += self.lost();
        usage
    }

    fn publish(&self) {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner) = self.usage();
    }
}
