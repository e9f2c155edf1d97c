//! Configuration: one strictly parsed file for the server; flags and environment variables override
//! it.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::access::AccessConfig;
use crate::engine::config::NativeConfig;
use crate::episode::Limits;
use crate::hint::{Hint, Reason};
use crate::http::{ServerConfig, TlsConfig};
use crate::large_model::{LargeModelConfig, check_local_params, check_model_names};
use crate::model::DeviceChoice;
use crate::record::RecordConfig;

mod environment;
mod eval;
mod overrides;
mod parse;
mod policy;
mod telemetry;
#[cfg(test)]
mod tests;

pub use environment::EnvironmentConfig;
pub use eval::EvalConfig;
pub use overrides::Overrides;
use parse::check_version;
pub use parse::{ConfigError, ConfigFile, read_toml};
pub use policy::{CanaryConfig, PolicyConfig, PolicyEngine, name_of_model};
pub use telemetry::TelemetryConfig;

/// All settings of `serve` and `solve`. Every key has a default.
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
    /// Recording of episodes. Default: none.
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
    /// Limits of an episode. A request may lower them, never raise them.
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

/// A large model of this process, on the native engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalModelConfig {
    /// A folder with safetensors, a `.gguf` file, or the id of a model on the Hugging Face hub.
    pub path: PathBuf,
    /// Fields of calls that do not set them: `temperature` (0 where neither does), `top_p` (1),
    /// `seed`, `max_tokens` (what the context leaves, 4,096 at most).
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub params: Map<String, Value>,
    /// How it runs.
    #[serde(default)]
    pub native: NativeConfig,
    /// Its device: `auto`, `cpu`, `cuda` or `cuda:N`. On a GPU it computes in bf16.
    #[serde(default)]
    pub device: DeviceChoice,
}

impl LocalModelConfig {
    /// The model at `path`, with the defaults of everything else.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            params: Map::new(),
            native: NativeConfig::default(),
            device: DeviceChoice::default(),
        }
    }
}

/// The name of the bundled large model.
pub const BUNDLED: &str = "atlas";

/// Its folder in [`Config::models_dir`].
pub const BUNDLED_FOLDER: &str = "large-model";

impl Config {
    /// Reads `file`, if there is one, applies `overrides`, fills in defaults and checks the result.
    ///
    /// # Errors
    /// When the file cannot be read, has an unknown key, or has an impossible setting.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let written: Option<Self> = file.map(read_toml).transpose()?;
        written.unwrap_or_default().completed(overrides)
    }

    /// Applies `overrides`, fills in defaults and checks the result.
    ///
    /// # Errors
    /// When a setting is impossible.
    pub fn completed(mut self, overrides: &Overrides) -> Result<Self, ConfigError> {
        overrides.apply(&mut self)?;
        self.complete();
        self.check()?;
        Ok(self)
    }

    /// Fills in defaults that depend on other settings.
    fn complete(&mut self) {
        if self.large_models.is_empty() && self.local_models.is_empty() {
            let path = self.models_dir.join(BUNDLED_FOLDER);
            self.local_models.insert(BUNDLED.into(), LocalModelConfig::new(path));
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
        let wrong = |reason: Reason| Err(ConfigError::Setting(reason));
        check_version(self.schema_version)?;
        let name = self.default_large_model();
        if !self.large_models.contains_key(name) && !self.local_models.contains_key(name) {
            return wrong(reason!(
                "`default_large_model` is `{name}`, but there is no such large model";
                hint: "add a table `[large_models.{name}]`"
            ));
        }
        check_model_names(self.local_models.keys().map(String::as_str), &self.large_models)
            .map_err(|error| ConfigError::Setting(error.reason()))?;
        for (name, model) in &self.large_models {
            model
                .validate(&format!("large_models.{name}"))
                .map_err(|error| ConfigError::Setting(error.reason()))?;
        }
        for (name, model) in &self.local_models {
            check_local_params(&format!("local_models.{name}.params"), &model.params)
                .map_err(ConfigError::Setting)?;
        }
        if let Some(telemetry) = &self.telemetry {
            telemetry.check()?;
        }
        if let Some(record) = &self.record {
            record.check().map_err(|error| ConfigError::Setting(error.reason()))?;
        }
        self.policy.check("policy")?;
        if let Some(canary) = &self.canary {
            if !(0.0..=1.0).contains(&canary.share) {
                return wrong(
                    format!("`canary.share` = {} is not between 0 and 1", canary.share).into(),
                );
            }
            canary.policy.check("canary.policy")?;
        }
        self.check_policy_names()?;
        self.server.check().map_err(ConfigError::Setting)?;
        self.episode.check("episode").map_err(ConfigError::Setting)
    }

    /// Checks that each policy has a name of its own.
    fn check_policy_names(&self) -> Result<(), ConfigError> {
        let large_model = self.default_large_model();
        let mut names = self.policy.names("policy", large_model);
        if let Some(canary) = &self.canary {
            names.extend(canary.policy.names("canary", large_model));
        }
        let mut known = HashSet::new();
        match names.iter().find(|name| !known.insert(*name)) {
            Some(name) => Err(ConfigError::Setting(reason!(
                "two policies are called `{name}`";
                hint: "give one another name by `policy.name`, `canary.policy.name` or in `policy.adapters`"
            ))),
            None => Ok(()),
        }
    }
}
