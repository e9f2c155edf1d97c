//! What flags and environment variables change about a configuration.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use reqwest::Url;

use super::policy::{is_adapter_name, name_of_model};
use super::{Config, ConfigError, LocalModelConfig, PolicyEngine};
use crate::large_model::LargeModelConfig;

/// Flags shared by the commands that run episodes. Each can also be set by an environment variable.
/// Precedence: flag, environment, file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Overrides {
    /// The policy: a folder, a `.gguf` file, a Hugging Face id, or `ID:FILE.gguf`
    #[arg(long, value_name = "MODEL", env = "PROMPT_R1_POLICY")]
    pub policy: Option<String>,
    /// An adapter for the policy: a folder as PEFT writes it, or a Hugging Face id. With a name, the
    /// flag can be repeated: each adapter is then a policy of its own
    #[arg(long, value_name = "[NAME=]FOLDER", env = "PROMPT_R1_ADAPTER")]
    pub adapter: Vec<NamedAdapter>,
    /// What runs the policy
    #[arg(long, value_name = "ENGINE", env = "PROMPT_R1_POLICY_ENGINE")]
    pub policy_engine: Option<PolicyEngine>,
    /// An OpenAI-compatible API for the large model, such as https://api.openai.com/v1. Of a
    /// configured model, it replaces the `url`; at another origin, the key of its `api_key_env` is not
    /// sent, but that of OPENAI_API_KEY, if it is set
    #[allow(rustdoc::bare_urls, reason = "it is shown on a terminal")]
    #[arg(long, value_name = "URL", env = "PROMPT_R1_LARGE_MODEL_URL")]
    pub large_model_url: Option<String>,
    /// The large model: its id at that URL, or the name of a configured one
    #[arg(long, value_name = "ID", env = "PROMPT_R1_LARGE_MODEL")]
    pub large_model: Option<String>,
    /// A large model to run in this process: a folder, a `.gguf` file, a Hugging Face id, or
    /// `ID:FILE.gguf`
    #[arg(
        long,
        value_name = "PATH",
        env = "PROMPT_R1_LARGE_MODEL_PATH",
        conflicts_with = "large_model_url"
    )]
    pub large_model_path: Option<PathBuf>,
    /// Where the bundled models are
    #[arg(long, value_name = "FOLDER", env = "PROMPT_R1_MODELS_DIR")]
    pub models_dir: Option<PathBuf>,
}

/// The value of `--adapter`.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedAdapter {
    /// The name of the policy that it makes; without one, it is the policy itself that has the
    /// adapter.
    pub name: Option<String>,
    /// Where it is.
    pub folder: PathBuf,
}

impl FromStr for NamedAdapter {
    type Err = Infallible;

    /// A folder with `=` in its path is written from the root, from `./`, or exists; a name is
    /// checked with those of the configuration.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.split_once('=') {
            Some((name, folder)) if is_adapter_name(name) || !is_folder(text) => {
                Self { name: Some(name.to_owned()), folder: folder.into() }
            }
            _ => Self { name: None, folder: text.into() },
        })
    }
}

/// Whether a text with `=` can only be meant as a folder.
fn is_folder(text: &str) -> bool {
    let path = Path::new(text);
    path.has_root() || path.starts_with(".") || path.starts_with("..") || path.exists()
}

impl Overrides {
    pub(super) fn apply(&self, config: &mut Config) -> Result<(), ConfigError> {
        if let Some(folder) = &self.models_dir {
            config.models_dir.clone_from(folder);
        }
        if let Some(model) = &self.policy {
            config.policy.model = Some(model.clone());
            config.policy.adapter = None;
            config.policy.adapters.clear();
            config.policy.engine = None;
            config.policy.remote = None;
            config.policy.tokens = None;
        }
        self.apply_adapters(config)?;
        if let Some(engine) = self.policy_engine {
            config.policy.engine = Some(engine);
            if engine == PolicyEngine::Direct {
                // The name belonged to the policy that the flag replaces.
                config.policy.name = None;
            }
        }
        if let Some(path) = &self.large_model_path {
            let name = match &self.large_model {
                Some(name) => name.clone(),
                None => name_of_model(&path.display().to_string()).to_owned(),
            };
            match config.local_models.get_mut(&name) {
                Some(model) => model.path.clone_from(path),
                None => {
                    let model = LocalModelConfig::new(path.clone());
                    config.local_models.insert(name.clone(), model);
                }
            }
            config.default_large_model = Some(name);
            return Ok(());
        }
        match (&self.large_model_url, &self.large_model) {
            (Some(url), Some(name)) => {
                match config.large_models.get_mut(name) {
                    Some(model) => move_to(model, url),
                    None => {
                        let model = LargeModelConfig::new(url.clone(), name.clone());
                        config.large_models.insert(name.clone(), model);
                    }
                }
                config.default_large_model = Some(name.clone());
            }
            (None, Some(name)) => config.default_large_model = Some(name.clone()),
            (Some(_), None) => {
                return Err(ConfigError::Setting(reason!(
                    "`--large-model-url` needs `--large-model`";
                    hint: "name the model to ask at that URL, such as `--large-model gpt-4o-mini`"
                )));
            }
            (None, None) => {}
        }
        Ok(())
    }

    fn apply_adapters(&self, config: &mut Config) -> Result<(), ConfigError> {
        for (index, NamedAdapter { name, folder }) in self.adapter.iter().enumerate() {
            if self.adapter[..index].iter().any(|other| other.name == *name) {
                let reason = match name {
                    Some(name) => reason!(
                        "`--adapter` has two folders for `{name}`"; hint: "give one of them another name"
                    ),
                    None => reason!(
                        "`--adapter` has two folders for one policy";
                        hint: "name them, `--adapter NAME=FOLDER`: each is a policy of its own then"
                    ),
                };
                return Err(ConfigError::Setting(reason));
            }
            match name {
                Some(name) => {
                    config.policy.adapters.insert(name.clone(), folder.clone());
                }
                None => config.policy.adapter = Some(folder.clone()),
            }
        }
        Ok(())
    }
}

/// Sets the URL of a configured model. The key that the file names is for the host that it names:
/// another one gets the default key, or none if the file says so.
fn move_to(model: &mut LargeModelConfig, url: &str) {
    let origin = |url: &str| Url::parse(url.trim()).ok().map(|url| url.origin());
    let has_key = model.api_key_env.as_deref().is_some_and(|variable| !variable.is_empty());
    if has_key && origin(&model.url) != origin(url) {
        model.api_key_env = None;
    }
    url.clone_into(&mut model.url);
}
