//! What waits for the engine's next step: requests, in order and bounded, and new weights.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::UnboundedSender;

use crate::engine::{EngineError, GenerateEvent, GenerateRequest};
use crate::model::weights::Weights;

/// A request and where its events go.
#[derive(Debug)]
pub(super) struct Submission {
    pub request: GenerateRequest,
    /// The adapter that it is computed with, by its place among the engine's.
    pub adapter: Option<usize>,
    pub events: UnboundedSender<GenerateEvent>,
}

impl Submission {
    pub fn fail(self, error: EngineError) {
        // A receiver that is gone wants no report.
        let _ = self.events.send(GenerateEvent::Failed(error));
    }
}

/// What a step begins with.
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
        // Nothing panics while it holds the lock, and a half-made change could not be seen.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a request; fails it when the queue is full of requests that are still wanted, or nobody
    /// takes from it any more.
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

    /// Has the next step use other weights.
    pub fn set_weights(&self, weights: Weights) {
        let replaced = self.state().weights.replace(weights);
        self.changed.notify_one();
        drop(replaced);
    }

    /// Ends the loop that takes.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_one();
    }

    /// Takes at most `room` requests; waits for something to take when `idle`. `None` once closed.
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

    /// Fails every request that waits.
    pub fn fail(&self, reason: &str) {
        let waiting = std::mem::take(&mut self.state().submissions);
        for submission in waiting {
            submission.fail(EngineError::Stopped(reason.to_owned()));
        }
    }
}
