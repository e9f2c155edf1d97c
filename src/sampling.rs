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

/// How a policy samples unless a request says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingConfig {
    /// Logits are divided by it; 0 takes the likeliest token.
    pub temperature: f32,
    /// The smallest set of tokens whose probabilities sum to this.
    pub top_p: f32,
    /// Only this many of the likeliest tokens; 0 is all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self { temperature: 0.7, top_p: 0.8, top_k: None }
    }
}

impl SamplingConfig {
    /// The same with a seed.
    pub fn of_seed(&self, seed: u64) -> Sampling {
        let Self { temperature, top_p, top_k } = *self;
        let top_k = top_k.and_then(NonZeroUsize::new);
        Sampling { temperature, top_p, top_k, seed }
    }

    /// Checks every number; `name` is that of these settings, for errors.
    ///
    /// # Errors
    /// Says which ranges they have.
    pub fn check(&self, name: &str) -> Result<(), String> {
        let is_in_range =
            (0.0..=5.0).contains(&self.temperature) && self.top_p > 0.0 && self.top_p <= 1.0;
        if is_in_range {
            return Ok(());
        }
        Err(format!(
            "`{name}` needs a `temperature` from 0 to 5 and a `top_p` above 0 and at most 1"
        ))
    }
}

/// A number in JSON as it was written: 0.7, not the 0.699999988079071 that its 32 bits stand for.
pub fn as_written(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}
