//! The reward of a finished trajectory: its form, its answer, and the gate between them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

use crate::hint::Hint;
use crate::task::Task;
use crate::trajectory::{Action, Trajectory};

mod answer;
mod approximate;
mod choice;
mod config;
mod context;
mod equation;
mod expression;
mod external;
mod format;
#[cfg(test)]
mod forms;
#[cfg(test)]
mod golden;
mod harness;
mod latex;
mod math;
mod number;
mod plain;
mod scanner;
mod spelled;
#[cfg(test)]
mod tests;
mod unit;
mod value;
mod words;

pub use answer::{AnswerMetric, Normalization, exact_match, f1, numeric_match};
pub use choice::chosen_label;
pub use config::{Coefficients, ExternalConfig, RewardConfig, Scheme};
pub use external::ExternalReward;
pub use number::Number;
pub use plain::boxed;

use format::{PublishedFormat, StrictFormat};

/// A reward that cannot be configured or computed.
#[derive(Debug, thiserror::Error)]
pub enum RewardError {
    /// A value in the configuration is out of range.
    #[error("`reward.{field}` is {found}, but it must be {expected}")]
    Config {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it must be.
        expected: &'static str,
    },
    /// The program or server failed.
    #[error("the reward by `{name}` failed: {reason}")]
    External {
        /// The program or the URL.
        name: String,
        /// What went wrong.
        reason: String,
    },
    /// The program or server took too long.
    #[error("the reward by `{name}` took longer than {timeout_ms} ms")]
    Timeout {
        /// The program or the URL.
        name: String,
        /// The limit, milliseconds.
        timeout_ms: u64,
    },
    /// What came back is no number.
    #[error("the reward by `{name}` is `{found}`, not a finite number")]
    NotANumber {
        /// The program or the URL.
        name: String,
        /// The head of what came back.
        found: String,
    },
}

impl Hint for RewardError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Timeout { .. } => "raise `reward.external.timeout_ms`".into(),
            Self::Config { .. } | Self::External { .. } | Self::NotANumber { .. } => return None,
        })
    }
}

/// A reward with what it was made of.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Reward {
    /// What the trajectory is trained on.
    pub total: f64,
    /// The score of its form; 1 is perfect under the published coefficients and under `strict`.
    pub format: f64,
    /// The score of its answer, 0 to 1, whether or not it was counted.
    pub answer: f64,
    /// The parts of the form by name: under `paper` the points of each, under `strict` 1 for a
    /// satisfied constraint.
    pub components: BTreeMap<&'static str, f64>,
}

/// The policy's own answer: the content of its last turn. An answer from the fallback or a returned
/// reply is not the policy's.
pub fn own_answer(trajectory: &Trajectory) -> Option<&str> {
    match &trajectory.turns.last()?.action {
        Action::Answer(answer) if !answer.trim().is_empty() => Some(answer),
        _ => None,
    }
}

/// The built-in reward. Pure: the same trajectory always gets the same reward.
#[derive(Debug, Clone)]
pub struct RewardFn {
    scheme: Scheme,
    coefficients: Coefficients,
    metric: AnswerMetric,
    normalization: Normalization,
}

impl RewardFn {
    /// The reward that `config` describes, without the external one.
    ///
    /// # Errors
    /// Names the setting that is impossible.
    pub fn new(config: &RewardConfig) -> Result<Self, RewardError> {
        check(&config.coefficients)?;
        let (metric, normalization) = match config.scheme {
            Scheme::Paper => (AnswerMetric::F1, Normalization::Published),
            Scheme::Strict | Scheme::Outcome => (AnswerMetric::Auto, Normalization::Strict),
        };
        Ok(Self {
            scheme: config.scheme,
            coefficients: config.coefficients,
            metric: config.metric.unwrap_or(metric),
            normalization,
        })
    }

    /// The reward of `trajectory` as an attempt at `task`.
    pub fn score(&self, trajectory: &Trajectory, task: &Task) -> Reward {
        let answer = own_answer(trajectory)
            .map_or(0.0, |answer| self.metric.score(answer, &task.golds, self.normalization));
        self.with_answer(trajectory, answer)
    }

    /// Whether an answer is wholly right: it is one of the golds, or all that the metric asks for.
    /// Token F1 asks for less, since it ignores the order of words.
    pub fn is_right(&self, answer: &str, golds: &[String]) -> bool {
        let is_full =
            |metric: AnswerMetric| metric.score(answer, golds, Normalization::Strict) == 1.0;
        is_full(AnswerMetric::Exact) || (self.metric != AnswerMetric::F1 && is_full(self.metric))
    }

    /// The reward of `trajectory` whose answer is worth `answer`, 0 to 1.
    pub fn with_answer(&self, trajectory: &Trajectory, answer: f64) -> Reward {
        match self.scheme {
            Scheme::Paper => self.paper(trajectory, answer),
            Scheme::Strict => strict(trajectory, answer),
            Scheme::Outcome => outcome(trajectory, answer),
        }
    }

    fn paper(&self, trajectory: &Trajectory, answer: f64) -> Reward {
        // Sums of decimals such as 0.4 and 0.1 miss a whole number by a few units in the last
        // place.
        const ROUNDING: f64 = 1e-9;
        let Coefficients { epsilon, gate, .. } = self.coefficients;
        let parts = PublishedFormat::of(trajectory, &self.coefficients);
        let format = parts.sum().min(epsilon);
        let gated = if format >= gate - ROUNDING { answer } else { 0.0 };
        let components = [
            ("prompts", parts.prompts),
            ("answer_present", parts.answer_present),
            ("answer_filled", parts.answer_filled),
            ("answer_form", parts.answer_form),
        ];
        Reward { total: format - gate + gated, format, answer, components: components.into() }
    }
}

fn strict(trajectory: &Trajectory, answer: f64) -> Reward {
    let kept = StrictFormat::of(trajectory);
    let format = kept.share();
    let components = [
        ("answered", kept.answered),
        ("consulted", kept.consulted),
        ("thought", kept.thought),
        ("exact", kept.exact),
    ];
    Reward {
        total: if kept.is_perfect() { answer } else { format - 1.0 },
        format,
        answer,
        components: components.map(|(name, holds)| (name, f64::from(holds))).into(),
    }
}

fn outcome(trajectory: &Trajectory, answer: f64) -> Reward {
    let reward = strict(trajectory, answer);
    Reward { total: reward.total.max(0.0), ..reward }
}

fn check(coefficients: &Coefficients) -> Result<(), RewardError> {
    let Coefficients { alpha, beta, gamma, delta, epsilon, gate } = *coefficients;
    for (field, value) in [
        ("coefficients.alpha", alpha),
        ("coefficients.beta", beta),
        ("coefficients.gamma", gamma),
        ("coefficients.delta", delta),
        ("coefficients.epsilon", epsilon),
        ("coefficients.gate", gate),
    ] {
        if !value.is_finite() || value < 0.0 {
            let expected = "a number of at least 0";
            return Err(RewardError::Config { field, found: value.to_string(), expected });
        }
    }
    if epsilon < gate {
        return Err(RewardError::Config {
            field: "coefficients.epsilon",
            found: epsilon.to_string(),
            expected: "at least `coefficients.gate`, or no answer would ever count",
        });
    }
    Ok(())
}

/// The configured reward: the built-in one, or an external number in its place.
#[derive(Debug)]
pub struct Rewarder {
    builtin: RewardFn,
    external: Option<ExternalReward>,
}

impl Rewarder {
    /// The reward that `config` describes.
    ///
    /// # Errors
    /// Names the setting that is impossible.
    pub fn new(config: &RewardConfig) -> Result<Self, RewardError> {
        let external = config.external.as_ref().map(ExternalReward::new).transpose()?;
        Ok(Self { builtin: RewardFn::new(config)?, external })
    }

    /// The reward of `trajectory` as an attempt at `task`. With an external reward the total is
    /// its number, and the other fields are still those of the built-in one.
    ///
    /// # Errors
    /// When an external reward fails.
    pub async fn score(&self, trajectory: &Trajectory, task: &Task) -> Result<Reward, RewardError> {
        self.finish(trajectory, task, self.builtin.score(trajectory, task)).await
    }

    /// The built-in reward, even if an external one is configured.
    pub fn builtin(&self) -> &RewardFn {
        &self.builtin
    }

    /// The reward of `trajectory` whose answer is worth `answer`, 0 to 1; else as [`Self::score`].
    ///
    /// # Errors
    /// As [`Self::score`].
    pub async fn score_judged(
        &self,
        trajectory: &Trajectory,
        task: &Task,
        answer: f64,
    ) -> Result<Reward, RewardError> {
        self.finish(trajectory, task, self.builtin.with_answer(trajectory, answer)).await
    }

    async fn finish(
        &self,
        trajectory: &Trajectory,
        task: &Task,
        builtin: Reward,
    ) -> Result<Reward, RewardError> {
        match &self.external {
            None => Ok(builtin),
            Some(external) => {
                let total = external.score(trajectory, task, &builtin).await?;
                Ok(Reward { total, ..builtin })
            }
        }
    }
}
