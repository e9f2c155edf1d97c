//! The configuration of token servers: the table `[policy.tokens]`.

use std::path::PathBuf;

use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::hint::Reason;
use crate::outbound::client::{InvalidSetting, parse_url};
use crate::outbound::config::{RetryConfig, TimeoutConfig};
use crate::sampling::Sampling;

/// Servers with one model, used as one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    /// Their addresses, such as `["http://10.0.0.5:8000"]`: without a path, which the dialect
    /// knows. All must have the same model. Hosts other than this machine are reached through
    /// `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` if these are set.
    pub servers: Vec<String>,
    /// Their API.
    pub dialect: Dialect,
    /// The model's id at the servers, which is sent and compared. Required by the dialect
    /// `completions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The name of the environment variable that holds the servers' key. Default: no key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// A PEM file of certificate authorities that are trusted in addition to the system's. Default:
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The context length, prompt and sampled tokens together. Default: what the servers and the
    /// model's files say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// What is compared with the policy's own tokenizer and chat template before first use.
    /// Default: `template`; with the dialect `sglang`, which cannot show its template,
    /// `vocabulary`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<IdentityCheck>,
    /// The kind of log-probabilities that the servers send. Default: `raw` with the dialect
    /// `completions`, `temperature` with `sglang`. The dialect `llama_cpp` is asked for the right
    /// ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_probs: Option<LogProbs>,
    /// Concurrent requests at one server, at least 1; further ones wait. Default: 64.
    #[serde(default = "max_in_flight")]
    pub max_in_flight: usize,
    /// Requests that may queue; one more is refused as overload. Default: 1024.
    #[serde(default = "queue")]
    pub queue: usize,
    /// Time-outs.
    #[serde(default)]
    pub timeouts: TimeoutConfig,
    /// Retries, only of requests without a sampled token.
    #[serde(default)]
    pub retries: RetryConfig,
}

/// The API of a token server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// llama.cpp's `/completion`.
    LlamaCpp,
    /// `/v1/completions` with token ids, as in vLLM.
    Completions,
    /// SGLang's `/generate`.
    Sglang,
}

/// What is compared before first use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityCheck {
    /// The vocabulary, and the output of the chat template.
    Template,
    /// The vocabulary.
    Vocabulary,
    /// Only the model's id.
    None,
}

/// What log-probabilities are computed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogProbs {
    /// The raw logits: vLLM's `raw_logprobs`; SGLang with `SGLANG_RETURN_ORIGINAL_LOGPROB`.
    Raw,
    /// The logits divided by the temperature, before top-k and top-p: SGLang.
    Temperature,
    /// The distribution that was sampled from: vLLM's `processed_logprobs`.
    Processed,
}

fn max_in_flight() -> usize {
    64
}

fn queue() -> usize {
    1024
}

impl Dialect {
    /// The name in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LlamaCpp => "llama_cpp",
            Self::Completions => "completions",
            Self::Sglang => "sglang",
        }
    }
}

impl TokensConfig {
    /// What is compared before first use.
    pub fn check(&self) -> IdentityCheck {
        self.check.unwrap_or(match self.dialect {
            Dialect::Sglang => IdentityCheck::Vocabulary,
            Dialect::LlamaCpp | Dialect::Completions => IdentityCheck::Template,
        })
    }

    /// What to request or expect so that log-probabilities are those that the port defines: of the
    /// logits divided by the temperature, before top-k and top-p, or of the raw logits for greedy
    /// decoding.
    ///
    /// # Errors
    /// Explains why the servers cannot provide them.
    pub fn log_probs(&self, sampling: &Sampling) -> Result<LogProbs, Reason> {
        let is_raw = sampling.temperature <= 0.0 || sampling.temperature == 1.0;
        let is_whole = sampling.temperature <= 0.0 || !sampling.is_filtered();
        let sent = match (self.dialect, self.log_probs) {
            (Dialect::LlamaCpp, _) if is_raw => LogProbs::Raw,
            (Dialect::LlamaCpp, _) => LogProbs::Processed,
            (_, Some(sent)) => sent,
            (Dialect::Completions, None) => LogProbs::Raw,
            (Dialect::Sglang, None) => LogProbs::Temperature,
        };
        let is_exact = match sent {
            LogProbs::Raw => is_raw,
            LogProbs::Temperature => true,
            LogProbs::Processed => is_whole,
        };
        if is_exact {
            return Ok(sent);
        }
        Err(match (self.dialect, sent) {
            (Dialect::LlamaCpp, _) => reason!(
                "llama.cpp has probabilities from before the temperature, or from after `top_p` and `top_k`";
                hint: "sample at `temperature` 1 or 0, or with `top_p = 1` and no `top_k`"
            ),
            (_, LogProbs::Raw) => reason!(
                "the servers send probabilities from before the temperature";
                hint: "sample at `temperature` 1 or 0, or have them send those of the sampling distribution and set `log_probs`"
            ),
            _ => reason!(
                "the servers send probabilities from after `top_p` and `top_k`";
                hint: "sample with `top_p = 1` and no `top_k`"
            ),
        })
    }

    /// Checks every value and returns the servers' addresses.
    ///
    /// # Errors
    /// Names the first value that cannot be used.
    pub fn validate(&self) -> Result<Vec<Url>, InvalidSetting> {
        let wrong = |key, value: String, reason: &str, hint| InvalidSetting {
            key,
            value,
            reason: reason.to_owned(),
            hint,
        };
        if self.servers.is_empty() {
            let hint = "give at least one address, such as `[\"http://127.0.0.1:8000\"]`";
            return Err(wrong("servers", "[]".into(), "there is none", hint));
        }
        let limits = [
            ("max_in_flight", self.max_in_flight as u64),
            ("timeouts.connect_ms", self.timeouts.connect_ms),
            ("timeouts.first_byte_ms", self.timeouts.first_byte_ms),
            ("timeouts.idle_ms", self.timeouts.idle_ms),
            ("timeouts.total_ms", self.timeouts.total_ms),
            ("context", self.context.unwrap_or(usize::MAX) as u64),
        ];
        for (key, value) in limits {
            let least = if key == "context" { 2 } else { 1 };
            if value < least || (key.ends_with("_ms") && value > 86_400_000) {
                let hint = "leave it out for the default";
                return Err(wrong(key, value.to_string(), "it is out of range", hint));
            }
        }
        let model = self.model.as_deref();
        if self.dialect == Dialect::Completions && model.is_none_or(|id| id.trim().is_empty()) {
            let hint = "give the id that the servers list under `/v1/models`";
            return Err(wrong("model", String::new(), "the dialect `completions` needs one", hint));
        }
        if let (Dialect::LlamaCpp, Some(_)) = (self.dialect, self.log_probs) {
            let hint = "leave it out: llama.cpp is asked for the right ones";
            return Err(wrong("log_probs", "…".into(), "the dialect `llama_cpp` has none", hint));
        }
        if let (Dialect::Sglang, Some(IdentityCheck::Template)) = (self.dialect, self.check) {
            let hint = "use `vocabulary`";
            return Err(wrong("check", "template".into(), "SGLang shows no template", hint));
        }
        let mut urls = Vec::with_capacity(self.servers.len());
        for server in &self.servers {
            const FORM: &str = "write it like `http://127.0.0.1:8000`";
            let mut url = parse_url(server, FORM)?;
            let is_bare = matches!(url.path(), "" | "/");
            if url.path().trim_end_matches('/').ends_with("/v1") {
                let hint = "leave `/v1` out: the dialect knows its paths";
                return Err(InvalidSetting::url(server, "it names a path of the API", hint));
            }
            if !is_bare && !url.path().ends_with('/') {
                url.set_path(&format!("{}/", url.path()));
            }
            if urls.contains(&url) {
                return Err(InvalidSetting::url(
                    server,
                    "it stands there twice",
                    "name each server once",
                ));
            }
            urls.push(url);
        }
        Ok(urls)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(toml: &str) -> TokensConfig {
        toml::from_str(toml).unwrap()
    }

    const LLAMA: &str = "servers = [\"http://h:1\"]\ndialect = \"llama_cpp\"\n";
    const VLLM: &str = "servers = [\"http://h:1\"]\ndialect = \"completions\"\nmodel = \"m\"\n";
    const SGLANG: &str = "servers = [\"http://h:1\"]\ndialect = \"sglang\"\n";

    #[test]
    fn only_exact_log_probabilities_are_taken() {
        let sampling = |temperature, top_p| Sampling { temperature, top_p, top_k: None, seed: 0 };
        let (greedy, plain) = (Sampling::GREEDY, sampling(1.0, 1.0));
        let (nucleus, cold, both) = (sampling(1.0, 0.8), sampling(0.7, 1.0), sampling(0.7, 0.8));
        let processed = format!("{VLLM}log_probs = \"processed\"\n");
        use LogProbs::{Processed, Raw, Temperature};
        for (text, sampling, expected) in [
            (LLAMA, greedy, Some(Raw)),
            (LLAMA, plain, Some(Raw)),
            (LLAMA, nucleus, Some(Raw)),
            (LLAMA, cold, Some(Processed)),
            (LLAMA, both, None),
            (VLLM, plain, Some(Raw)),
            (VLLM, nucleus, Some(Raw)),
            (VLLM, cold, None),
            (&processed, cold, Some(Processed)),
            (&processed, nucleus, None),
            (&processed, greedy, Some(Processed)),
            (SGLANG, both, Some(Temperature)),
        ] {
            let found = config(text).log_probs(&sampling);
            assert_eq!(found.clone().ok(), expected, "{text} {sampling:?}");
            assert!(found.err().is_none_or(|reason| reason.hint.is_some()));
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (text, key) in [
            ("servers = []\ndialect = \"llama_cpp\"", "servers"),
            ("servers = [\"http://h/v1\"]\ndialect = \"llama_cpp\"", "url"),
            ("servers = [\"h:1\"]\ndialect = \"llama_cpp\"", "url"),
            ("servers = [\"http://a:b@h\"]\ndialect = \"llama_cpp\"", "url"),
            ("servers = [\"http://h\", \"http://h/\"]\ndialect = \"llama_cpp\"", "url"),
            ("servers = [\"http://h\"]\ndialect = \"completions\"", "model"),
            ("servers = [\"http://h\"]\ndialect = \"sglang\"\ncheck = \"template\"", "check"),
            ("servers = [\"http://h\"]\ndialect = \"llama_cpp\"\nlog_probs = \"raw\"", "log_probs"),
            (
                "servers = [\"http://h\"]\ndialect = \"llama_cpp\"\nmax_in_flight = 0",
                "max_in_flight",
            ),
            ("servers = [\"http://h\"]\ndialect = \"llama_cpp\"\ncontext = 1", "context"),
        ] {
            assert_eq!(config(text).validate().unwrap_err().key, key, "{text}");
        }
        assert_eq!(config(LLAMA).validate().unwrap()[0].as_str(), "http://h:1/");
        assert_eq!(config(SGLANG).check(), IdentityCheck::Vocabulary);
        assert_eq!(config(VLLM).check(), IdentityCheck::Template);
    }
}
