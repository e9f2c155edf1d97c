//! Limits calls: how many at once, which adapts to the endpoint's capacity, and how many per
//! minute, which the provider sets. Both limits are shared by everything that uses one URL and key.
//! Calls that must wait are queued in order; waiting is not a failure, and no time-out runs yet.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use secrecy::SecretString;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep_until, timeout_at};

use super::{LargeModelError, ReplyChunk, ReplyStream};
use crate::trajectory::TokenUsage;

mod account;
mod aimd;
mod lane;
mod rates;

use account::Account;
use aimd::Answered;
use lane::{Lane, LaneState};
pub(super) use rates::Limits;

/// The fixed cost of a call at an endpoint, in tokens written.
const OVERHEAD: f64 = 16.0;
/// Tokens read in the time that writing one takes.
const READ_AT_ONCE: f64 = 8.0;
/// The wait after a refusal that names none; it doubles with each refusal in a row.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// The longest wait that an endpoint may ask for.
const MAX_REQUESTED_WAIT: Duration = Duration::from_secs(3600);
/// The assumed length of a reply, in tokens, before any was seen.
const FIRST_REPLY: u64 = 256;

/// The configured limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct PaceConfig {
    /// The upper bound of the adaptive limit; `None`: concurrency is not limited here.
    pub(super) adaptive: Option<usize>,
    /// Calls that take longer than this are too slow for many at once.
    pub(super) max_duration: Duration,
    /// What a minute may have.
    pub(super) limits: Limits,
    /// Whether calls wait while the endpoint refuses them. Otherwise they fail at once.
    pub(super) waits: bool,
}

/// Why a call has no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSlot {
    /// None became free in time.
    TimedOut,
    /// The endpoint refuses calls; the next is made after this time.
    Paused(Duration),
}

/// The pace of one large model.
pub(super) struct Pace {
    name: String,
    adaptive: Option<usize>,
    max_duration: Duration,
    waits: bool,
    account: Arc<Account>,
    /// Hold for the account as long as the large model is in use.
    _limits: Arc<Limits>,
    /// Tokens of the replies so far, and their number.
    replies: Mutex<(u64, u64)>,
}

/// A call's slot. Given back when dropped.
pub(super) struct PacedSlot {
    pace: Arc<Pace>,
    lane: Option<(Arc<Lane>, OwnedSemaphorePermit)>,
    began: Instant,
    was_full: bool,
    /// The request's number in the per-minute window.
    number: Option<u64>,
}

impl Pace {
    /// That of the large model called `name`, which is asked at `url` with `key`.
    pub(super) fn new(
        name: &str,
        url: &str,
        key: Option<&SecretString>,
        config: PaceConfig,
    ) -> Arc<Self> {
        let PaceConfig { adaptive, max_duration, limits, waits } = config;
        let limits = Arc::new(limits);
        let account = Account::of(url, key, &limits);
        let (name, replies) = (name.to_owned(), Mutex::default());
        Arc::new(Self { name, adaptive, max_duration, waits, account, _limits: limits, replies })
    }

    /// Whether calls may have to wait.
    pub(super) fn is_limited(&self) -> bool {
        self.adaptive.is_some() || self.account.has_limits()
    }

    /// Waits for a slot for a call of `model` that sends `read` tokens and limits its reply to
    /// `max_tokens`, but not beyond `until`.
    pub(super) async fn slot(
        self: &Arc<Self>,
        model: &str,
        read: u64,
        max_tokens: Option<u64>,
        until: Option<Instant>,
    ) -> Result<PacedSlot, NoSlot> {
        let waiting = self.wait(model, read, max_tokens);
        match until {
            Some(until) => timeout_at(until.into(), waiting).await.unwrap_or(Err(NoSlot::TimedOut)),
            None => waiting.await,
        }
    }

    async fn wait(
        self: &Arc<Self>,
        model: &str,
        read: u64,
        max_tokens: Option<u64>,
    ) -> Result<PacedSlot, NoSlot> {
        let (mut lane, mut was_full) = (None, false);
        if let Some(max_limit) = self.adaptive {
            let found = self.account.lane(model, || Lane::new(max_limit, self.max_duration));
            let refuse_paused = || match found.pause() {
                Some(until) if !self.waits => {
                    Err(NoSlot::Paused(until.saturating_duration_since(Instant::now())))
                }
                _ => Ok(()),
            };
            refuse_paused()?;
            let permit = Arc::clone(&found.slots).acquire_owned().await;
            let permit = permit.map_err(|_| NoSlot::TimedOut)?;
            // Another call may have been refused in the meantime.
            refuse_paused()?;
            while let Some(until) = found.pause() {
                sleep_until(until.into()).await;
            }
            was_full = found.slots.available_permits() == 0;
            lane = Some((found, permit));
        }
        let number = self.take(read + max_tokens.unwrap_or_else(|| self.expected())).await;
        Ok(PacedSlot { pace: Arc::clone(self), lane, began: Instant::now(), was_full, number })
    }

    /// Waits until a request of about `tokens` tokens is within the per-minute limits.
    pub(super) async fn take(&self, tokens: u64) -> Option<u64> {
        self.account.take(tokens).await
    }

    /// Counts a request that does not wait for its minute.
    pub(super) fn count(&self) {
        self.account.count();
    }

    /// Whether the tokens of a minute are limited.
    pub(super) fn counts_tokens(&self) -> bool {
        self.account.has_limits() && self.account.limits().tokens.is_some()
    }

    /// Puts the tokens that a request used in place of those that were expected.
    pub(super) fn used(&self, number: u64, tokens: u64) {
        self.account.used(number, tokens);
    }

    /// The expected length of a reply, in tokens.
    fn expected(&self) -> u64 {
        let (tokens, replies) = *lock(&self.replies);
        tokens.checked_div(replies).unwrap_or(FIRST_REPLY)
    }
}

impl PacedSlot {
    /// Notes a reply.
    pub(super) fn replied(self, usage: TokenUsage) {
        let tokens = usage.prompt_tokens + usage.completion_tokens;
        if let Some(number) = self.number {
            self.pace.account.used(number, tokens);
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
            let pause = asked.map_or(doubled.min(MAX_PAUSE), |it| it.min(MAX_REQUESTED_WAIT));
            if state.not_before.is_none_or(|until| until <= now) {
                state.refusals += 1;
            }
            state.not_before = state.not_before.max(Some(now + pause));
            state.aimd.refused(began, now);
        });
        if let Some(number) = self.number {
            self.pace.account.used(number, 0);
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
        stream::unfold((replies, Some(self)), async |(mut replies, mut slot)| {
            let chunk = replies.next().await?;
            match &chunk {
                Ok(ReplyChunk::Text(_) | ReplyChunk::Thought(_)) => {}
                Ok(ReplyChunk::Done(reply)) => {
                    if let Some(slot) = slot.take() {
                        slot.replied(reply.usage);
                    }
                }
                Err(error) => {
                    if let Some(slot) = slot.take() {
                        slot.failed(error);
                    }
                }
            }
            Some((chunk, (replies, slot)))
        })
        .boxed()
    }
}

impl Drop for PacedSlot {
    fn drop(&mut self) {
        if let Some((lane, permit)) = self.lane.take() {
            lane.release(permit);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
