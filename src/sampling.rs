//! How tokens are drawn.

use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How to draw the next token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Logits are divided by it; 0 means greedy.
    pub temperature: f32,
    /// Nucleus: the smallest set of tokens whose probabilities sum to at least this; 1 keeps all.
    pub top_p: f32,
    /// Keep only this many of the likeliest tokens; `None` keeps all.
    pub top_k: Option<NonZeroUsize>,
    /// Seed of this request's own generator: same request, same seed, same tokens.
    pub seed: u64,
}

impl Sampling {
    /// Always the likeliest token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, top_k: None, seed: 0 };

    /// Whether top-k or top-p leave tokens out.
    pub fn is_filtered(&self) -> bool {
        self.top_p < 1.0 || self.top_k.is_some()
    }
}

/// A number in JSON as it was written: 0.7, not the 0.699999988079071 that its 32 bits stand for.
pub fn as_written(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}
