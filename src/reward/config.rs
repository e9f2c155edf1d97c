//! The reward: the table `[reward]`.

use serde::{Deserialize, Serialize};

use super::AnswerMetric;

/// How form and answer are combined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// As published, loopholes included. With `fmt` the sum of α for every turn with one think and
    /// one prompt, and of β, γ, δ for the answer of the last turn, at most ε:
    /// `-k + fmt + answer` when `fmt` reaches `k`, else `-k + fmt`.
    ///
    /// Known loopholes: thinking may be left out once there are two prompts; three prompts without
    /// an answer score as much as a wrong answer; F1 takes 5.6 for 56.
    #[default]
    Paper,
    /// Without those loopholes, and from -1 to 1. Four constraints, each satisfied or not by the
    /// trajectory as a whole: the policy gave its own answer, it asked the large model, it thought
    /// in every turn, and every turn is exactly a think and one action.
    ///
    /// Without an answer: -1. With one, but not all of the others: `-1 + satisfied / 4`, whatever
    /// the answer. With all four: the answer's score, 0 to 1. Numeric golds are compared as
    /// numbers.
    Strict,
    /// From 0 to 1: the answer's score if all four constraints of `strict` are satisfied, else 0.
    /// For a policy that already has the form: where most answers are wrong, `strict` teaches it to
    /// ask less, since each further turn may be malformed.
    Outcome,
}

/// The weights of the published formula.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Coefficients {
    /// For each well-formed turn with a prompt.
    pub alpha: f64,
    /// For an answer tag in the last turn.
    pub beta: f64,
    /// For an answer that is not empty.
    pub gamma: f64,
    /// For a last turn that is exactly a think and then an answer.
    pub delta: f64,
    /// The most that the form can earn.
    pub epsilon: f64,
    /// What the form must earn for the answer to count; the paper's k.
    pub gate: f64,
}

impl Default for Coefficients {
    fn default() -> Self {
        Self { alpha: 0.4, beta: 0.25, gamma: 0.25, delta: 0.1, epsilon: 1.0, gate: 1.0 }
    }
}

/// The reward.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardConfig {
    /// How form and answer are combined.
    pub scheme: Scheme,
    /// The weights of `paper`; `strict` has none.
    pub coefficients: Coefficients,
    /// How the answer is scored; `f1` under `paper` and `auto` under `strict` when absent.
    pub metric: Option<AnswerMetric>,
    /// An external program or server whose number is the reward instead.
    pub external: Option<ExternalConfig>,
}

/// An external reward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalConfig {
    /// A program and its arguments, run once per trajectory. Give this or `url`.
    #[serde(default)]
    pub command: Vec<String>,
    /// Where the object is posted to. Give this or `command`.
    #[serde(default)]
    pub url: Option<String>,
    /// The most that one reward may take, milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// How many rewards may be made at once.
    #[serde(default = "default_concurrency")]
    pub concurrency: usize,
}

fn default_timeout_ms() -> u64 {
    30_000
}

fn default_concurrency() -> usize {
    8
}
