//! The small model: the tables `[policy]` and `[canary]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::engine::config::{MistralRsConfig, NativeConfig};
use crate::engine::tokens::config::TokensConfig;
use crate::hint::{Hint, Reason};
use crate::large_model::LargeModelConfig;
use crate::model::DeviceChoice;
use crate::policy::DIRECT;
use crate::sampling::SamplingConfig;

/// The engine of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[clap(rename_all = "snake_case")]
pub enum PolicyEngine {
    /// `native` on a CPU for the architectures that it supports, and on a GPU for those of its
    /// models of which mistral.rs ignores a setting; otherwise `mistralrs`.
    Auto,
    /// mistral.rs, on a GPU or a CPU: any architecture that it supports.
    #[serde(rename = "mistralrs")]
    #[clap(name = "mistralrs")]
    MistralRs,
    /// This program's own engine: many episodes at once, on a CPU or with CUDA.
    Native,
    /// Servers that take token ids and give sampled ids with log-probabilities, configured in
    /// `policy.tokens`; tokenizer and chat template are those of `policy.model`.
    Tokens,
    /// An OpenAI-compatible endpoint, configured in `policy.remote`.
    Remote,
    /// The large model itself acts as the policy.
    LargeModel,
    /// No policy: the question goes to the large model unchanged, and its reply is the answer.
    Direct,
}

/// The small model and its engine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyConfig {
    /// The engine. Default: `tokens` or `remote` where that is configured, `auto` where a model is
    /// configured, otherwise `direct`.
    pub engine: Option<PolicyEngine>,
    /// A folder with safetensors, a `.gguf` file, or the id of a model on the Hugging Face hub.
    /// Default: the bundled policy, if the large model is the bundled one.
    pub model: Option<String>,
    /// The folder of an adapter for `model`, as PEFT and this program's training write it, or its id
    /// on the hub: the policy is the model with it. The engine `native` computes it beside the
    /// weights, which stay as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
    /// Folders or ids of further adapters for `model`. Each is a policy of its own, by the name that
    /// it has here, on the same weights.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub adapters: BTreeMap<String, PathBuf>,
    /// Its name in replies and metrics. Default: the last part of `adapter`, or else of `model`,
    /// without `.gguf`; where the large model acts as the policy, its name. Not for the engine
    /// `direct`.
    pub name: Option<String>,
    /// How it samples unless a request says otherwise. Default: as its folder of templates says in
    /// `protocol.json`, otherwise at temperature 0.7 with `top_p = 0.8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<SamplingConfig>,
    /// The engine `mistralrs`.
    pub mistralrs: MistralRsConfig,
    /// The engine `native`.
    pub native: NativeConfig,
    /// The device of the engine `native`: `auto`, `cpu`, `cuda` or `cuda:N`. On a GPU it computes
    /// in bf16.
    pub device: DeviceChoice,
    /// The servers of the engine `tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokensConfig>,
    /// The endpoint of the engine `remote`.
    pub remote: Option<LargeModelConfig>,
}

/// A second policy that gets a share of the traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CanaryConfig {
    /// The share of the requests that name no policy, from 0 to 1.
    pub share: f64,
    /// The policy. Its `model` or `remote` must be set, and its name must differ from the first
    /// policy's.
    pub policy: PolicyConfig,
}

impl PolicyConfig {
    /// Fills in defaults that depend on other settings.
    pub(super) fn complete(&mut self) {
        self.engine.get_or_insert(match (&self.tokens, &self.remote, &self.model) {
            (Some(_), _, _) => PolicyEngine::Tokens,
            (None, Some(_), None) => PolicyEngine::Remote,
            (None, None, None) => PolicyEngine::Direct,
            (None, _, Some(_)) => PolicyEngine::Auto,
        });
    }

    /// The name of the policy if its tokens are sampled by an engine.
    pub fn model_name(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        let adapter = self.adapter.as_ref().map(|adapter| adapter.display().to_string());
        let named = adapter.as_deref().or(self.model.as_deref()).unwrap_or_default();
        name_of_model(named).to_owned()
    }

    /// The names of the policy and of those that its adapters make. `endpoint` is the default for a
    /// policy behind an endpoint; `large_model` is the large model that may act as the policy.
    pub(super) fn names(&self, endpoint: &str, large_model: &str) -> Vec<String> {
        let named = |default: &str| self.name.as_deref().unwrap_or(default).to_owned();
        let own = match self.engine {
            None | Some(PolicyEngine::Direct) => DIRECT.to_owned(),
            Some(PolicyEngine::LargeModel) => named(large_model),
            Some(PolicyEngine::Remote) => named(endpoint),
            Some(
                PolicyEngine::Auto
                | PolicyEngine::MistralRs
                | PolicyEngine::Native
                | PolicyEngine::Tokens,
            ) => self.model_name(),
        };
        std::iter::once(own).chain(self.adapters.keys().cloned()).collect()
    }

    /// `table` is the policy's table, for errors.
    pub(super) fn check(&self, table: &str) -> Result<(), ConfigError> {
        let wrong = |reason: Reason| Err(ConfigError::Setting(reason));
        if let Some(remote) = &self.remote {
            remote
                .validate(&format!("{table}.remote"))
                .map_err(|error| ConfigError::Setting(error.reason()))?;
        }
        if let Some(tokens) = &self.tokens {
            tokens.validate().map_err(|unusable| {
                ConfigError::Setting(unusable.in_table(&format!("{table}.tokens")))
            })?;
        }
        self.check_names(table)?;
        match (self.engine, &self.model, &self.remote) {
            (Some(PolicyEngine::Tokens), model, _) => self.check_tokens(table, model.is_some())?,
            (
                Some(PolicyEngine::Auto | PolicyEngine::MistralRs | PolicyEngine::Native),
                None,
                _,
            ) => {
                return wrong(reason!(
                    "`{table}.engine` runs a model here, but `{table}.model` names none";
                    hint: "set `{table}.model` to a folder, a `.gguf` file or a Hugging Face id"
                ));
            }
            (Some(PolicyEngine::Direct), None, _) if self.adapter_key().is_some() => {
                let key = self.adapter_key().unwrap_or_default();
                return wrong(reason!(
                    "`{table}.{key}` is set, but there is no policy: `{table}.model` is not set";
                    hint: "set `{table}.model` (`--policy`) to the model that the adapter was made for"
                ));
            }
            (Some(engine), _, _)
                if !matches!(engine, PolicyEngine::Auto | PolicyEngine::Native)
                    && self.adapter_key().is_some() =>
            {
                let key = self.adapter_key().unwrap_or_default();
                return wrong(reason!(
                    "`{table}.{key}` is set, but `{table}.engine` is another than `native`";
                    hint: "leave `{table}.engine` out, or merge the adapter with `server export`"
                ));
            }
            (Some(PolicyEngine::Remote), _, None) => {
                return wrong(reason!(
                    "`{table}.engine` is `remote`, but there is no table `[{table}.remote]`";
                    hint: "give it `url` and `model`"
                ));
            }
            _ => {}
        }
        let sampling = self.sampling.unwrap_or_default().check(&format!("{table}.sampling"));
        sampling.or_else(|text| wrong(text.into()))
    }

    /// The setting that names adapters, where one does.
    pub(super) fn adapter_key(&self) -> Option<&'static str> {
        match self.adapter {
            Some(_) => Some("adapter"),
            None => (!self.adapters.is_empty()).then_some("adapters"),
        }
    }

    /// Whether the policies can be asked for by their names: adapters in a model's name,
    /// `prompt-r1:NAME/…`, and in a header.
    fn check_names(&self, table: &str) -> Result<(), ConfigError> {
        if self.name.is_some() && self.engine == Some(PolicyEngine::Direct) {
            return Err(ConfigError::Setting(reason!(
                "`{table}.name` is set, but `{table}.engine` is `direct`, which is no policy";
                hint: "leave `{table}.name` out, or name a policy"
            )));
        }
        let is_policy = !matches!(self.engine, None | Some(PolicyEngine::Direct));
        if is_policy && self.names("", "").first().is_some_and(|own| own == DIRECT) {
            return Err(ConfigError::Setting(reason!(
                "`{table}.name` is `{DIRECT}`, which stands for no policy";
                hint: "set `{table}.name` to another name; its default is that of the model's file or folder"
            )));
        }
        match self.adapters.keys().find(|name| !is_adapter_name(name)) {
            Some(name) => Err(ConfigError::Setting(reason!(
                "`{name}` in `{table}.adapters` cannot be the name of a policy";
                hint: "use letters, digits, `-`, `_` and `.`, and not `{DIRECT}` alone"
            ))),
            None => Ok(()),
        }
    }

    /// Checks that the engine `tokens` has all it needs.
    fn check_tokens(&self, table: &str, has_model: bool) -> Result<(), ConfigError> {
        let wrong = |reason: Reason| Err(ConfigError::Setting(reason));
        let Some(tokens) = &self.tokens else {
            return wrong(reason!(
                "`{table}.engine` is `tokens`, but there is no table `[{table}.tokens]`";
                hint: "give it `servers` and `dialect`"
            ));
        };
        if !has_model {
            return wrong(reason!(
                "`{table}.engine` is `tokens`, but `{table}.model` names no model";
                hint: "set `{table}.model` to the folder or `.gguf` file with the tokenizer and chat template of what the servers run"
            ));
        }
        if let Some(key) = self.adapter_key() {
            return wrong(reason!(
                "`{table}.{key}` is set, but the servers of `{table}.tokens` have the weights";
                hint: "load it there, and leave it out here"
            ));
        }
        let sampling = self.sampling.unwrap_or_default().of_seed(0);
        tokens.log_probs(&sampling).map(|_| ()).or_else(|reason| {
            wrong(reason.map_text(|text| format!("cannot use `{table}.sampling`: {text}")))
        })
    }
}

/// The name of the model at a path or of a Hugging Face id: the last part, that of a GGUF file
/// without its extension.
pub fn name_of_model(named: &str) -> &str {
    let last = named.trim_end_matches('/').rsplit('/').next().unwrap_or(named);
    match last.strip_suffix(".gguf") {
        // `ID:FILE.gguf` is a file on the hub.
        Some(file) => file.rsplit(':').next().unwrap_or(file),
        None => last,
    }
}

/// Whether an adapter can have this name.
pub(super) fn is_adapter_name(name: &str) -> bool {
    let is_known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && name.chars().all(is_known) && name != DIRECT
}
