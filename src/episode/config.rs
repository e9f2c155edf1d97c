//! The limits of an episode: the table `[episode]`.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::hint::Reason;

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
    /// Characters of a reply that the policy is shown; the rest is cut off. A policy's folder may set
    /// fewer (`protocol.json`).
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
    /// the last reply to a prompt that contained the question, or that followed one in the same
    /// conversation, or else the large model's own reply to the question. For the latter a quarter of
    /// the wall time is reserved if prompts contain the question only where the policy puts it in.
    /// Off in training.
    pub fallback: bool,
    /// Whether the policy's prompt says that it may return a reply as the answer.
    pub allow_final: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_turns: 16,
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
const PATIENT_MS: i64 = 86_400_000;

impl Limits {
    /// The default for programs, which can wait.
    pub fn patient() -> Self {
        Self { deadline_ms: PATIENT_MS.unsigned_abs(), ..Self::default() }
    }

    /// Reads limits with the default wall time of [`Self::patient`].
    ///
    /// # Errors
    /// Where they are no limits.
    pub fn deserialize_patient<'de, D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        // A table of TOML, as JSON has no numbers that are not finite: they would be lost, not refused.
        let mut written = toml::Table::deserialize(reader)?;
        written.entry("deadline_ms").or_insert(toml::Value::Integer(PATIENT_MS));
        written.try_into().map_err(|error| D::Error::custom(error.message()))
    }

    /// Checks every number; `table` is the table of the limits, for errors.
    ///
    /// # Errors
    /// Names the first that is out of range.
    pub fn check(&self, table: &str) -> Result<(), Reason> {
        for (key, value) in [
            ("max_turns", self.max_turns as u64),
            ("max_turn_tokens", self.max_turn_tokens as u64),
            ("max_policy_tokens", self.max_policy_tokens as u64),
            ("observation_chars", self.observation_chars as u64),
            ("prompt_bytes", self.prompt_bytes as u64),
            ("deadline_ms", self.deadline_ms),
        ] {
            if value == 0 {
                return Err(format!("`{table}.{key}` must be at least 1").into());
            }
        }
        match self.max_cost {
            Some(cost) if !cost.is_finite() || cost <= 0.0 => Err(reason!(
                "`{table}.max_cost` is {cost}, but it must be above 0 and finite";
                hint: "leave it out for no limit"
            )),
            _ => Ok(()),
        }
    }

    /// The wall time as a duration.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }
}
