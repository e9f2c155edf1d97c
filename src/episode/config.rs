//! The limits of an episode: the table `[episode]`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Limits of an episode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Turns of the policy.
    pub max_turns: usize,
    /// Tokens that the policy may sample in one turn.
    pub max_turn_tokens: usize,
    /// Tokens that the policy may sample in the whole episode.
    pub max_policy_tokens: usize,
    /// Characters of a reply that the policy is shown; the rest is cut off.
    pub observation_chars: usize,
    /// Bytes of a prompt after its references are resolved: a few bytes may refer to a long reply
    /// many times.
    pub prompt_bytes: usize,
    /// Wall time, milliseconds. In evaluation and training the default is a day: a slow large model
    /// has not failed, and the time-outs of each call apply.
    pub deadline_ms: u64,
    /// Money, in the currency of the configured prices; `None` for no limit.
    pub max_cost: Option<f64>,
    /// Whether an episode in which the policy gives no answer falls back to the best available one:
    /// the last reply, or the large model's own reply to the question. Off in training.
    pub fallback: bool,
    /// Whether the policy's prompt says that it may return a reply as the answer.
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

/// The wall time of an episode that nobody waits for interactively, milliseconds: a day.
const PATIENT_MS: u64 = 86_400_000;

impl Limits {
    /// The default for programs, which can wait.
    pub fn patient() -> Self {
        Self { deadline_ms: PATIENT_MS, ..Self::default() }
    }

    /// Reads limits with the default wall time of [`Self::patient`].
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
