//! One attempt at an endpoint: its slot, its ticket, and the report of how it ended.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::breaker::{Health, Ticket};
use super::error::LargeModelError;
use super::transport::Transport;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptOutcome {
    /// With a good response.
    Success,
    /// With this error status.
    Status(u16),
    /// Without a connection, or with a broken one.
    Unreachable,
    /// With a time-out.
    Timeout,
    /// With something that is no reply.
    Malformed,
    /// The caller left, or its deadline passed.
    Cancelled,
}

impl AttemptOutcome {
    /// The outcome in one word, for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Status(_) => "status",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Malformed => "malformed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The error status, if there was one.
    pub fn code(self) -> Option<u16> {
        match self {
            Self::Status(code) => Some(code),
            _ => None,
        }
    }

    /// What this says about the endpoint. One that refuses calls, also by rate limits, is up.
    fn health(self) -> Health {
        match self {
            Self::Status(code) if code >= 500 => Health::Bad,
            Self::Success | Self::Status(_) => Health::Good,
            Self::Unreachable | Self::Timeout | Self::Malformed => Health::Bad,
            Self::Cancelled => Health::Unknown,
        }
    }
}

impl From<&LargeModelError> for AttemptOutcome {
    fn from(error: &LargeModelError) -> Self {
        match error {
            LargeModelError::Unreachable { .. } => Self::Unreachable,
            LargeModelError::Timeout { .. } => Self::Timeout,
            LargeModelError::Status { status, .. } => Self::Status(*status),
            LargeModelError::Malformed { .. } => Self::Malformed,
            LargeModelError::Deadline { .. } | LargeModelError::CircuitOpen { .. } => {
                Self::Cancelled
            }
            // The endpoint did its part.
            LargeModelError::Rejected { .. } => Self::Success,
        }
    }
}

/// Is told of every attempt; called from within the call, so it must be quick.
pub trait AttemptObserver: Send + Sync {
    /// An attempt at the large model of this name ended, so long after it began. For a stream:
    /// when its last piece was read.
    fn attempt(&self, model: &str, outcome: AttemptOutcome, elapsed: Duration);
}

/// Looks away.
impl AttemptObserver for () {
    fn attempt(&self, _model: &str, _outcome: AttemptOutcome, _elapsed: Duration) {}
}

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
        breaker.record(self.ticket, outcome.health(), now);
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
