//! The engine's inputs for its next step: a bounded queue of requests, and new weights.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::UnboundedSender;

use crate::engine::{EngineError, GenerateEvent, GenerateRequest};
use crate::model::weights::Weights;

/// A request and the sender of its events.
#[derive(Debug)]
pub(super) struct Submission {
    pub request: GenerateRequest,
    /// The adapter that it is computed with, by its index among the engine's.
    pub adapter: Option<usize>,
    pub events: UnboundedSender<GenerateEvent>,
}

impl Submission {
    pub fn fail(self, error: EngineError) {
        // If the receiver is gone, nobody needs the report.
        let _ = self.events.send(GenerateEvent::Failed(error));
    }
}

/// The inputs of a step.
#[derive(Debug)]
pub(super) struct Delivery {
    pub submissions: Vec<Submission>,
    pub weights: Option<Weights>,
}

/// The engine's queue.
#[derive(Debug)]
pub(super) struct Inbox {
    bound: usize,
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    submissions: VecDeque<Submission>,
    weights: Option<Weights>,
    closed: bool,
}

impl Inbox {
    pub fn new(bound: usize) -> Self {
        Self { bound, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        // Nothing panics while it holds the lock, so the data is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a request. Fails it if the queue is full of requests that are still wanted, or
    /// closed.
    pub fn push(&self, submission: Submission) {
        let mut state = self.state();
        if state.closed {
            drop(state);
            return submission.fail(EngineError::Stopped("it has ended".into()));
        }
        if state.submissions.len() >= self.bound {
            state.submissions.retain(|waiting| !waiting.events.is_closed());
        }
        if state.submissions.len() >= self.bound {
            drop(state);
            return submission.fail(EngineError::Overloaded);
        }
        state.submissions.push_back(submission);
        drop(state);
        self.changed.notify_one();
    }

    /// Replaces the weights at the next step.
    pub fn set_weights(&self, weights: Weights) {
        let replaced = self.state().weights.replace(weights);
        self.changed.notify_one();
        drop(replaced);
    }

    /// Closes the queue.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_one();
    }

    /// Takes at most `room` requests; blocks until there is something to take when `idle`. `None`
    /// once closed.
    pub fn take(&self, room: usize, idle: bool) -> Option<Delivery> {
        let nothing = |state: &mut QueueState| {
            idle && !state.closed && state.submissions.is_empty() && state.weights.is_none()
        };
        let waited = self.changed.wait_while(self.state(), nothing);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return None;
        }
        let count = room.min(state.submissions.len());
        let submissions = state.submissions.drain(..count).collect();
        Some(Delivery { submissions, weights: state.weights.take() })
    }

    /// Fails every queued request.
    pub fn fail(&self, reason: &str) {
        let waiting = std::mem::take(&mut self.state().submissions);
        for submission in waiting {
            submission.fail(EngineError::Stopped(reason.to_owned()));
        }
    }
}
