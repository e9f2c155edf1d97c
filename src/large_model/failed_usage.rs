//! The cost of failed calls that the caller does not see, because another model replied.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Call, LargeModel, LargeModelError};
use crate::chat::ChatMessage;
use crate::compute;
use crate::token_estimate::TokenEstimate;
use crate::trajectory::TokenUsage;

/// Usage of failed calls on behalf of one; clones share it.
#[derive(Debug, Clone, Default)]
pub struct FailedCalls(Arc<Mutex<FailedUsage>>);

/// What failed calls used. It is estimated where their endpoints report nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FailedUsage {
    /// How many.
    pub calls: u64,
    /// Tokens that they read.
    pub tokens: TokenUsage,
    /// Their cost, at the prices of their models.
    pub cost: f64,
}

impl FailedUsage {
    /// The usage of `call`, which `model` failed with `error`: none if it cannot have been billed.
    /// What is known to have been written counts.
    pub fn of(error: &LargeModelError, model: &dyn LargeModel, call: &Call) -> Self {
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
}

impl FailedCalls {
    /// All of it so far.
    pub fn used(&self) -> FailedUsage {
        *self.lock()
    }

    pub(super) fn set(&self, used: FailedUsage) {
        *self.lock() = used;
    }

    pub(super) fn add(&self, more: FailedUsage) {
        let mut used = self.lock();
        used.calls += more.calls;
        used.tokens += more.tokens;
        used.cost += more.cost;
    }

    fn lock(&self) -> MutexGuard<'_, FailedUsage> {
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
