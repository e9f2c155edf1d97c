//! Usage of a cancelled call, estimated from the length of its texts because none is reported.

use std::sync::{Arc, PoisonError};

use super::{EpisodeUsage, Tally};
use crate::large_model::{CallUsage, FailedCalls, LargeModelError, Prices, UnseenUsage, Waiting};
use crate::protocol::Piece;
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
    /// Calls of other models that failed before this one was made.
    pub(super) failed_calls: FailedCalls,
    /// What is used beside the texts.
    pub(super) unseen: UnseenUsage,
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
        let (tally, failed_calls) = (Arc::clone(tally), FailedCalls::default());
        let (unseen, waiting) = (UnseenUsage::default(), Waiting::default());
        let billed = None;
        let begun = Self {
            tally,
            before,
            role,
            prices,
            read,
            written,
            billed,
            failed_calls,
            unseen,
            waiting,
        };
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
        self.written.tokens() > 0 || self.unseen.is_written()
    }

    /// The estimated usage of the call, or what is known of it.
    pub(super) fn used(&self) -> CallUsage {
        let estimate = || self.unseen.usage(self.read, self.written.tokens());
        let tokens = self.billed.unwrap_or_else(estimate);
        CallUsage { calls: 1, tokens, cost: self.prices.cost(tokens) }
    }

    /// The estimated usage of calls that failed in its place.
    pub(super) fn failed_calls(&self) -> CallUsage {
        self.failed_calls.used()
    }

    /// The usage before the call plus the estimates.
    fn usage(&self) -> EpisodeUsage {
        self.usage_with(self.used())
    }

    /// The same at its end; its own only if it `may_be_billed` by the estimate.
    pub(super) fn ended(&self, may_be_billed: bool) -> EpisodeUsage {
        self.usage_with(if may_be_billed { self.used() } else { CallUsage::default() })
    }

    fn usage_with(&self, used: CallUsage) -> EpisodeUsage {
        let mut usage = self.before;
        let role = (self.role)(&mut usage);
        *role += used;
        *role += self.failed_calls();
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
        match self.waiting.is_on() {
            true => self.tell(self.usage_with(CallUsage::default())),
            // More may have come since.
            false => self.publish(),
        }
    }
}

/// About how many tokens pieces have.
pub(super) fn estimate_of(pieces: &[Piece]) -> TokenEstimate {
    let mut estimate = TokenEstimate::default();
    for Piece::Markup(text) | Piece::Text(text) in pieces {
        estimate.push(text);
    }
    estimate
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::large_model::{Call, LargeModel, Scripted, WithFallbacks};

    #[test]
    fn thoughts_of_a_cancelled_call_count() {
        let (tally, before) = (Tally::default(), EpisodeUsage::default());
        let prices = Prices::default();
        let call = CallEstimate::begin(&tally, before, |usage| &mut usage.large_model, prices, 3);
        call.unseen.push("two words");
        let unseen = call.unseen.clone();
        drop(call);
        let used = tally.lock().unwrap().large_model;
        let written = TokenEstimate::of("two words").tokens();
        assert_eq!((used.calls, used.tokens), (1, TokenUsage::reported(3, written)));
        // Thoughts that are not sent are part of what the endpoint says.
        unseen.report(TokenUsage::reported(7, 90));
        assert_eq!(unseen.usage(3, 5), TokenUsage::reported(7, 90));
        unseen.report(TokenUsage::reported(7, 1));
        assert_eq!(unseen.usage(3, 5), TokenUsage::reported(7, written + 5));
    }

    #[tokio::test]
    async fn calls_that_failed_in_place_of_one_count_though_it_is_not_billed() {
        let failing = |status: u16| -> Arc<dyn LargeModel> {
            Arc::new(Scripted::new("m", move |_: &Call| {
                let (model, message) = (String::new(), String::new());
                let (retry_after, body, billed) = (None, None, None);
                Err(LargeModelError::Status { model, status, message, retry_after, body, billed })
            }))
        };
        // A gateway's time-out may be billed.
        let model = WithFallbacks::new(failing(503), vec![failing(504)]);
        let (tally, before) = (Tally::default(), EpisodeUsage::default());
        let prices = Prices::default();
        let call = CallEstimate::begin(&tally, before, |usage| &mut usage.policy, prices, 3);
        let asked = Call { failed_calls: call.failed_calls.clone(), ..Call::default() };
        assert!(model.stream(&asked).await.is_err());
        assert_eq!(call.ended(false).policy.calls, 1);
        assert_eq!(call.ended(true).policy.calls, 2);
    }
}
