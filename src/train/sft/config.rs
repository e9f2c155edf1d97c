//! The configuration of a supervised run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::dataset::ReadOptions;
use crate::train::config::{StartConfig, at_least_one, optimizer, share, version};
use crate::train::error::TrainError;
use crate::train::schedule::Schedule;
use crate::world::{DemonstrationMix, WorldConfig};

/// A supervised run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftConfig {
    /// Version of this file's format: 1.
    pub schema_version: u32,
    /// Folder of the run.
    pub output: PathBuf,
    /// Seed of everything random.
    #[serde(default)]
    pub seed: u64,
    /// The model.
    pub model: StartConfig,
    /// The data.
    pub data: SftData,
    /// The largest share of a file's rows that may be rejected or too long; more ends the run
    /// before its first step.
    #[serde(default = "crate::train::config::defaults::max_rejected")]
    pub max_rejected: f64,
    /// Optimizer steps.
    pub steps: u64,
    /// Conversations a step.
    #[serde(default = "defaults::batch_size")]
    pub batch_size: usize,
    /// Tokens computed at once; a step is split into as many parts as needed. Bounds the memory,
    /// not the result.
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
    /// Steps between two checkpoints.
    #[serde(default = "defaults::every")]
    pub checkpoint_every: u64,
    /// How many checkpoints are kept.
    #[serde(default = "crate::train::config::defaults::keep_checkpoints")]
    pub keep_checkpoints: usize,
    /// Steps between two evaluations on held-out conversations.
    #[serde(default = "defaults::every")]
    pub eval_every: u64,
}

mod defaults {
    pub fn batch_size() -> usize {
        64
    }
    pub fn every() -> u64 {
        100
    }
}

/// The source of conversations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SftData {
    /// Single facts of the bundled world, for a large model that knows nothing else.
    WorldFacts {
        /// Which world.
        #[serde(default)]
        world: WorldConfig,
    },
    /// Demonstrations of answering questions about the bundled world.
    WorldDemonstrations {
        /// Which world.
        #[serde(default)]
        world: WorldConfig,
        /// The kinds of demonstrations, and their quality.
        #[serde(default)]
        mix: DemonstrationMix,
        /// The number of demonstrations.
        count: usize,
    },
    /// Conversations in files, in any form that is read.
    Chat {
        /// A file, a folder or a glob.
        path: PathBuf,
        /// Which of its rows, and from which columns.
        #[serde(default)]
        read: ReadOptions,
        /// Held-out conversations of the same form.
        #[serde(default)]
        eval_path: Option<PathBuf>,
    },
}

impl SftConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// Names the first invalid setting.
    pub fn check(&self) -> Result<(), TrainError> {
        version(self.schema_version)?;
        share("max_rejected", self.max_rejected)?;
        at_least_one(&[
            ("steps", self.steps),
            ("batch_size", self.batch_size as u64),
            ("checkpoint_every", self.checkpoint_every),
            ("eval_every", self.eval_every),
        ])?;
        optimizer(&self.schedule, self.weight_decay, self.clip_norm)?;
        self.model.check_numbers()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::model::{AdapterConfig, Projection};

    #[test]
    fn numbers_out_of_their_range_are_named() {
        let read = |more: &str| -> SftConfig {
            let least = "schema_version = 1\noutput = \"o\"\nsteps = 1\n";
            let rest = "[model]\npath = \"m\"\n[data]\nkind = \"world_facts\"\n";
            toml::from_str(&format!("{least}{more}\n{rest}")).unwrap()
        };
        let check = |more: &str| read(more).check().map_err(|error| error.to_string());
        check("schedule = { peak = 0.0 }\nclip_norm = inf").unwrap();
        for (more, expected) in [
            ("schedule = { peak = -0.01 }", "`schedule.peak` is -0.01, but it must be at least 0"),
            ("schedule = { peak = nan }", "`schedule.peak` is NaN"),
            ("schedule = { peak = inf }", "`schedule.peak` is inf"),
            ("schedule = { final_ratio = -0.1 }", "`schedule.final_ratio` is -0.1"),
            ("weight_decay = nan", "`weight_decay` is NaN"),
            ("clip_norm = -1.0", "`clip_norm` is -1"),
            ("max_rejected = nan", "`max_rejected` is NaN"),
        ] {
            let error = check(more).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let mut config = read("");
        config.model.lora =
            Some(AdapterConfig { rank: 1, alpha: f64::NAN, targets: vec![Projection::Query] });
        assert!(config.check().unwrap_err().to_string().contains("`model.lora.alpha` is NaN"));
    }
}
