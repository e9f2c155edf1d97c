//! What a GRPO run can be told.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::advantage::{Overlong, Scaling};
use super::guard::Guards;
use super::judge::JudgeChoice;
use super::objective::Objective;
pub use super::preset::Preset;
use super::samples::SampleConfig;
use super::tinker::TinkerConfig;
use super::token_servers;
use crate::dataset::ReadOptions;
use crate::engine::config::NativeConfig;
use crate::engine::tokens::config::TokensConfig;
use crate::episode::Limits;
use crate::large_model::LargeModelConfig;
use crate::reward::RewardConfig;
use crate::train::config::StartConfig;
use crate::train::config::{at_least_one, share, version};
use crate::train::error::TrainError;
use crate::train::schedule::Schedule;
use crate::world::{TaskKind, WorldConfig};

/// The most that `max_policy_lag` can be: each takes an engine with a copy of the weights.
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
    /// Whose settings hold where this file says nothing.
    #[serde(default)]
    pub preset: Preset,
    /// The policy to start from.
    pub model: StartConfig,
    /// Where it is trained. Runs that began before there was a choice do not name it.
    #[serde(default, skip_serializing_if = "TrainerConfig::is_local")]
    pub trainer: TrainerConfig,
    /// What it is asked.
    pub tasks: TaskConfig,
    /// The largest share of a file's rows that may be rejected or too long; more ends the run
    /// before its first episode.
    #[serde(default = "crate::train::config::max_rejected")]
    pub max_rejected: f64,
    /// The large model that it prompts.
    pub large_model: LargeModelChoice,
    /// What an episode is worth.
    #[serde(default)]
    pub reward: RewardConfig,
    /// Who says what an answer is worth, in place of the reward's metric. Where the form keeps the
    /// answer from counting, nobody is asked. Default: nobody; the metric compares with the golds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeChoice>,
    /// How rewards become advantages.
    #[serde(default)]
    pub advantage: AdvantageConfig,
    /// What is minimised.
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
    /// Into how many updates, one after another, a step's episodes are divided.
    #[serde(default = "defaults::one")]
    pub updates_per_step: usize,
    /// How often a step may ask further tasks to replace groups in which all episodes got the same
    /// reward (dynamic sampling); 0: such groups are left out, and the update is smaller.
    #[serde(default)]
    pub extra_rounds: u32,
    /// How many steps ahead episodes are sampled, at most 8. With 0 a step's episodes are those of
    /// the policy that it updates, and sampling and updating wait for each other. With `k` the
    /// episodes of the next `k` steps are in flight meanwhile, and a step learns from episodes of
    /// the policy of `k` steps before: off-policy by that much, and each step's all by one policy
    /// (verl: one step off policy; AReaL: `max_head_offpolicyness`; PRIME-RL: `max_async_level`).
    #[serde(default, alias = "rollouts_ahead")]
    pub max_policy_lag: usize,
    /// Episodes in flight at one time, of all steps together.
    #[serde(default = "defaults::max_in_flight")]
    pub max_in_flight: usize,
    /// The temperature that episodes are sampled at and probabilities are computed at.
    #[serde(default = "defaults::temperature")]
    pub temperature: f32,
    /// What an episode may use up. `fallback` has no effect: only the policy's own answers count.
    /// `deadline_ms` is a day unless it is set.
    #[serde(default = "Limits::patient", deserialize_with = "Limits::deserialize_patient")]
    pub limits: Limits,
    /// The engine that samples.
    #[serde(default)]
    pub engine: NativeConfig,
    /// Servers that sample the training episodes in its place. They must have the weights that the run
    /// begins with, and keep them: a run has at most `max_policy_lag` + 1 steps, corrected by
    /// `objective.importance_cap`. Evaluations are of the live weights, by `engine`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokensConfig>,
    /// Tokens computed at once in an update. Bounds the memory, not the result.
    #[serde(default = "defaults::micro_batch_tokens")]
    pub micro_batch_tokens: usize,
    /// Learning rate.
    #[serde(default)]
    pub schedule: Schedule,
    /// Decoupled weight decay of matrices.
    #[serde(default)]
    pub weight_decay: f64,
    /// Largest global norm of the gradient.
    #[serde(default = "defaults::clip_norm")]
    pub clip_norm: f64,
    /// Evaluation on held-out tasks.
    #[serde(default)]
    pub eval: EvaluationConfig,
    /// Episodes of each step to look at.
    #[serde(default)]
    pub samples: SampleConfig,
    /// When to stop rather than train on.
    #[serde(default)]
    pub guards: Guards,
    /// What to do when the large model is down.
    #[serde(default)]
    pub outage: OutageConfig,
    /// Steps between two checkpoints.
    #[serde(default = "defaults::checkpoint_every")]
    pub checkpoint_every: u64,
    /// How many checkpoints are kept, beside the best.
    #[serde(default = "defaults::keep")]
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
    pub fn micro_batch_tokens() -> usize {
        8192
    }
    pub fn clip_norm() -> f64 {
        1.0
    }
    pub fn checkpoint_every() -> u64 {
        10
    }
    pub fn keep() -> usize {
        2
    }
}

/// Where the policy is trained. Wherever that is, its episodes are sampled here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TrainerConfig {
    /// In this process.
    Local {},
    /// At a server that speaks the Tinker protocol.
    Tinker(TinkerConfig),
}

impl TrainerConfig {
    fn is_local(&self) -> bool {
        matches!(self, Self::Local {})
    }
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self::Local {}
    }
}

/// Where tasks come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TaskConfig {
    /// Questions about the bundled world; evaluation asks held-out ones.
    World {
        /// Which world.
        #[serde(default)]
        world: WorldConfig,
        /// The kinds of questions, which take turns. One that is listed twice comes twice as often.
        questions: Vec<TaskKind>,
    },
    /// Files of tasks.
    File {
        /// What to train on: a file, a folder or a glob.
        path: PathBuf,
        /// Which of its tasks.
        #[serde(default)]
        read: ReadOptions,
        /// What to evaluate on, read with the same columns; without it there is no evaluation.
        #[serde(default)]
        eval_path: Option<PathBuf>,
    },
}

/// The large model of a run: one of the two.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LargeModelChoice {
    /// A model folder, run in this process.
    pub path: Option<PathBuf>,
    /// An OpenAI-compatible endpoint.
    pub endpoint: Option<LargeModelConfig>,
    /// Fields of every call, such as `temperature`.
    pub params: Map<String, Value>,
    /// How many replies are remembered, so that a call that was made before costs nothing; 0 for
    /// none. With it every episode sends the same `seed`.
    pub cache_replies: usize,
    /// A file that keeps them from one run to the next.
    pub cache_file: Option<PathBuf>,
}

impl Default for LargeModelChoice {
    fn default() -> Self {
        Self {
            path: None,
            endpoint: None,
            params: Map::new(),
            cache_replies: 100_000,
            cache_file: None,
        }
    }
}

/// How rewards become advantages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdvantageConfig {
    /// What differences from the group's mean are divided by.
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

/// What to do when more than half of a step's episodes fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutageConfig {
    /// How often the step is tried again before the run ends, its state saved.
    pub retries: u32,
    /// The wait before the first of them, milliseconds; it doubles with each.
    pub pause_ms: u64,
}

impl Default for OutageConfig {
    fn default() -> Self {
        Self { retries: 5, pause_ms: 2_000 }
    }
}

impl GrpoConfig {
    /// Whether every setting is possible.
    ///
    /// # Errors
    /// Names the setting that is impossible.
    pub fn check(&self) -> Result<(), TrainError> {
        let wrong = |reason: String| Err(TrainError::Config(reason));
        version(self.schema_version)?;
        share("max_rejected", self.max_rejected)?;
        if self.group_size < 2 {
            return wrong(format!(
                "`group_size` is {}, but an episode can only be better than others of its group\nhint: use at least 2; 8 works well",
                self.group_size
            ));
        }
        at_least_one(&[
            ("steps", self.steps),
            ("groups_per_step", self.groups_per_step as u64),
            ("updates_per_step", self.updates_per_step as u64),
            ("max_in_flight", self.max_in_flight as u64),
            ("checkpoint_every", self.checkpoint_every),
            ("eval.every", self.eval.every),
            ("limits.max_turns", self.limits.max_turns as u64),
            ("limits.max_turn_tokens", self.limits.max_turn_tokens as u64),
            ("limits.max_policy_tokens", self.limits.max_policy_tokens as u64),
        ])?;
        if self.max_policy_lag > MAX_POLICY_LAG {
            return wrong(format!(
                "`max_policy_lag` is {}, but it must be at most {MAX_POLICY_LAG}\nhint: 1 or 2 is enough to fill the waits for a large model; the older the policy that sampled, the less there is to learn",
                self.max_policy_lag
            ));
        }
        token_servers::check(self)?;
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return wrong(format!(
                "`temperature` is {}, but episodes of a group must differ\nhint: use 1.0",
                self.temperature
            ));
        }
        let objective = &self.objective;
        for (name, value, least) in [
            ("objective.clip_low", objective.clip_low, 0.0),
            ("objective.clip_high", objective.clip_high, 0.0),
            ("objective.kl_coef", objective.kl_coef, 0.0),
            ("objective.llds_coef", objective.llds_coef, 0.0),
            ("objective.dual_clip", objective.dual_clip.unwrap_or(f64::MAX), 1.0),
            ("objective.importance_cap", objective.importance_cap.unwrap_or(1.0), 0.0),
            ("advantage.epsilon", self.advantage.epsilon, 0.0),
            ("clip_norm", self.clip_norm, 0.0),
            ("guards.return_rate", self.guards.return_rate, 0.0),
        ] {
            if value.is_nan() || value < least {
                return wrong(format!("`{name}` is {value}, but it must be at least {least}"));
            }
        }
        if let TrainerConfig::Tinker(tinker) = &self.trainer {
            tinker.check(self)?;
        }
        let judges = self.judge.iter().filter_map(|judge| judge.large_model.as_ref());
        let models = [("large_model", &self.large_model)].into_iter();
        for (key, model) in models.chain(judges.map(|model| ("judge.large_model", model))) {
            if model.path.is_some() == model.endpoint.is_some() {
                return wrong(format!(
                    "`{key}` needs either `path` or `endpoint`\nhint: `path = \"models/large-model\"` is the bundled one"
                ));
            }
        }
        match &self.tasks {
            TaskConfig::World { questions, .. } if questions.is_empty() => {
                wrong("`tasks.questions` is empty\nhint: `questions = [{ chain = 2 }]`".into())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::reward::Scheme;
    use crate::train::grpo::objective::Aggregation;

    const LEAST: &str = r#"
        schema_version = 1
        output = "runs/x"
        model = { path = "models/policy" }
        tasks = { kind = "world", questions = [{ chain = 2 }, "comparison"] }
        large_model = { path = "models/large-model" }
    "#;

    fn complete(more: &str) -> Result<GrpoConfig, String> {
        let table: toml::Table = toml::from_str(&format!("{more}\n{LEAST}")).unwrap();
        let preset =
            table.get("preset").map_or(Preset::Default, |name| name.clone().try_into().unwrap());
        preset.complete(table).map_err(|error| error.to_string())
    }

    #[test]
    fn presets_hold_where_the_file_is_silent() {
        let config = complete("").unwrap();
        assert_eq!(config.objective, Objective::default());
        assert_eq!(config.reward.scheme, Scheme::Strict);
        assert!(!config.limits.allow_final);

        let config = complete("preset = \"paper\"\ngroup_size = 4").unwrap();
        assert_eq!((config.group_size, config.groups_per_step), (4, 128));
        assert_eq!(config.objective.dual_clip, Some(3.0));
        assert_eq!(config.reward.scheme, Scheme::Paper);
        assert_eq!(config.schedule.peak, 1e-6);

        let config = complete("rollouts_ahead = 1\nguards = { max_log_prob_gap = 0.5 }").unwrap();
        assert_eq!(config.max_policy_lag, 1, "former names hold");
        assert_eq!(config.guards.max_rollout_logprob_diff, 0.5);

        let config = complete("objective = { aggregation = { dr_grpo = 64 } }").unwrap();
        assert_eq!(config.objective.aggregation, Aggregation::DrGrpo(64.0));
        assert_eq!(config.objective.clip_high, 0.28);
    }

    #[test]
    fn impossible_settings_are_named() {
        let servers = |more: &str| {
            format!(
                "{more}\ntokens = {{ servers = [\"http://h\"], dialect = \"completions\", model = \"m\" }}"
            )
        };
        complete(&servers("steps = 1")).unwrap();
        let corrected = "steps = 2\nmax_policy_lag = 1\nobjective = { importance_cap = 2.0 }";
        complete(&servers(corrected)).unwrap();
        for (more, expected) in [
            ("group_size = 1", "`group_size` is 1"),
            ("steps = 0", "`steps` must be at least 1"),
            ("temperature = 0.0", "`temperature` is 0"),
            ("max_policy_lag = 9", "`max_policy_lag` is 9"),
            ("objective = { dual_clip = 0.5 }", "`objective.dual_clip` is 0.5"),
            ("objective = { clip_lo = 0.5 }", "unknown field `clip_lo`"),
            (&servers("steps = 2"), "`steps` is 2, but the servers of `tokens` keep the weights"),
            (&servers("steps = 2\nmax_policy_lag = 1"), "`objective.importance_cap` is not set"),
            (
                &servers("steps = 1\ntemperature = 0.7"),
                "cannot use `temperature` = 0.7 with `tokens`",
            ),
        ] {
            let error = complete(more).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
