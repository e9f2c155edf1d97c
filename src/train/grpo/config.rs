//! The configuration of a GRPO run.

mod tables;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::objective::Objective;
use super::preset::Preset;
use super::token_servers;
use crate::engine::config::NativeConfig;
use crate::engine::tokens::config::TokensConfig;
use crate::episode::Limits;
use crate::hint::Reason;
use crate::large_model::LargeModelChoice;
use crate::reward::RewardConfig;
use crate::train::config::{
    BOUND, FINITE, StartConfig, at_least_one, optimizer, share, version, within,
};
use crate::train::error::TrainError;
use crate::train::schedule::Schedule;

pub use tables::{
    AdvantageConfig, EvaluationConfig, Guards, JudgeChoice, OutageConfig, SampleConfig, TaskConfig,
    TrainerConfig,
};

/// The maximum of `max_policy_lag`: each step of lag takes an engine with a copy of the weights.
const MAX_POLICY_LAG: usize = 8;

/// A GRPO run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpoConfig {
    /// Version of this file's format: 1.
    pub schema_version: u32,
    /// Folder of the run.
    pub output: PathBuf,
    /// Seed of everything random.
    #[serde(default)]
    pub seed: u64,
    /// The preset that provides settings missing in this file.
    #[serde(default)]
    pub preset: Preset,
    /// The policy to start from.
    pub model: StartConfig,
    /// Where it is trained. Older runs have no such setting.
    #[serde(default, skip_serializing_if = "TrainerConfig::is_local")]
    pub trainer: TrainerConfig,
    /// The tasks.
    pub tasks: TaskConfig,
    /// The largest share of a file's rows that may be rejected or too long; more ends the run
    /// before its first episode.
    #[serde(default = "crate::train::config::defaults::max_rejected")]
    pub max_rejected: f64,
    /// The large model that it prompts.
    pub large_model: LargeModelChoice,
    /// The reward of an episode.
    #[serde(default)]
    pub reward: RewardConfig,
    /// A judge that scores answers in place of the reward's metric. It is not asked if the form
    /// already prevents the answer from counting. Default: none; the metric compares answers with
    /// the golds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeChoice>,
    /// How rewards become advantages.
    #[serde(default)]
    pub advantage: AdvantageConfig,
    /// The objective.
    #[serde(default)]
    pub objective: Objective,
    /// Steps: each samples episodes and updates the policy with them.
    #[serde(default = "defaults::steps")]
    pub steps: u64,
    /// Tasks a step (verl: `train_batch_size`).
    #[serde(default = "defaults::groups_per_step")]
    pub groups_per_step: usize,
    /// Episodes a task, at least 2 (verl: `rollout.n`, TRL: `num_generations`).
    #[serde(default = "defaults::group_size")]
    pub group_size: usize,
    /// The number of consecutive updates into which a step's episodes are divided.
    #[serde(default = "defaults::one")]
    pub updates_per_step: usize,
    /// How often a step may sample further tasks to replace groups in which all episodes got the
    /// same reward (dynamic sampling); 0: such groups are dropped, and the update is smaller.
    #[serde(default)]
    pub extra_rounds: u32,
    /// How many steps ahead episodes are sampled, at most 8. With 0, a step's episodes are sampled
    /// by the policy that it updates, and sampling and updating alternate. With `k`, the episodes
    /// of the next `k` steps are in flight during an update, and a step learns from episodes of the
    /// policy of `k` steps before: off-policy by `k` steps, with one policy per step (verl: one
    /// step off policy; AReaL: `max_head_offpolicyness`; PRIME-RL: `max_async_level`).
    #[serde(default, alias = "rollouts_ahead")]
    pub max_policy_lag: usize,
    /// Episodes in flight at once, of all steps together.
    #[serde(default = "defaults::max_in_flight")]
    pub max_in_flight: usize,
    /// The temperature that episodes are sampled at and probabilities are computed at.
    #[serde(default = "defaults::temperature")]
    pub temperature: f32,
    /// Limits of an episode. `fallback` is ignored: only the policy's own answers count. The
    /// default of `deadline_ms` is a day.
    #[serde(default = "Limits::patient", deserialize_with = "Limits::deserialize_patient")]
    pub limits: Limits,
    /// The engine that samples. At least `max_in_flight` requests may queue.
    #[serde(default)]
    pub engine: NativeConfig,
    /// Servers that sample the training episodes instead. They must have the initial weights of the
    /// run, and keep them, so a run has at most `max_policy_lag` + 1 steps, corrected by
    /// `objective.importance_cap`. Evaluations use the live weights and `engine`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokensConfig>,
    /// Tokens computed at once in an update. Bounds the memory, not the result.
    #[serde(default = "crate::train::config::defaults::micro_batch_tokens")]
    pub micro_batch_tokens: usize,
    /// Learning rate.
    #[serde(default)]
    pub schedule: Schedule,
    /// Decoupled weight decay of matrices.
    #[serde(default)]
    pub weight_decay: f64,
    /// The largest global norm of the gradient; larger ones are clipped.
    #[serde(default = "crate::train::config::defaults::clip_norm")]
    pub clip_norm: f64,
    /// Evaluation on held-out tasks.
    #[serde(default)]
    pub eval: EvaluationConfig,
    /// Episodes of each step to look at.
    #[serde(default)]
    pub samples: SampleConfig,
    /// Guards against a collapse.
    #[serde(default)]
    pub guards: Guards,
    /// Retries when the large model is down.
    #[serde(default)]
    pub outage: OutageConfig,
    /// Steps between two checkpoints.
    #[serde(default = "defaults::checkpoint_every")]
    pub checkpoint_every: u64,
    /// How many checkpoints are kept, besides the best one.
    #[serde(default = "crate::train::config::defaults::keep_checkpoints")]
    pub keep_checkpoints: usize,
}

mod defaults {
    pub fn steps() -> u64 {
        200
    }
    pub fn groups_per_step() -> usize {
        16
    }
    pub fn group_size() -> usize {
        8
    }
    pub fn one() -> usize {
        1
    }
    pub fn max_in_flight() -> usize {
        128
    }
    pub fn temperature() -> f32 {
        1.0
    }
    pub fn checkpoint_every() -> u64 {
        10
    }
}

impl GrpoConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// Names the first invalid setting.
    pub fn check(&self) -> Result<(), TrainError> {
        let wrong = |reason: Reason| Err(TrainError::Config(reason));
        version(self.schema_version)?;
        share("max_rejected", self.max_rejected)?;
        if self.group_size < 2 {
            return wrong(reason!(
                "`group_size` is {}, but an episode can only be better than others of its group", self.group_size;
                hint: "use at least 2; 8 works well"
            ));
        }
        at_least_one(&[
            ("steps", self.steps),
            ("groups_per_step", self.groups_per_step as u64),
            ("updates_per_step", self.updates_per_step as u64),
            ("max_in_flight", self.max_in_flight as u64),
            ("checkpoint_every", self.checkpoint_every),
            ("eval.every", self.eval.every),
        ])?;
        self.limits.check("limits").or_else(wrong)?;
        if self.max_policy_lag > MAX_POLICY_LAG {
            return wrong(reason!(
                "`max_policy_lag` is {}, but it must be at most {MAX_POLICY_LAG}", self.max_policy_lag;
                hint: "1 or 2 is enough to fill the waits for a large model; the older the policy that sampled, the less there is to learn"
            ));
        }
        token_servers::check(self)?;
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return wrong(reason!(
                "`temperature` is {}, but episodes of a group must differ", self.temperature;
                hint: "use 1.0"
            ));
        }
        optimizer(&self.schedule, self.weight_decay, self.clip_norm)?;
        self.model.check_numbers()?;
        self.objective.check()?;
        self.guards.check()?;
        let judge_cost = self.judge.as_ref().and_then(|judge| judge.max_cost);
        within(&[
            ("advantage.epsilon", self.advantage.epsilon, FINITE),
            ("judge.max_cost", judge_cost.unwrap_or(0.0), BOUND),
        ])?;
        if let TrainerConfig::Tinker(tinker) = &self.trainer {
            tinker.check(self)?;
        }
        for (key, model) in self.large_models() {
            model.check(key).or_else(wrong)?;
        }
        match &self.tasks {
            TaskConfig::World { questions, .. } if questions.is_empty() => wrong(reason!(
                "`tasks.questions` is empty";
                hint: "`questions = [{{ chain = 2 }}]`"
            )),
            _ => Ok(()),
        }
    }

    /// The large models of the run, with the names of their settings.
    pub fn large_models(&self) -> impl Iterator<Item = (&'static str, &LargeModelChoice)> {
        let judge = self.judge.as_ref().and_then(|judge| judge.large_model.as_ref());
        let judge = judge.map(|model| ("judge.large_model", model));
        [("large_model", &self.large_model)].into_iter().chain(judge)
    }
}
