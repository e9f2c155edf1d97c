//! What flags and environment variables change about a configuration.

use std::path::PathBuf;

use super::{Config, ConfigError, PolicyEngine};
use crate::large_model::LargeModelConfig;

/// Flags shared by the commands that run episodes. Each can also be set in the environment; a flag
/// wins over the environment, and both over the file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Overrides {
    /// The policy: a folder, a `.gguf` file, or a Hugging Face id
    #[arg(long, value_name = "MODEL", env = "PROMPT_R1_POLICY")]
    pub policy: Option<String>,
    /// What runs the policy
    #[arg(long, value_name = "ENGINE", env = "PROMPT_R1_POLICY_ENGINE")]
    pub policy_engine: Option<PolicyEngine>,
    /// An OpenAI-compatible API for the large model, such as https://api.openai.com/v1
    #[arg(long, value_name = "URL", env = "PROMPT_R1_LARGE_MODEL_URL")]
    pub large_model_url: Option<String>,
    /// The large model: its id at that URL, or the name of a configured one
    #[arg(long, value_name = "ID", env = "PROMPT_R1_LARGE_MODEL")]
    pub large_model: Option<String>,
    /// Where the bundled models are
    #[arg(long, value_name = "FOLDER", env = "PROMPT_R1_MODELS_DIR")]
    pub models_dir: Option<PathBuf>,
}

impl Overrides {
    pub(super) fn apply(&self, config: &mut Config) -> Result<(), ConfigError> {
        if let Some(folder) = &self.models_dir {
            config.models_dir.clone_from(folder);
        }
        if let Some(model) = &self.policy {
            config.policy.model = Some(model.clone());
            config.policy.engine = None;
            config.policy.remote = None;
        }
        if let Some(engine) = self.policy_engine {
            config.policy.engine = Some(engine);
        }
        match (&self.large_model_url, &self.large_model) {
            (Some(url), Some(model)) => {
                let endpoint = LargeModelConfig::new(url.clone(), model.clone());
                config.large_models.insert(model.clone(), endpoint);
                config.default_large_model = Some(model.clone());
            }
            (None, Some(name)) => config.default_large_model = Some(name.clone()),
            (Some(_), None) => {
                return Err(ConfigError::Setting(
                    "`--large-model-url` needs `--large-model`\nhint: name the model to ask at that URL, such as `--large-model gpt-4o-mini`".into(),
                ));
            }
            (None, None) => {}
        }
        Ok(())
    }
}
