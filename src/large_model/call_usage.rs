//! What calls of a model used, failed ones included.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{Call, LargeModel, LargeModelError, Reply};
use crate::chat::ChatMessage;
use crate::compute;
use crate::token_estimate::TokenEstimate;
use crate::trajectory::TokenUsage;

/// What calls of a model, or the turns of a policy, used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct CallUsage {
    /// Calls made, or turns written.
    pub calls: u64,
    /// Tokens read and written, summed over the calls.
    #[serde(flatten)]
    pub tokens: TokenUsage,
    /// What it cost, in the currency of the configured prices.
    pub cost: f64,
}

impl std::ops::AddAssign for CallUsage {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.tokens += other.tokens;
        self.cost += other.cost;
    }
}

impl From<&Reply> for CallUsage {
    fn from(reply: &Reply) -> Self {
        Self { calls: 1, tokens: reply.usage, cost: reply.cost }
    }
}

impl CallUsage {
    /// The usage of a `call` of `model` with this result, and of calls that failed in its place;
    /// estimated where an endpoint reports none.
    pub fn of_call(
        model: &dyn LargeModel,
        call: &Call,
        result: &Result<Reply, LargeModelError>,
    ) -> Self {
        let mut used = call.failed_calls.used();
        used += match result {
            Ok(reply) => Self::from(reply),
            Err(error) => Self::of_failed(error, model, call),
        };
        used
    }

    /// The usage of `call`, which `model` failed with `error`: none if it cannot have been billed.
    /// What is known to have been written counts.
    pub fn of_failed(error: &LargeModelError, model: &dyn LargeModel, call: &Call) -> Self {
        if !error.may_be_billed() {
            return Self::default();
        }
        let tokens = error.billed().unwrap_or_else(|| {
            let bytes = call.messages.iter().map(ChatMessage::text_length).sum();
            let read = compute::in_place(bytes, || estimated_tokens(&call.messages));
            call.unseen.usage(read, 0)
        });
        let named = call.field("model").and_then(serde_json::Value::as_str);
        let prices = model.prices_of(named).unwrap_or_else(|| model.prices());
        Self { calls: 1, tokens, cost: prices.cost(tokens) }
    }

    /// The same as at least one call, for where calls count whether or not they were billed.
    pub fn counted(self) -> Self {
        Self { calls: self.calls.max(1), ..self }
    }
}

/// Usage of calls that failed on behalf of one, which the caller does not see because another model
/// replied. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct FailedCalls(Arc<Mutex<CallUsage>>);

impl FailedCalls {
    /// All of it so far.
    pub fn used(&self) -> CallUsage {
        *self.lock()
    }

    pub(super) fn set(&self, used: CallUsage) {
        *self.lock() = used;
    }

    pub(super) fn add(&self, more: CallUsage) {
        *self.lock() += more;
    }

    fn lock(&self) -> MutexGuard<'_, CallUsage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// About how many tokens a model reads in a conversation.
pub fn estimated_tokens(messages: &[ChatMessage]) -> u64 {
    let mut read = TokenEstimate::default();
    for text in messages.iter().flat_map(ChatMessage::texts) {
        read.push(text);
        read.end();
    }
    read.tokens()
}
