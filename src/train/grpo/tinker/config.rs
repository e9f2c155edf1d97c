//! The configuration of a Tinker server, and settings that it does not support.

use serde::{Deserialize, Serialize};

use crate::outbound::client::{is_this_machine, parse_url};
use crate::train::config::at_least_one;
use crate::train::error::TrainError;
use crate::train::grpo::config::GrpoConfig;

/// A server that speaks the Tinker protocol, and trains a LoRA adapter of its own model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TinkerConfig {
    /// Its URL, such as `http://127.0.0.1:8000`; `/api/v1/…` is appended.
    pub url: String,
    /// Its name for the model in `model.path`.
    pub base_model: String,
    /// How it aggregates the losses of an update's tokens. A wrong setting scales every gradient.
    pub loss_scale: LossScale,
    /// The rank of the adapter. Its modules and alpha are the server's choice.
    #[serde(default = "default_rank")]
    pub rank: usize,
    /// The name of the environment variable that holds the key. Default: no key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// The time-out of one HTTP request, milliseconds. Results that take longer are polled again.
    #[serde(default = "default_request_timeout_ms")]
    pub request_timeout_ms: u64,
    /// How long a server that is unreachable, or asks to wait, is retried, milliseconds.
    #[serde(default = "default_outage_ms")]
    pub outage_ms: u64,
    /// The time-out of one computation, milliseconds.
    #[serde(default = "default_result_timeout_ms")]
    pub result_timeout_ms: u64,
}

/// How a server aggregates the losses of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossScale {
    /// Their sum: SkyRL on FSDP or Megatron, and Thinking Machines' own service.
    Sum,
    /// The mean over trajectories of the mean over all tokens of each: SkyRL on JAX.
    SkyrlJax,
}

fn default_rank() -> usize {
    32
}

fn default_request_timeout_ms() -> u64 {
    45_000
}

fn default_outage_ms() -> u64 {
    300_000
}

fn default_result_timeout_ms() -> u64 {
    3_600_000
}

impl LossScale {
    /// The factor on the gradients of a trajectory of `positions` scored tokens, one of
    /// `trajectories` in the update, so that the server's gradient is the requested one.
    pub fn factor(self, trajectories: usize, positions: usize) -> f64 {
        match self {
            Self::Sum => 1.0,
            Self::SkyrlJax => trajectories as f64 * positions as f64,
        }
    }
}

impl TinkerConfig {
    /// Checks that such a server supports what `config` asks for.
    ///
    /// # Errors
    /// Names the first unsupported setting.
    pub fn check(&self, config: &GrpoConfig) -> Result<(), TrainError> {
        let refused = |setting: &str, why: &str, hint: &str| {
            Err(TrainError::Config(reason!(
                "`{setting}` is not available with `trainer.kind = \"tinker\"`: {why}"; hint: "{hint}"
            )))
        };
        let form = "write it as `http://127.0.0.1:8000`";
        let url = parse_url(&self.url, form)
            .map_err(|unusable| TrainError::Config(unusable.in_table("trainer")))?;
        if self.api_key_env.is_some() && url.scheme() == "http" && !is_this_machine(&url) {
            return Err(TrainError::Config(reason!(
                "the key of `trainer.api_key_env` would be sent to `{url}` without encryption";
                hint: "use `https`"
            )));
        }
        if self.rank == 0 {
            return refused(
                "trainer.rank = 0",
                "full fine-tuning is not supported",
                "use a rank of at least 1; 32 works well",
            );
        }
        at_least_one(&[
            ("trainer.request_timeout_ms", self.request_timeout_ms),
            ("trainer.outage_ms", self.outage_ms),
            ("trainer.result_timeout_ms", self.result_timeout_ms),
        ])?;
        if config.objective.entropy_coef != 0.0 {
            return refused(
                "objective.entropy_coef",
                "no server returns entropies, nor their gradient",
                "`entropy_coef = 0.0`; entropy is estimated from what was sampled, for `guards.min_entropy`",
            );
        }
        if config.clip_norm.is_finite() {
            return refused(
                "clip_norm",
                "the protocol has no way to clip a gradient, and servers that clip do so by their own settings",
                "`clip_norm = inf`",
            );
        }
        if config.temperature != 1.0 {
            return refused(
                "temperature",
                "servers score tokens at 1.0 only",
                "`temperature = 1.0`",
            );
        }
        if config.weight_decay != 0.0 && self.loss_scale == LossScale::SkyrlJax {
            return refused(
                "weight_decay",
                "SkyRL on JAX then decays every other model that it holds",
                "`weight_decay = 0.0`",
            );
        }
        if config.model.path.is_none() {
            return refused(
                "model.new",
                "the server has no such model",
                "`model.path` names the folder of the model that the server calls `trainer.base_model`",
            );
        }
        for (setting, is_set) in [
            ("model.lora", config.model.lora.is_some()),
            ("model.adapter", config.model.adapter.is_some()),
            ("model.recompute", config.model.recompute),
        ] {
            if is_set {
                return refused(
                    setting,
                    "the server makes the adapter and computes its gradient",
                    "leave it out; `trainer.rank` is the width of the adapter",
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::hint::Hint;
    use crate::train::grpo::preset::Preset;

    fn complete(more: &str, trainer: &str) -> Result<GrpoConfig, String> {
        let text = format!(
            r#"
            schema_version = 1
            output = "runs/x"
            tasks = {{ kind = "world", questions = ["comparison"] }}
            large_model = {{ path = "models/large-model" }}
            {more}
            [trainer]
            kind = "tinker"
            base_model = "base"
            {trainer}
            "#
        );
        Preset::Default.complete(toml::from_str(&text).unwrap()).map_err(|error| error.explained())
    }

    const MODEL: &str = "model = { path = \"models/policy\" }";
    const PLAIN: &str = "clip_norm = inf";
    const SERVER: &str = "url = \"http://127.0.0.1:8000\"\nloss_scale = \"skyrl-jax\"";

    #[test]
    fn what_no_server_can_do_is_refused_by_its_name() {
        complete(&format!("{MODEL}\n{PLAIN}"), SERVER).unwrap();
        for (more, said) in [
            (MODEL.to_owned(), "`clip_norm` is not available"),
            (format!("{MODEL}\n{PLAIN}\ntemperature = 0.7"), "`temperature`"),
            (format!("{MODEL}\n{PLAIN}\nweight_decay = 0.1"), "`weight_decay`"),
            (
                format!("{MODEL}\n{PLAIN}\nobjective = {{ entropy_coef = 0.01 }}"),
                "`objective.entropy_coef`",
            ),
            (
                format!(
                    "{PLAIN}\nmodel = {{ path = \"a\", lora = {{ rank = 2, alpha = 4.0, targets = [\"q_proj\"] }} }}"
                ),
                "`model.lora`",
            ),
            (format!("{PLAIN}\nmodel = {{ path = \"a\", adapter = \"b\" }}"), "`model.adapter`"),
            (format!("{PLAIN}\nmodel = {{ path = \"a\", recompute = true }}"), "`model.recompute`"),
        ] {
            let error = complete(&more, SERVER).unwrap_err();
            assert!(error.contains(said) && error.contains("hint: "), "{error}");
        }
    }

    #[test]
    fn impossible_servers_are_refused() {
        for (server, said) in [
            ("url = \"127.0.0.1:8000\"\nloss_scale = \"sum\"", "`trainer.url`"),
            ("url = \"http://u:p@host\"\nloss_scale = \"sum\"", "`trainer.url`"),
            (
                "url = \"http://host\"\nloss_scale = \"sum\"\napi_key_env = \"K\"",
                "without encryption",
            ),
            ("url = \"http://host\"\nloss_scale = \"sum\"\nrank = 0", "`trainer.rank = 0`"),
            ("url = \"http://host\"\nloss_scale = \"mean\"", "unknown variant `mean`"),
            ("url = \"http://host\"", "missing field `loss_scale`"),
            ("url = \"http://host\"\nloss_scale = \"sum\"\nclip = 1", "unknown field `clip`"),
        ] {
            let error = complete(&format!("{MODEL}\n{PLAIN}"), server).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        let key = "url = \"http://localhost\"\nloss_scale = \"sum\"\napi_key_env = \"K\"";
        complete(&format!("{MODEL}\n{PLAIN}"), key).unwrap();
    }
}
