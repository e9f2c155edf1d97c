//! What every training configuration shares: the model to start from, and checks.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::schedule::Schedule;
use crate::model::{AdapterConfig, DeviceChoice, DtypeChoice};

/// Which model is trained.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StartConfig {
    /// A folder with weights, tokenizer and chat template, or a `.gguf` file, whose weights are
    /// dequantised.
    pub path: Option<PathBuf>,
    /// Or a new model for the bundled world, with random weights and a vocabulary of its words.
    pub new: Option<NewModel>,
    /// A folder of protocol templates that the policy is trained with, and that is saved with it.
    /// Default: those in its own folder, or the built-in ones.
    pub templates: Option<PathBuf>,
    /// Train a new low-rank adapter instead of the weights.
    pub lora: Option<AdapterConfig>,
    /// Or continue training the adapter in this PEFT folder, or of this Hugging Face id.
    pub adapter: Option<PathBuf>,
    /// The device of training, and of sampling in GRPO.
    pub device: DeviceChoice,
    /// The type of weights in training and in the finished folder. A resumed run must use its
    /// original type.
    pub dtype: DtypeChoice,
    /// Store only each layer's input and recompute the rest in the backward pass: less memory, a
    /// third more time.
    pub recompute: bool,
}

impl StartConfig {
    /// Checks the numbers among the settings.
    pub(super) fn check_numbers(&self) -> Result<(), TrainError> {
        within(&[("model.lora.alpha", self.lora.as_ref().map_or(1.0, |lora| lora.alpha), FINITE)])
    }
}

/// The shape of a new model; see `config.json` of any Qwen3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewModel {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Whether it reads only the last message, as a model without memory.
    #[serde(default)]
    pub last_message_only: bool,
    /// A folder of protocol templates that is saved with it.
    #[serde(default)]
    pub templates: Option<PathBuf>,
}

/// Checks that a file's `schema_version` is the one that this program reads.
pub(super) fn version(found: u32) -> Result<(), TrainError> {
    match found {
        1 => Ok(()),
        found => Err(TrainError::Config(
            format!("`schema_version` is {found}, this program reads 1").into(),
        )),
    }
}

/// Fails if one of these settings is 0.
pub(super) fn at_least_one(settings: &[(&str, u64)]) -> Result<(), TrainError> {
    match settings.iter().find(|(_, value)| *value == 0) {
        None => Ok(()),
        Some((name, _)) => Err(TrainError::Config(format!("`{name}` must be at least 1").into())),
    }
}

/// Fails if a setting is not a share.
pub(super) fn share(name: &str, value: f64) -> Result<(), TrainError> {
    match (0.0..=1.0).contains(&value) {
        true => Ok(()),
        false => Err(TrainError::Config(
            format!("`{name}` is {value}, but it must be a share from 0 to 1").into(),
        )),
    }
}

/// Any finite number that is not negative.
pub(super) const FINITE: RangeInclusive<f64> = 0.0..=f64::MAX;
/// The same, or infinite: for bounds, which then bound nothing.
pub(super) const BOUND: RangeInclusive<f64> = 0.0..=f64::INFINITY;

/// Fails if a setting is out of its range, or no number.
pub(super) fn within(settings: &[(&str, f64, RangeInclusive<f64>)]) -> Result<(), TrainError> {
    let Some((name, value, range)) =
        settings.iter().find(|(_, value, range)| !range.contains(value))
    else {
        return Ok(());
    };
    let least = (*range.start() > f64::MIN).then(|| format!("at least {}", range.start()));
    let finite = (*range.end() == f64::MAX).then(|| "finite".to_owned());
    let most = (*range.end() < f64::MAX).then(|| format!("at most {}", range.end()));
    let expected: Vec<String> = [least, most, finite].into_iter().flatten().collect();
    let expected = expected.join(" and ");
    Err(TrainError::Config(format!("`{name}` is {value}, but it must be {expected}").into()))
}

/// Checks the settings of every optimizer.
pub(super) fn optimizer(
    schedule: &Schedule,
    weight_decay: f64,
    clip_norm: f64,
) -> Result<(), TrainError> {
    within(&[
        ("schedule.peak", schedule.peak, FINITE),
        ("schedule.final_ratio", schedule.final_ratio, 0.0..=1.0),
        ("weight_decay", weight_decay, FINITE),
        ("clip_norm", clip_norm, BOUND),
    ])
}

/// Defaults of the settings that all methods of training have.
pub(super) mod defaults {
    pub fn max_rejected() -> f64 {
        crate::dataset::ReadOptions::default().max_rejected
    }
    pub fn micro_batch_tokens() -> usize {
        8192
    }
    pub fn clip_norm() -> f64 {
        1.0
    }
    pub fn keep_checkpoints() -> usize {
        2
    }
}
