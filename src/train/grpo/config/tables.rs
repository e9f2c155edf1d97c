//! The tables of a GRPO configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::dataset::ReadOptions;
use crate::large_model::LargeModelChoice;
use crate::train::config::{BOUND, within};
use crate::train::error::TrainError;
use crate::train::grpo::advantage::{Overlong, Scaling};
use crate::train::grpo::tinker::TinkerConfig;
use crate::world::{TaskKind, WorldConfig};

/// Where the policy is trained. Its episodes are always sampled here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TrainerConfig {
    /// In this process.
    Local {},
    /// At a server that speaks the Tinker protocol.
    Tinker(TinkerConfig),
}

impl TrainerConfig {
    pub(super) fn is_local(&self) -> bool {
        matches!(self, Self::Local {})
    }
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self::Local {}
    }
}

/// The source of tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TaskConfig {
    /// Questions about the bundled world; evaluation asks held-out ones.
    World {
        /// Which world.
        #[serde(default)]
        world: WorldConfig,
        /// The kinds of questions, taken in turn. A kind that is listed twice is used twice as
        /// often.
        questions: Vec<TaskKind>,
    },
    /// Files of tasks.
    File {
        /// What to train on: a file, a folder or a glob.
        path: PathBuf,
        /// Which of its tasks.
        #[serde(default)]
        read: ReadOptions,
        /// What to evaluate on, read with the same columns. Default: no evaluation.
        #[serde(default)]
        eval_path: Option<PathBuf>,
    },
}

/// The configuration of a judge.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JudgeChoice {
    /// The large model. Default: the run's own, with its limits, its cache and its prices.
    pub large_model: Option<LargeModelChoice>,
    /// A template with `question`, `golds`, `answer` and `source` that asks for a last line `Score:
    /// N`, N from 0 to 1. Default: the built-in one.
    pub prompt: Option<PathBuf>,
    /// Maximum number of judge calls in the whole run, without cached replies and with failed calls
    /// that may have been billed. Default: no limit.
    pub max_calls: Option<u64>,
    /// Maximum cost, in the currency of the prices. Default: no limit.
    pub max_cost: Option<f64>,
}

/// How advantages are computed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdvantageConfig {
    /// The divisor of differences from the group's mean.
    pub scaling: Scaling,
    /// Added to the deviation.
    pub epsilon: f64,
    /// A penalty on long episodes.
    pub overlong: Option<Overlong>,
}

impl Default for AdvantageConfig {
    fn default() -> Self {
        Self { scaling: Scaling::Deviation, epsilon: 1e-6, overlong: None }
    }
}

/// Evaluation on held-out tasks, greedily, before the first step and then regularly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationConfig {
    /// Steps between two evaluations.
    pub every: u64,
    /// How many tasks; 0 for no evaluation.
    pub tasks: usize,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self { every: 10, tasks: 100 }
    }
}

/// Which episodes of training steps are written to the run's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleConfig {
    /// Episodes of a step: the best and the worst of each group, those groups first whose members
    /// differ. 0: none are written. Default: 4, of at most 64 KiB of text each.
    pub episodes: usize,
    /// Steps whose episodes are kept, the newest. Default: 200.
    pub keep_steps: u64,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self { episodes: 4, keep_steps: 200 }
    }
}

/// Bounds on figures of a run. If a figure is out of bounds for `patience` consecutive steps, the
/// run returns to its best policy and continues with a lower learning rate; after `max_rollbacks`
/// rollbacks it ends instead.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guards {
    /// Consecutive steps out of bounds that are tolerated.
    pub patience: u32,
    /// How often the run returns to the best policy by evaluation before it ends instead. Without
    /// evaluations it ends at once.
    pub max_rollbacks: u32,
    /// The factor by which each rollback multiplies the learning rate.
    pub rollback_lr_factor: f64,
    /// Minimum mean entropy of the policy's tokens, nats.
    pub min_entropy: f64,
    /// Maximum mean entropy, nats.
    pub max_entropy: f64,
    /// Maximum divergence from the policy at the start of the run, nats per token. Measured with
    /// each evaluation, and each step if the objective has a KL term.
    pub max_kl: f64,
    /// Maximum share of clipped tokens.
    pub max_clip_fraction: f64,
    /// Maximum mean number of sampled tokens in an episode, as a multiple of its value in the first
    /// step.
    pub max_response_growth: f64,
    /// Minimum of the same.
    pub min_response_growth: f64,
    /// Maximum share of groups in which all episodes got the same reward. A task that is solved
    /// always has no variance either; hence no bound by default. A share of 1 is out of bounds if
    /// the reward is lower than in the first step: the policy cannot learn its way back.
    pub max_zero_variance: f64,
    /// Maximum mean difference between the engine's and the trainer's log-probabilities of a token.
    /// With `max_policy_lag` the updates in between are part of it.
    #[serde(alias = "max_log_prob_gap")]
    pub max_rollout_logprob_diff: f64,
}

impl Default for Guards {
    fn default() -> Self {
        Self {
            patience: 3,
            max_rollbacks: 2,
            rollback_lr_factor: 0.5,
            min_entropy: 0.0,
            max_entropy: 5.0,
            max_kl: 5.0,
            max_clip_fraction: 0.5,
            max_response_growth: 4.0,
            min_response_growth: 0.2,
            max_zero_variance: 1.0,
            max_rollout_logprob_diff: 0.1,
        }
    }
}

impl Guards {
    /// Checks every number.
    ///
    /// # Errors
    /// Names the first invalid one.
    pub(in crate::train::grpo) fn check(&self) -> Result<(), TrainError> {
        within(&[
            ("guards.rollback_lr_factor", self.rollback_lr_factor, 0.0..=1.0),
            ("guards.min_entropy", self.min_entropy, BOUND),
            ("guards.max_entropy", self.max_entropy, BOUND),
            ("guards.max_kl", self.max_kl, BOUND),
            ("guards.max_clip_fraction", self.max_clip_fraction, BOUND),
            ("guards.max_response_growth", self.max_response_growth, BOUND),
            ("guards.min_response_growth", self.min_response_growth, BOUND),
            ("guards.max_zero_variance", self.max_zero_variance, BOUND),
            ("guards.max_rollout_logprob_diff", self.max_rollout_logprob_diff, BOUND),
        ])
    }
}

/// Retries when more than half of the episodes of a step, or of an evaluation, fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutageConfig {
    /// How often it is repeated before the run saves its state and ends.
    pub retries: u32,
    /// The wait before the first repetition, milliseconds; it doubles with each.
    pub pause_ms: u64,
}

impl Default for OutageConfig {
    fn default() -> Self {
        Self { retries: 5, pause_ms: 2_000 }
    }
}
