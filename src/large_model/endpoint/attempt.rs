//! One attempt at an endpoint: its slot, and the report of its outcome.

use std::sync::Arc;
use std::time::Instant;

use super::exchange::Exchange;
use super::slots::ConcurrencySlot;
use crate::large_model::{AttemptOutcome, LargeModelError, Phase};

/// An attempt in progress. It reports its outcome when it is dropped: cancelled, unless another was
/// set.
pub(super) struct Attempt {
    exchange: Arc<Exchange>,
    started: Instant,
    outcome: AttemptOutcome,
    _slot: ConcurrencySlot,
}

impl Attempt {
    /// Begins an attempt once a slot is free, unless the breaker opened meanwhile.
    pub(super) async fn begin(exchange: &Arc<Exchange>) -> Result<Self, LargeModelError> {
        exchange.waiting.begin();
        let transport = &exchange.transport;
        let slot = match transport.slots.try_take(exchange.caller) {
            Some(slot) => slot,
            None => {
                let slot = transport.slots.take(exchange.caller);
                let total = transport.config.timeouts.total();
                exchange
                    .within(Phase::FreeSlot, total, slot)
                    .await?
                    .ok_or_else(|| exchange.rejected("its endpoint is closed"))?
            }
        };
        exchange.check_admitted()?;
        Ok(Self {
            exchange: Arc::clone(exchange),
            started: Instant::now(),
            outcome: AttemptOutcome::Cancelled,
            _slot: slot,
        })
    }

    /// Records that a response has begun.
    pub(super) fn response_began(&self) {
        self.exchange.response_began();
    }

    /// Records the outcome.
    pub(super) fn set_outcome(&mut self, outcome: AttemptOutcome) {
        self.outcome = outcome;
    }

    /// Records the outcome of a result.
    pub(super) fn set_outcome_of<T>(&mut self, result: &Result<T, LargeModelError>) {
        self.set_outcome(match result {
            Ok(_) => AttemptOutcome::Success,
            Err(error) => AttemptOutcome::from(error),
        });
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let (outcome, elapsed) = (self.outcome, self.started.elapsed());
        self.exchange.note(outcome);
        let transport = &self.exchange.transport;
        let model = &*transport.name;
        tracing::debug!(
            model,
            outcome = outcome.label(),
            code = outcome.code(),
            elapsed_us = elapsed.as_micros() as u64,
            "attempt at a large model"
        );
        transport.observer.attempt(model, outcome, elapsed);
    }
}
