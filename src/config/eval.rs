//! The configuration of an evaluation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::episode::Limits;
use crate::eval::arms::{ArmSpec, Method};
use crate::eval::config::{DataConfig, JudgeConfig, MetricConfig, SearchConfig};
use crate::hint::Reason;
use crate::large_model::LargeModelConfig;

use super::parse::check_version;
use super::{
    Config, ConfigError, LocalModelConfig, Overrides, PolicyConfig, PolicyEngine, read_toml,
};

/// All settings of `eval`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// Version of this file's format: 1.
    pub schema_version: u32,
    /// The title of the report.
    #[serde(default = "title")]
    pub title: String,
    /// Folder of the finished rows and the report.
    pub output: PathBuf,
    /// The seed of the choice of questions, of attempts and of resampling.
    #[serde(default)]
    pub seed: u64,
    /// The arms: `direct`, `cot`, `template:FILE`, `policy:MODEL`, `first-prompt:MODEL`,
    /// `self-policy`, `script:COMMAND`, `self-consistency:K[:FILE]`, `prompt-search`. A prefix
    /// `NAME=`, without a colon, names an arm.
    pub arms: Vec<ArmSpec>,
    /// The questions: tables `[[data]]`.
    pub data: Vec<DataConfig>,
    /// At most this many questions of each table `[[data]]`. Default: all.
    #[serde(default)]
    pub limit: Option<usize>,
    /// How answers are scored.
    #[serde(default)]
    pub metrics: MetricConfig,
    /// The judge, for the metric `judge`.
    #[serde(default)]
    pub judge: JudgeConfig,
    /// How the arm `prompt-search` finds its prompt.
    #[serde(default)]
    pub prompt_search: Option<SearchConfig>,
    /// Whether `direct` and `cot` ask for a short answer in data sets with answers in words. Where
    /// answers are compared as numbers or formulas, they never do, nor where most are numbers and
    /// not compared as texts.
    #[serde(default = "yes")]
    pub brief: bool,
    /// Concurrent attempts.
    #[serde(default = "max_in_flight")]
    pub max_in_flight: usize,
    /// Whether replies of endpoints are stored in the output folder and reused for equal requests.
    /// Every arm is still charged for them.
    #[serde(default = "yes")]
    pub cache: bool,
    /// How many questions the report shows with the transcripts of every arm.
    #[serde(default = "episodes")]
    pub episodes: usize,
    /// Where the bundled models are.
    #[serde(default = "models_dir")]
    pub models_dir: PathBuf,
    /// Large models behind OpenAI-compatible endpoints, by name.
    #[serde(default)]
    pub large_models: BTreeMap<String, LargeModelConfig>,
    /// Large models that run in this process, by name.
    #[serde(default)]
    pub local_models: BTreeMap<String, LocalModelConfig>,
    /// The large model that all arms use. Default: the only one, or else the first in alphabetical
    /// order.
    #[serde(default)]
    pub default_large_model: Option<String>,
    /// How policies run; their models come from the arms. Default engine: `native`.
    #[serde(default)]
    pub policy: PolicyConfig,
    /// Limits of an episode. The default of `deadline_ms` is a day here.
    #[serde(default = "Limits::patient", deserialize_with = "Limits::deserialize_patient")]
    pub episode: Limits,
    /// A folder of templates that replace those of the policies or the built-in ones, by name.
    #[serde(default)]
    pub templates: Option<PathBuf>,
}

fn title() -> String {
    "Evaluation".into()
}

fn yes() -> bool {
    true
}

fn max_in_flight() -> usize {
    64
}

fn episodes() -> usize {
    100
}

fn models_dir() -> PathBuf {
    "models".into()
}

impl EvalConfig {
    /// The configuration in `file`, checked.
    ///
    /// # Errors
    /// When the file cannot be read, has an unknown key, or has an impossible setting.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let config: Self = read_toml(file)?;
        config.check()?;
        Ok(config)
    }

    /// The configuration of a server with the models of this evaluation; `policy` is the model of a
    /// policy arm. Without it, the large model answers alone.
    ///
    /// # Errors
    /// When that configuration has an impossible setting.
    pub fn server(&self, policy: Option<&str>) -> Result<Config, ConfigError> {
        let engine = match policy {
            Some(_) if self.policy.tokens.is_some() => PolicyEngine::Tokens,
            Some(_) => self.policy.engine.unwrap_or(PolicyEngine::Native),
            None => PolicyEngine::Direct,
        };
        let config = Config {
            models_dir: self.models_dir.clone(),
            large_models: (self.large_models.iter())
                .map(|(name, model)| (name.clone(), model.clone().patient()))
                .collect(),
            local_models: self.local_models.clone(),
            default_large_model: self.default_large_model.clone(),
            episode: self.episode.clone(),
            templates: self.templates.clone(),
            policy: PolicyConfig {
                engine: Some(engine),
                model: policy.map(str::to_owned),
                name: self.policy.name.clone().filter(|_| policy.is_some()),
                ..self.policy.clone()
            },
            ..Config::default()
        };
        let mut config = config.completed(&Overrides::default())?;
        // A question that waits for an engine has not failed.
        let engines = config.local_models.values_mut().map(|local| &mut local.native);
        for native in engines.chain([&mut config.policy.native]) {
            *native = native.clone().queueing(self.max_in_flight);
        }
        let queue = &mut config.policy.mistralrs.queue;
        *queue = self.max_in_flight.max(*queue);
        Ok(config)
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// Names the first value that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |reason: Reason| Err(ConfigError::Setting(reason));
        check_version(self.schema_version)?;
        if self.arms.is_empty() {
            return wrong(reason!("`arms` is empty"; hint: "write `arms = [\"direct\", \"cot\"]`"));
        }
        for (index, arm) in self.arms.iter().enumerate() {
            if self.arms[..index].iter().any(|other| other.name == arm.name) {
                return wrong(reason!(
                    "two arms are called `{}`", arm.name;
                    hint: "give one a name of its own: `NAME={}`", arm.method
                ));
            }
        }
        let searches = self.arms.iter().any(|arm| arm.method == Method::PromptSearch);
        match &self.prompt_search {
            Some(search) => search.check().or_else(wrong)?,
            None if searches => {
                return wrong(reason!(
                    "the arm `prompt-search` needs training questions";
                    hint: "add a table `[[prompt_search.data]]`, with `split = \"train\"` for the bundled world"
                ));
            }
            None => {}
        }
        if self.max_in_flight == 0 {
            return wrong("`max_in_flight` must be at least 1".into());
        }
        let policy = &self.policy;
        if policy.model.is_some() || policy.adapter_key().is_some() || policy.remote.is_some() {
            return wrong(reason!(
                "`policy.model`, `policy.adapter`, `policy.adapters` and `policy.remote` are not for evaluations";
                hint: "write an arm `policy:MODEL`; `server export` merges an adapter"
            ));
        }
        if !matches!(
            self.policy.engine,
            None | Some(PolicyEngine::Native | PolicyEngine::MistralRs | PolicyEngine::Tokens)
        ) {
            return wrong(
                "`policy.engine` must be `native`, `mistralrs` or `tokens` in evaluations".into(),
            );
        }
        let policies = self
            .arms
            .iter()
            .filter(|arm| matches!(arm.method, Method::Policy(_) | Method::FirstPrompt(_)));
        if self.policy.tokens.is_some() && policies.count() > 1 {
            return wrong(reason!(
                "`policy.tokens` has one model, but there are several arms `policy:MODEL`";
                hint: "evaluate each in a run of its own, with the same `data` and `seed`"
            ));
        }
        self.server(None).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::hint::Hint;

    fn config(toml: &str) -> Result<EvalConfig, Reason> {
        let text = format!("schema_version = 1\noutput = \"x\"\ndata = []\n{toml}");
        let config: EvalConfig = super::super::parse::parse_toml(&text)?;
        config.check().map_err(|error| error.reason())?;
        Ok(config)
    }

    #[test]
    fn a_policy_arm_becomes_a_policy() {
        let config = config("arms = [\"direct\", \"policy:models/policy\"]").unwrap();
        let server = config.server(Some("models/policy")).unwrap();
        assert_eq!(server.policy.engine, Some(PolicyEngine::Native));
        assert_eq!(server.policy.model.as_deref(), Some("models/policy"));
        assert_eq!(server.default_large_model(), crate::config::BUNDLED);
        let alone = config.server(None).unwrap();
        assert_eq!(alone.policy.engine, Some(PolicyEngine::Direct));
    }

    #[test]
    fn all_calls_of_an_evaluation_can_queue() {
        let toml = "arms = [\"direct\"]\nmax_in_flight = 5000\nlocal_models = { a = { path = \"p\" }, b = { path = \"p\", native = { queue = 9999 } } }";
        let server = config(toml).unwrap().server(Some("m")).unwrap();
        assert_eq!(server.policy.native.queue, 5000);
        assert_eq!(server.local_models["a"].native.queue, 5000);
        assert_eq!(server.local_models["b"].native.queue, 9999);
    }

    #[test]
    fn the_large_model_alone_has_no_policys_name() {
        let config = config("arms = [\"direct\"]\npolicy = { name = \"x\" }").unwrap();
        assert_eq!(config.server(Some("m")).unwrap().policy.name.as_deref(), Some("x"));
        assert_eq!(config.server(None).unwrap().policy.name, None);
    }

    #[test]
    fn what_cannot_be_run_is_said() {
        for (toml, reason) in [
            ("arms = []", "`arms` is empty"),
            ("arms = [\"cot\", \"cot\"]", "two arms are called `cot`"),
            ("arms = [\"cott\"]", "`cott` is not an arm"),
            ("arms = [\"cot\"]\nmax_in_flight = 0", "`max_in_flight`"),
            ("arms = [\"cot\"]\npolicy = { model = \"x\" }", "`policy.model`"),
            ("arms = [\"cot\"]\npolicy = { engine = \"remote\" }", "`policy.engine`"),
            (
                "arms = [\"policy:a\", \"policy:b\"]\n[policy.tokens]\nservers = [\"http://h\"]\ndialect = \"sglang\"",
                "`policy.tokens` has one model",
            ),
            ("arms = [\"cot\"]\nepisode = { max_turns = 0 }", "`episode.max_turns`"),
            ("arms = [\"cot\"]\nepisode = { max_cost = nan }", "`episode.max_cost` is NaN"),
            ("arms = [\"cot\"]\nlimt = 3", "did you mean `limit`?"),
            ("arms = [\"prompt-search\"]", "`[[prompt_search.data]]`"),
            (
                "arms = [\"cot\"]\nprompt_search = { data = [], budget = 9 }",
                "`prompt_search.budget`",
            ),
            (
                "arms = [\"cot\"]\nprompt_search = { data = [], sample = 0 }",
                "`prompt_search.sample`",
            ),
            ("arms = [\"cot\"]\njudge = { modle = \"x\" }", "did you mean `model`?"),
            ("arms = [\"cot\"]\nmetrics = { by_source = { x = \"sim\" } }", "`ssim`"),
        ] {
            let error = config(toml).unwrap_err();
            assert!(error.explained().contains(reason), "{error}");
        }
    }
}
