//! What a call has used that is cut: nobody says, so it is estimated by its texts.

use std::sync::{Arc, PoisonError};

use super::{EpisodeUsage, RoleUsage, Tally};
use crate::large_model::Prices;
use crate::token_estimate::TokenEstimate;
use crate::trajectory::TokenUsage;

/// A call under way. What it has used so far stands in the tally, for whoever must know even when
/// the call is cut; what it was billed takes that place at its end.
pub(super) struct UnderWay {
    tally: Tally,
    /// What was used before it.
    before: EpisodeUsage,
    role: fn(&mut EpisodeUsage) -> &mut RoleUsage,
    prices: Prices,
    /// Tokens.
    read: u64,
    written: TokenEstimate,
}

impl UnderWay {
    /// A call of `role` that reads about so many tokens.
    pub(super) fn begin(
        tally: &Tally,
        before: EpisodeUsage,
        role: fn(&mut EpisodeUsage) -> &mut RoleUsage,
        prices: Prices,
        read: u64,
    ) -> Self {
        let written = TokenEstimate::default();
        let begun = Self { tally: Arc::clone(tally), before, role, prices, read, written };
        begun.tell();
        begun
    }

    /// More text was written.
    pub(super) fn write(&mut self, text: &str) {
        self.written.push(text);
        self.tell();
    }

    /// Whether any was.
    pub(super) fn has_written(&self) -> bool {
        self.written.tokens() > 0
    }

    /// What the call has used.
    pub(super) fn used(&self) -> RoleUsage {
        let tokens = TokenUsage::reported(self.read, self.written.tokens());
        RoleUsage { calls: 1, tokens, cost: self.prices.cost(tokens) }
    }

    /// That, and what was used before it.
    pub(super) fn usage(&self) -> EpisodeUsage {
        let mut usage = self.before;
        *(self.role)(&mut usage) += self.used();
        usage
    }

    fn tell(&self) {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner) = self.usage();
    }
}
