//! Limits the rate of calls: how many at one time, which adapts to the endpoint, and how many per
//! minute, which its provider sets. Calls that must wait are queued in order. Waiting is not a
//! failure, and time-outs start when the call is made.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep_until, timeout_at};

use super::{LargeModelError, ReplyChunk, ReplyStream};
use crate::trajectory::TokenUsage;

mod aimd;
mod rates;

use aimd::{Aimd, Answered};
use rates::Rates;

/// The fixed cost of a call at an endpoint, in tokens written.
const OVERHEAD: f64 = 16.0;
/// Tokens read in the time that writing one takes.
const READ_AT_ONCE: f64 = 8.0;
/// The wait after a refusal that names none; it doubles with each refusal in a row.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The assumed length of a reply, in tokens, before any was seen.
const FIRST_REPLY: u64 = 256;
/// Models of an endpoint that are tracked separately.
const MOST_MODELS: usize = 1_024;

/// The configured limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct PaceConfig {
    /// The upper bound of the adaptive limit; `None`: concurrency is not limited here.
    pub(super) adaptive: Option<usize>,
    /// Calls that take longer than this are too slow for many at once.
    pub(super) longest: Duration,
    pub(super) requests_per_minute: Option<u32>,
    pub(super) tokens_per_minute: Option<u64>,
}

/// The rate limiter of one endpoint.
pub(super) struct Pace {
    name: String,
    config: PaceConfig,
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
    /// Held while waiting for the per-minute limits, so that calls proceed in order.
    turn: tokio::sync::Mutex<()>,
    rates: Mutex<Rates>,
    /// Tokens of the replies so far, and their number.
    replies: Mutex<(u64, u64)>,
}

/// The state of one model.
struct Lane {
    places: Arc<Semaphore>,
    state: Mutex<LaneState>,
}

struct LaneState {
    aimd: Aimd,
    /// Slots, taken or free.
    places: usize,
    /// No slot is taken before this.
    not_before: Option<Instant>,
    /// Refusals since the last reply.
    refusals: u32,
}

/// A call's slot, returned when dropped.
pub(super) struct Place {
    pace: Arc<Pace>,
    lane: Option<(Arc<Lane>, OwnedSemaphorePermit)>,
    began: Instant,
    was_full: bool,
    /// The request's number in the per-minute window.
    number: Option<u64>,
}

impl Pace {
    /// `None` if nothing is limited here. `name` is the large model's.
    pub(super) fn new(name: &str, config: PaceConfig) -> Option<Arc<Self>> {
        let has_rates = config.requests_per_minute.is_some() || config.tokens_per_minute.is_some();
        (config.adaptive.is_some() || has_rates).then(|| {
            Arc::new(Self {
                name: name.to_owned(),
                config,
                lanes: Mutex::default(),
                turn: tokio::sync::Mutex::default(),
                rates: Mutex::new(Rates::new(config.requests_per_minute, config.tokens_per_minute)),
                replies: Mutex::default(),
            })
        })
    }

    /// Waits for a slot for a call of `model` that sends `read` tokens and limits its reply to
    /// `max_tokens`. `None` if `until` comes first.
    pub(super) async fn place(
        self: &Arc<Self>,
        model: &str,
        read: u64,
        max_tokens: Option<u64>,
        until: Option<Instant>,
    ) -> Option<Place> {
        let waiting = self.wait(model, read, max_tokens);
        match until {
            Some(until) => timeout_at(until.into(), waiting).await.ok().flatten(),
            None => waiting.await,
        }
    }

    async fn wait(
        self: &Arc<Self>,
        model: &str,
        read: u64,
        max_tokens: Option<u64>,
    ) -> Option<Place> {
        let (mut lane, mut was_full) = (None, false);
        if let Some(most) = self.config.adaptive {
            let found = self.lane(model, most);
            let permit = Arc::clone(&found.places).acquire_owned().await.ok()?;
            while let Some(until) = found.pause() {
                sleep_until(until.into()).await;
            }
            was_full = found.places.available_permits() == 0;
            lane = Some((found, permit));
        }
        let number = self.take(read + max_tokens.unwrap_or_else(|| self.expected())).await;
        Some(Place { pace: Arc::clone(self), lane, began: Instant::now(), was_full, number })
    }

    /// Waits until a request of about `tokens` tokens is within the per-minute limits.
    pub(super) async fn take(&self, tokens: u64) -> Option<u64> {
        if self.config.requests_per_minute.is_none() && self.config.tokens_per_minute.is_none() {
            return None;
        }
        let _turn = self.turn.lock().await;
        loop {
            let taken = lock(&self.rates).take(tokens, Instant::now());
            match taken {
                Ok(number) => return Some(number),
                Err(until) => sleep_until(until.into()).await,
            }
        }
    }

    /// The expected length of a reply, in tokens.
    fn expected(&self) -> u64 {
        let (tokens, replies) = *lock(&self.replies);
        tokens.checked_div(replies).unwrap_or(FIRST_REPLY)
    }

    fn lane(&self, model: &str, most: usize) -> Arc<Lane> {
        let mut lanes = lock(&self.lanes);
        if lanes.len() >= MOST_MODELS && !lanes.contains_key(model) {
            lanes.clear();
        }
        let lane = lanes.entry(model.to_owned()).or_insert_with(|| {
            let aimd = Aimd::new(most, self.config.longest);
            let places = aimd.limit();
            let state = LaneState { aimd, places, not_before: None, refusals: 0 };
            Arc::new(Lane { places: Arc::new(Semaphore::new(places)), state: Mutex::new(state) })
        });
        Arc::clone(lane)
    }
}

impl Lane {
    /// Until when no call is made, if there is such a time.
    fn pause(&self) -> Option<Instant> {
        lock(&self.state).not_before.filter(|until| *until > Instant::now())
    }

    /// Updates the state of the endpoint, and its number of slots.
    fn learn(&self, name: &str, change: impl FnOnce(&mut LaneState)) {
        let mut state = lock(&self.state);
        let before = state.aimd.limit();
        change(&mut state);
        let limit = state.aimd.limit();
        if limit > state.places {
            self.places.add_permits(limit - state.places);
            state.places = limit;
        } else {
            // Slots in use are removed when they are returned.
            state.places -= self.places.forget_permits(state.places - limit);
        }
        if limit != before {
            tracing::debug!(model = name, limit, before, "calls at one time");
        }
    }

    /// Returns a slot.
    fn give_back(&self, permit: OwnedSemaphorePermit) {
        let mut state = lock(&self.state);
        if state.places > state.aimd.limit() {
            permit.forget();
            state.places -= 1;
        }
    }
}

impl Place {
    /// Notes a reply.
    pub(super) fn replied(self, usage: TokenUsage) {
        let tokens = usage.prompt_tokens + usage.completion_tokens;
        if let Some(number) = self.number {
            lock(&self.pace.rates).used(number, tokens);
        }
        {
            let mut replies = lock(&self.pace.replies);
            *replies = (replies.0 + usage.completion_tokens, replies.1 + 1);
        }
        let work =
            OVERHEAD + usage.completion_tokens as f64 + usage.prompt_tokens as f64 / READ_AT_ONCE;
        let (began, was_full) = (self.began, self.was_full);
        self.learn(|state| {
            (state.refusals, state.not_before) = (0, None);
            state.aimd.answered(Answered { began, ended: Instant::now(), work, was_full });
        });
    }

    /// Notes a failure. Returns whether the call may be repeated once it has a slot: it was refused
    /// for overload.
    pub(super) fn failed(self, error: &LargeModelError) -> bool {
        let (began, now) = (self.began, Instant::now());
        let mut is_refused = false;
        self.learn(|state| {
            let asked = match error {
                LargeModelError::Status { status: 429 | 503 | 529, retry_after, .. } => {
                    is_refused = error.is_transient();
                    *retry_after
                }
                // The breaker's name for refusals.
                LargeModelError::CircuitOpen { retry_in, .. } => {
                    is_refused = state.refusals > 0;
                    Some(*retry_in)
                }
                LargeModelError::Timeout { .. } => {
                    state.aimd.refused(began, now);
                    None
                }
                _ => None,
            };
            if !is_refused {
                return;
            }
            let doubled = FIRST_PAUSE.saturating_mul(1 << state.refusals.min(5));
            let pause = asked.unwrap_or(doubled.min(LONGEST_PAUSE));
            if state.not_before.is_none_or(|until| until <= now) {
                state.refusals += 1;
            }
            state.not_before = state.not_before.max(Some(now + pause));
            state.aimd.refused(began, now);
        });
        if let Some(number) = self.number {
            lock(&self.pace.rates).used(number, 0);
        }
        is_refused
    }

    fn learn(&self, change: impl FnOnce(&mut LaneState)) {
        if let Some((lane, _)) = &self.lane {
            lane.learn(&self.pace.name, change);
        }
    }

    /// The stream of a reply, which holds the slot to its end.
    pub(super) fn watch(self, replies: ReplyStream) -> ReplyStream {
        stream::unfold((replies, Some(self)), async |(mut replies, mut place)| {
            let chunk = replies.next().await?;
            match &chunk {
                Ok(ReplyChunk::Text(_)) => {}
                Ok(ReplyChunk::Done(reply)) => {
                    if let Some(place) = place.take() {
                        place.replied(reply.usage);
                    }
                }
                Err(error) => {
                    if let Some(place) = place.take() {
                        place.failed(error);
                    }
                }
            }
            Some((chunk, (replies, place)))
        })
        .boxed()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((lane, permit)) = self.lane.take() {
            lane.give_back(permit);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
