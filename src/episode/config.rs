//! What an episode may use up: the table `[episode]`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

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
    /// Wall time, milliseconds. In evaluation and training a day unless it is set: a large model
    /// that is slow has not failed, and the time-outs of each call apply.
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

/// The wall time of an episode for which no person waits, milliseconds: a day.
const PATIENT_MS: u64 = 86_400_000;

impl Limits {
    /// The default for programs that wait for whatever they ask.
    pub fn patient() -> Self {
        Self { deadline_ms: PATIENT_MS, ..Self::default() }
    }

    /// Reads limits whose wall time is [`Self::patient`]'s unless it is set.
    ///
    /// # Errors
    /// Where they are no limits.
    pub fn deserialize_patient<'de, D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        let mut written = Map::<String, Value>::deserialize(reader)?;
        written.entry("deadline_ms").or_insert(PATIENT_MS.into());
        Self::deserialize(Value::Object(written)).map_err(serde::de::Error::custom)
    }

    /// The wall time as a duration.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }
}
