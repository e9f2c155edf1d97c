//! The calls of one model, and how many of them may be under way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::aimd::Aimd;
use super::lock;

/// Models of an endpoint that are distinguished.
const MAX_MODELS: usize = 1_024;

/// Those of all models, by id.
#[derive(Default)]
pub(super) struct Lanes(HashMap<String, Arc<Lane>>);

impl Lanes {
    pub(super) fn get(&mut self, model: &str, make: impl FnOnce() -> Lane) -> Arc<Lane> {
        if self.0.len() >= MAX_MODELS && !self.0.contains_key(model) {
            self.0.clear();
        }
        Arc::clone(self.0.entry(model.to_owned()).or_insert_with(|| Arc::new(make())))
    }
}

/// The calls of one model.
pub(super) struct Lane {
    pub(super) slots: Arc<Semaphore>,
    state: Mutex<LaneState>,
}

pub(super) struct LaneState {
    pub(super) aimd: Aimd,
    /// The number of slots, taken and free.
    slots: usize,
    /// No slot is given before this time.
    pub(super) not_before: Option<Instant>,
    /// Refusals since the last reply.
    pub(super) refusals: u32,
}

impl Lane {
    /// At most `max_limit` calls at once; calls of more than `max_duration` are too long.
    pub(super) fn new(max_limit: usize, max_duration: Duration) -> Self {
        let aimd = Aimd::new(max_limit, max_duration);
        let slots = aimd.limit();
        let state = LaneState { aimd, slots, not_before: None, refusals: 0 };
        Self { slots: Arc::new(Semaphore::new(slots)), state: Mutex::new(state) }
    }

    /// Until when no call is made, if there is such a time.
    pub(super) fn pause(&self) -> Option<Instant> {
        lock(&self.state).not_before.filter(|until| *until > Instant::now())
    }

    /// Changes what is known of the endpoint, and the number of slots with it.
    pub(super) fn learn(&self, name: &str, change: impl FnOnce(&mut LaneState)) {
        let mut state = lock(&self.state);
        let before = state.aimd.limit();
        change(&mut state);
        let limit = state.aimd.limit();
        if limit > state.slots {
            self.slots.add_permits(limit - state.slots);
            state.slots = limit;
        } else {
            // Those that are taken go when they are given back.
            state.slots -= self.slots.forget_permits(state.slots - limit);
        }
        if limit != before {
            tracing::debug!(model = name, limit, before, "calls at once");
        }
    }

    /// Takes a slot back.
    pub(super) fn release(&self, permit: OwnedSemaphorePermit) {
        let mut state = lock(&self.state);
        if state.slots > state.aimd.limit() {
            permit.forget();
            state.slots -= 1;
        }
    }
}
