//! What an episode may use up: the table `[episode]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What an episode may use up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Turns of the policy.
    pub max_turns: usize,
    /// Tokens that the policy may sample in one turn.
    pub max_turn_tokens: usize,
    /// Tokens that the policy may sample in the whole episode.
    pub max_policy_tokens: usize,
    /// Characters of a reply that the policy gets to see; the head is kept.
    pub observation_chars: usize,
    /// Bytes that a prompt may have with its references resolved: a few bytes may stand for a long
    /// reply, over and over.
    pub prompt_bytes: usize,
    /// Wall time, milliseconds.
    pub deadline_ms: u64,
    /// Money, in the currency of the configured prices; `None` for no limit.
    pub max_cost: Option<f64>,
    /// Whether an episode without an answer of the policy's still answers with the best it has:
    /// the last reply, or the large model's own reply to the question. Training does without.
    pub fallback: bool,
    /// Whether the policy is told that it may hand on a reply as the answer.
    pub allow_final: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_turns: 8,
            max_turn_tokens: 1024,
            max_policy_tokens: 8192,
            observation_chars: 2048,
            prompt_bytes: 10 * 1024 * 1024,
            deadline_ms: 120_000,
            max_cost: None,
            fallback: true,
            allow_final: true,
        }
    }
}

impl Limits {
    /// The wall time as a duration.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }
}
