//! The cost of calls: the only formula. Usage that endpoints report is parsed by `usage`.

use serde::{Deserialize, Serialize};

use crate::trajectory::TokenUsage;

/// What a million tokens cost, in the operator's currency; zero when unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prices {
    /// A million tokens read.
    pub input_per_million: f64,
    /// A million tokens written.
    pub output_per_million: f64,
}

impl Prices {
    /// A price that calls cannot be charged by, and its key: it is negative, infinite or no number.
    pub(super) fn unusable(&self) -> Option<(&'static str, f64)> {
        [
            ("input_per_million", self.input_per_million),
            ("output_per_million", self.output_per_million),
        ]
        .into_iter()
        .find(|(_, price)| !(0.0..=f64::MAX).contains(price))
    }

    /// The cost of `usage`.
    pub fn cost(&self, usage: TokenUsage) -> f64 {
        (usage.prompt_tokens as f64 * self.input_per_million
            + usage.completion_tokens as f64 * self.output_per_million)
            / 1e6
    }
}
