//! Configuration: one file for the server, read strictly; flags and environment override it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::access::AccessConfig;
use crate::engine::mistralrs::MistralRsConfig;
use crate::engine::native::NativeConfig;
use crate::episode::Limits;
use crate::http::{ServerConfig, TlsConfig};
use crate::large_model::LargeModelConfig;
use crate::model::DeviceChoice;
use crate::record::RecordConfig;

mod eval;
mod overrides;
mod parse;
mod telemetry;

pub use eval::EvalConfig;
pub use overrides::Overrides;
pub use parse::{ConfigError, read_toml};
pub use telemetry::TelemetryConfig;

/// Everything `serve` and `solve` can be told. Every key has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Version of this file's format: 1.
    pub schema_version: u32,
    /// Where the bundled models are: the folder `models` of the project.
    pub models_dir: PathBuf,
    /// The HTTP server.
    pub server: ServerConfig,
    /// TLS for callers. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// Keys and limits of callers.
    pub access: AccessConfig,
    /// Traces for OpenTelemetry. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<TelemetryConfig>,
    /// Episodes to be written down. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordConfig>,
    /// The small model.
    pub policy: PolicyConfig,
    /// A second small model, for a share of the traffic. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryConfig>,
    /// Large models behind OpenAI-compatible endpoints, by name.
    pub large_models: BTreeMap<String, LargeModelConfig>,
    /// Large models that run in this process, by name.
    pub local_models: BTreeMap<String, LocalModelConfig>,
    /// The large model that is asked when a request names none. Default: the only one, or else the
    /// first in alphabetical order.
    pub default_large_model: Option<String>,
    /// What an episode may use up; a request may ask for less, never for more.
    pub episode: Limits,
    /// A folder of templates that replace those of the policy or the built-in ones, by name.
    pub templates: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            schema_version: 1,
            models_dir: "models".into(),
            server: ServerConfig::default(),
            tls: None,
            access: AccessConfig::default(),
            telemetry: None,
            record: None,
            policy: PolicyConfig::default(),
            canary: None,
            large_models: BTreeMap::new(),
            local_models: BTreeMap::new(),
            default_large_model: None,
            episode: Limits::default(),
            templates: None,
        }
    }
}

/// What runs the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[clap(rename_all = "snake_case")]
pub enum PolicyEngine {
    /// `native` on a CPU for the models that it knows, and else `mistralrs`.
    Auto,
    /// mistral.rs, on a GPU or a CPU: whatever architecture it loads.
    #[serde(rename = "mistralrs")]
    #[clap(name = "mistralrs")]
    MistralRs,
    /// The engine of this project: many episodes at once, on a CPU or with CUDA.
    Native,
    /// An OpenAI-compatible endpoint, configured in `policy.remote`.
    Remote,
    /// The large model itself.
    LargeModel,
    /// None: a question goes to the large model as it is, and its reply is the answer.
    Direct,
}

/// The small model: which, and how it runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// What runs it. Default: `remote` where that is configured, `auto` where there is a model to
    /// run, and else `direct`.
    pub engine: Option<PolicyEngine>,
    /// A folder with safetensors, a `.gguf` file, or the id of a model on the Hugging Face hub.
    /// Default: the bundled policy, if the large model is the bundled one.
    pub model: Option<String>,
    /// The folder of an adapter for `model`, as PEFT and this program's training write it. The engine
    /// `native` serves it, merged into the weights, which are dequantised for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// Its name in replies and metrics. Default: the last part of `adapter`, or else of `model`.
    pub name: Option<String>,
    /// How it samples.
    pub sampling: SamplingConfig,
    /// The engine `mistralrs`.
    pub mistralrs: MistralRsConfig,
    /// The engine `native`.
    pub native: NativeConfig,
    /// Where the engine `native` computes: `auto`, `cpu`, `cuda` or `cuda:N`. On a GPU in bf16.
    pub device: DeviceChoice,
    /// The endpoint of the engine `remote`.
    pub remote: Option<LargeModelConfig>,
}

/// A policy that is tried beside the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CanaryConfig {
    /// The share of the requests that name no policy, from 0 to 1.
    pub share: f64,
    /// The policy; its `model` or `remote` must be set, and its name be another than the first's.
    pub policy: PolicyConfig,
}

/// How the policy samples unless a request says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingConfig {
    /// Logits are divided by it; 0 takes the likeliest token.
    pub temperature: f32,
    /// The smallest set of tokens whose probabilities sum to this.
    pub top_p: f32,
    /// Only this many of the likeliest tokens.
    pub top_k: Option<usize>,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self { temperature: 0.7, top_p: 0.8, top_k: None }
    }
}

/// A large model of this process, on the native engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalModelConfig {
    /// A folder with safetensors, or a `.gguf` file.
    pub path: PathBuf,
    /// How it runs.
    #[serde(default)]
    pub native: NativeConfig,
}

/// The name of the bundled large model.
pub const BUNDLED: &str = "atlas";

impl Config {
    /// The configuration in `file`, if there is one, with `overrides`, made whole and checked.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut config: Self = match file {
            Some(path) => read_toml(path)?,
            None => Self::default(),
        };
        overrides.apply(&mut config)?;
        config.complete();
        config.check()?;
        Ok(config)
    }

    /// Fills in what follows from the rest.
    fn complete(&mut self) {
        if self.large_models.is_empty() && self.local_models.is_empty() {
            let path = self.models_dir.join("large-model");
            self.local_models
                .insert(BUNDLED.into(), LocalModelConfig { path, native: NativeConfig::default() });
        }
        if self.default_large_model.is_none() {
            let names = self.large_models.keys().chain(self.local_models.keys());
            self.default_large_model = names.min().cloned();
        }
        let policy = &mut self.policy;
        let is_bundled = self.local_models.contains_key(BUNDLED) && self.large_models.is_empty();
        if policy.model.is_none() && policy.engine.is_none() && is_bundled {
            policy.model = Some(self.models_dir.join("policy").display().to_string());
            policy.name.get_or_insert_with(|| "prompt-r1-atlas".into());
        }
        policy.complete();
        if let Some(canary) = &mut self.canary {
            canary.policy.complete();
        }
    }

    /// The default large model's name.
    pub fn default_large_model(&self) -> &str {
        self.default_large_model.as_deref().unwrap_or(BUNDLED)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |reason: String| Err(ConfigError::Setting(reason));
        if self.schema_version != 1 {
            return wrong(format!(
                "`schema_version` is {}, this program reads 1",
                self.schema_version
            ));
        }
        let name = self.default_large_model();
        if !self.large_models.contains_key(name) && !self.local_models.contains_key(name) {
            return wrong(format!(
                "`default_large_model` is `{name}`, but there is no such large model\nhint: add a table `[large_models.{name}]`"
            ));
        }
        for (name, model) in &self.large_models {
            model.validate(name).map_err(|error| ConfigError::Setting(error.to_string()))?;
        }
        if let Some(telemetry) = &self.telemetry {
            telemetry.check()?;
        }
        if let Some(record) = &self.record {
            record.check().map_err(|error| ConfigError::Setting(error.to_string()))?;
        }
        self.policy.check("policy")?;
        if let Some(canary) = &self.canary {
            if !(0.0..=1.0).contains(&canary.share) {
                return wrong(format!("`canary.share` = {} is not between 0 and 1", canary.share));
            }
            canary.policy.check("canary.policy")?;
        }
        let limits = &self.episode;
        for (key, value) in [
            ("max_turns", limits.max_turns),
            ("max_turn_tokens", limits.max_turn_tokens),
            ("max_policy_tokens", limits.max_policy_tokens),
            ("observation_chars", limits.observation_chars),
        ] {
            if value == 0 {
                return wrong(format!("`episode.{key}` must be at least 1"));
            }
        }
        Ok(())
    }
}

impl PolicyConfig {
    /// Fills in what follows from the rest.
    fn complete(&mut self) {
        self.engine.get_or_insert(match (&self.remote, &self.model) {
            (Some(_), None) => PolicyEngine::Remote,
            (None, None) => PolicyEngine::Direct,
            (_, Some(_)) => PolicyEngine::Auto,
        });
    }

    /// `table` is where it stands, for errors.
    fn check(&self, table: &str) -> Result<(), ConfigError> {
        let wrong = |reason: String| Err(ConfigError::Setting(reason));
        if let Some(remote) = &self.remote {
            remote.validate(table).map_err(|error| ConfigError::Setting(error.to_string()))?;
        }
        match (self.engine, &self.model, &self.remote) {
            (
                Some(PolicyEngine::Auto | PolicyEngine::MistralRs | PolicyEngine::Native),
                None,
                _,
            ) => {
                return wrong(format!(
                    "`{table}.engine` runs a model here, but `{table}.model` names none\nhint: set `{table}.model` to a folder, a `.gguf` file or a Hugging Face id"
                ));
            }
            (Some(engine), _, _)
                if self.adapter.is_some()
                    && !matches!(engine, PolicyEngine::Auto | PolicyEngine::Native) =>
            {
                return wrong(format!(
                    "`{table}.adapter` is set, but `{table}.engine` is another than `native`\nhint: leave `{table}.engine` out, or merge the adapter with `server export`"
                ));
            }
            (Some(PolicyEngine::Remote), _, None) => {
                return wrong(format!(
                    "`{table}.engine` is `remote`, but there is no table `[{table}.remote]`\nhint: give it `url` and `model`"
                ));
            }
            _ => {}
        }
        let sampling = &self.sampling;
        let in_range = (0.0..=5.0).contains(&sampling.temperature)
            && sampling.top_p > 0.0
            && sampling.top_p <= 1.0;
        if !in_range {
            return wrong(format!(
                "`{table}.sampling` needs a `temperature` from 0 to 5 and a `top_p` above 0 and at most 1"
            ));
        }
        Ok(())
    }
}
