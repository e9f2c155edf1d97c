//! Usage of a cancelled call, estimated from the length of its texts because none is reported.

use std::sync::{Arc, PoisonError};

use super::{EpisodeUsage, RoleUsage, Tally};
use crate::large_model::Prices;
use crate::trajectory::TokenUsage;

/// A call in progress. Its estimated usage is in the tally at all times, so that it counts even if
/// the call is cancelled; the reported usage replaces it at the end.
pub(super) struct UnderWay {
    tally: Tally,
    /// Usage before this call.
    before: EpisodeUsage,
    role: fn(&mut EpisodeUsage) -> &mut RoleUsage,
    prices: Prices,
    /// Bytes of text.
    read: usize,
    written: usize,
}

impl UnderWay {
    /// A call of `role` that reads so many bytes of text.
    pub(super) fn begin(
        tally: &Tally,
        before: EpisodeUsage,
        role: fn(&mut EpisodeUsage) -> &mut RoleUsage,
        prices: Prices,
        read: usize,
    ) -> Self {
        let begun = Self { tally: Arc::clone(tally), before, role, prices, read, written: 0 };
        begun.tell();
        begun
    }

    /// More text was written.
    pub(super) fn write(&mut self, text: &str) {
        self.written += text.len();
        self.tell();
    }

    /// Whether any text was received.
    pub(super) fn has_written(&self) -> bool {
        self.written > 0
    }

    /// The estimated usage of the call.
    pub(super) fn used(&self) -> RoleUsage {
        let tokens = TokenUsage::of_text(self.read, self.written);
        RoleUsage { calls: 1, tokens, cost: self.prices.cost(tokens) }
    }

    /// The usage before the call plus the estimate.
    pub(super) fn usage(&self) -> EpisodeUsage {
        let mut usage = self.before;
        *(self.role)(&mut usage) += self.used();
        usage
    }

    fn tell(&self) {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner) = self.usage();
    }
}
