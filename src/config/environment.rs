//! The configuration of `server env`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::environment::OpenEpisodesConfig;
use crate::episode::Limits;
use crate::hint::Reason;
use crate::http::ServerConfig;
use crate::large_model::LargeModelChoice;
use crate::reward::RewardConfig;

use super::parse::check_version;
use super::{ConfigError, read_toml};

/// All settings of `server env`. The tables `large_model`, `reward` and `limits` are those of
/// `server train grpo`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvironmentConfig {
    /// Version of this file's format: 1.
    pub schema_version: u32,
    /// The listening address and limits for slow clients. Default address: 127.0.0.1:8080.
    #[serde(default)]
    pub server: ServerConfig,
    /// The name of the environment variable with the key that trainers must send. Default: none,
    /// which allows loopback addresses only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_env: Option<String>,
    /// The model that is trained: a folder, `.gguf` file or Hugging Face id with its tokenizer and
    /// chat template. Its weights are not read. Default: none, and turns are texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// A folder of templates that replace those of the model or the built-in ones, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub templates: Option<PathBuf>,
    /// The large model that the policy prompts.
    pub large_model: LargeModelChoice,
    /// How episodes are rewarded.
    #[serde(default)]
    pub reward: RewardConfig,
    /// Limits of an episode. `fallback` is ignored: only the policy's own answers count.
    #[serde(default)]
    pub limits: Limits,
    /// How many episodes may be open, and for how long.
    #[serde(default)]
    pub episodes: OpenEpisodesConfig,
}

impl EnvironmentConfig {
    /// The configuration in `file`, checked.
    ///
    /// # Errors
    /// Names the first value that cannot be used.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let config: Self = read_toml(file)?;
        config.check()?;
        Ok(config)
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// Names the first value that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |reason: Reason| Err(ConfigError::Setting(reason));
        check_version(self.schema_version)?;
        self.limits.check("limits").or_else(wrong)?;
        self.server.check().or_else(wrong)?;
        for (key, value) in [
            ("episodes.max_open", self.episodes.max_open as u64),
            ("episodes.idle_ms", self.episodes.idle_ms),
        ] {
            if value == 0 {
                return wrong(format!("`{key}` must be at least 1").into());
            }
        }
        self.large_model.check("large_model").or_else(wrong)
    }
}
