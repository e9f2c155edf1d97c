//! One attempt at an endpoint: its slot, its ticket, and the report of how it ended.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::breaker::{Health, Ticket};
use super::transport::Transport;
use crate::large_model::{AttemptOutcome, LargeModelError};

/// An attempt under way. Reports when it is dropped: as cancelled, unless it was settled.
pub(super) struct Attempt {
    transport: Arc<Transport>,
    ticket: Ticket,
    started: Instant,
    outcome: AttemptOutcome,
    _slot: OwnedSemaphorePermit,
}

impl Attempt {
    pub(super) fn new(
        transport: Arc<Transport>,
        ticket: Ticket,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        let outcome = AttemptOutcome::Cancelled;
        Self { transport, ticket, started: Instant::now(), outcome, _slot: slot }
    }

    /// Says that it is being answered.
    pub(super) fn answers(&self) {
        let mut breaker = self.transport.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        breaker.answers(self.ticket);
    }

    /// Says how it ended.
    pub(super) fn settle(&mut self, outcome: AttemptOutcome) {
        self.outcome = outcome;
    }

    /// Says how it ended, from its result.
    pub(super) fn settle_by<T>(&mut self, result: &Result<T, LargeModelError>) {
        self.settle(match result {
            Ok(_) => AttemptOutcome::Success,
            Err(error) => AttemptOutcome::from(error),
        });
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let (now, outcome) = (Instant::now(), self.outcome);
        let mut breaker = self.transport.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        breaker.record(self.ticket, health(outcome), now);
        drop(breaker);
        let (model, elapsed) = (&*self.transport.name, now - self.started);
        tracing::debug!(
            model,
            outcome = outcome.label(),
            code = outcome.code(),
            elapsed_us = elapsed.as_micros() as u64,
            "attempt at a large model"
        );
        self.transport.observer.attempt(model, outcome, elapsed);
    }
}

/// What this says about the endpoint. One that refuses calls, also by rate limits, is up.
fn health(outcome: AttemptOutcome) -> Health {
    match outcome {
        AttemptOutcome::Status(code) if code >= 500 => Health::Bad,
        AttemptOutcome::Success | AttemptOutcome::Status(_) => Health::Good,
        AttemptOutcome::Unreachable | AttemptOutcome::Timeout | AttemptOutcome::Malformed => {
            Health::Bad
        }
        AttemptOutcome::Cancelled => Health::Unknown,
    }
}
