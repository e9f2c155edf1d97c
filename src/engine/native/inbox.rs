//! What waits for the engine's next step: requests, in order and bounded, and new weights.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::UnboundedSender;

use crate::engine::{EngineError, GenerateEvent, GenerateRequest};
use crate::model::generate::decoder::Decoder;

/// A request and where its events go.
#[derive(Debug)]
pub(super) struct Submission {
    pub request: GenerateRequest,
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
    pub decoder: Option<Decoder>,
}

/// The engine's queue.
#[derive(Debug)]
pub(super) struct Inbox {
    bound: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    submissions: VecDeque<Submission>,
    decoder: Option<Decoder>,
    closed: bool,
}

impl Inbox {
    pub fn new(bound: usize) -> Self {
        Self { bound, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and a half-made change could not be seen.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a request, or gives it back when the queue is full of requests that are still wanted.
    pub fn push(&self, submission: Submission) -> Result<(), Submission> {
        let mut state = self.state();
        if state.submissions.len() >= self.bound {
            state.submissions.retain(|waiting| !waiting.events.is_closed());
        }
        if state.submissions.len() >= self.bound {
            return Err(submission);
        }
        state.submissions.push_back(submission);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Has the next step use another decoder.
    pub fn set_decoder(&self, decoder: Decoder) {
        let replaced = self.state().decoder.replace(decoder);
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
        let nothing = |state: &mut State| {
            idle && !state.closed && state.submissions.is_empty() && state.decoder.is_none()
        };
        let waited = self.changed.wait_while(self.state(), nothing);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return None;
        }
        let count = room.min(state.submissions.len());
        let submissions = state.submissions.drain(..count).collect();
        Some(Delivery { submissions, decoder: state.decoder.take() })
    }

    /// Fails every request that waits.
    pub fn fail(&self, reason: &str) {
        let waiting = std::mem::take(&mut self.state().submissions);
        for submission in waiting {
            submission.fail(EngineError::Stopped(reason.to_owned()));
        }
    }
}
