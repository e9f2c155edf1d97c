//! The configuration of a large model behind an endpoint.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::hint::Hint;
use crate::large_model::pace::{Limits, PaceConfig};
use crate::large_model::{Prices, UnknownModel};
use crate::outbound::client::{InvalidSetting, parse_url};
use crate::outbound::config::{RetryConfig, TimeoutConfig};

/// One large model behind an OpenAI-compatible endpoint: a table `[large_models.NAME]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LargeModelConfig {
    /// The URL of the API, such as `https://api.openai.com/v1`. Paths like `/chat/completions` are
    /// appended to it, so it must contain the `/v1` if the API has one. No credentials, query or
    /// fragment. Redirects are not followed. Hosts other than this machine are reached through
    /// `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` if these are set.
    pub url: String,
    /// The model's id at the endpoint, such as `gpt-4o-mini`.
    pub model: String,
    /// The name of the environment variable with the key. Default: `OPENAI_API_KEY`, if it is set.
    /// Empty: no key. A variable named here must be set. Without a key, each caller's own
    /// `Authorization` is passed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Fields that are added to every request that does not set them: `temperature`, `max_tokens`…
    /// Default: none.
    #[serde(default)]
    pub params: Map<String, Value>,
    /// Time-outs.
    #[serde(default)]
    pub timeouts: TimeoutConfig,
    /// Retries.
    #[serde(default)]
    pub retries: RetryConfig,
    /// The circuit breaker.
    #[serde(default)]
    pub breaker: BreakerConfig,
    /// Concurrent requests; further ones wait, within their time limits. Those of one key have at
    /// most seven eighths of it. Default: 256.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: usize,
    /// Whether the number of concurrent calls adapts to the endpoint, up to that limit: as many as
    /// it answers without slowing down or refusing some (429, 503). Further calls wait in order,
    /// and their time-outs start when they are made. Default: true in evaluation and training,
    /// false in serving, where a caller gets the endpoint's own answer at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptive_in_flight: Option<bool>,
    /// Requests per minute; further ones wait. Applies to everything that this process sends to the
    /// same `url` with the same key, by whichever large model; of several limits, the lowest
    /// applies. Retries count and do not wait. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Tokens read and written per minute, likewise. A call is charged for the length of its text
    /// and the longest reply it allows until its usage is known, a passed-through request for its
    /// text. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Prices of the tokens of `model`. Default: unknown, which counts as 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prices: Option<Prices>,
    /// Prices of the tokens of the endpoint's other models, by id. Default: unknown.
    #[serde(default)]
    pub model_prices: BTreeMap<String, Prices>,
    /// Whether keys with a budget may use models of unknown price, which are then billed at
    /// `prices`. Default: false.
    #[serde(default)]
    pub allow_unpriced: bool,
    /// The model's tokenizer: its folder, a `tokenizer.json` or a `.gguf` file. Tokens are counted
    /// by it where the endpoint does not say what it billed. Default: none; such tokens are
    /// estimated by the kinds of characters, which is right to 10 % for English and code and to 30
    /// % for most other languages with the tokenizers of recent models, and too low by up to half
    /// with tokenizers of few tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Fields that are never sent, such as `["seed", "stream_options"]`. Default: none.
    #[serde(default)]
    pub drop: Vec<String>,
    /// Fields that are sent under another name, such as
    /// `{ max_tokens = "max_completion_tokens" }`. Default: none.
    #[serde(default)]
    pub rename: BTreeMap<String, String>,
    /// A PEM file of certificate authorities that are trusted in addition to the system's. Default:
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Names of large models that are tried in this order when this one fails. Their own fallbacks
    /// are not followed. Default: none.
    #[serde(default)]
    pub fallbacks: Vec<String>,
    /// The longest reply that is read, bytes: of the response's body, or of the texts in a stream
    /// of events, which may have 64 times as many in all. Default: 16777216 (16 MiB).
    #[serde(default = "default_max_reply_bytes")]
    pub max_reply_bytes: usize,
}

/// The circuit breaker. Each model and route of an endpoint has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    /// This many failed requests among the last twice as many open the breaker; 0: never. A request
    /// counts once, whatever its retries. The failures of one key open it for that key; for all,
    /// at most half of them count from one key. Default: 8.
    pub failures: u32,
    /// How long it stays open before a few requests probe the endpoint, milliseconds. Default:
    /// 10000.
    pub pause_ms: u64,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failures: 8, pause_ms: 10_000 }
    }
}

fn default_max_in_flight() -> usize {
    256
}

fn default_max_reply_bytes() -> usize {
    16 * 1024 * 1024
}

/// A large model that is configured wrongly.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LargeModelConfigError {
    /// A value that cannot be used.
    #[error("cannot use `{table}.{key}` = `{value}`: {reason}")]
    Invalid {
        /// The model's table.
        table: String,
        /// The key below it.
        key: String,
        /// What it was set to; never a secret.
        value: String,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// A name that is used twice.
    #[error("two large models are called `{0}`")]
    Duplicate(String),
    /// A name that does not exist.
    #[error(transparent)]
    Unknown(#[from] UnknownModel),
}

impl Hint for LargeModelConfigError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Invalid { hint, .. } => (*hint).into(),
            Self::Duplicate(_) => "rename one of them".into(),
            Self::Unknown(error) => return error.hint(),
        })
    }
}

impl LargeModelConfigError {
    pub(super) fn of(table: &str, unusable: InvalidSetting) -> Self {
        let InvalidSetting { key, value, reason, hint } = unusable;
        Self::Invalid { table: table.to_owned(), key: key.to_owned(), value, reason, hint }
    }

    /// The same about a model whose table is another than `large_models.NAME`.
    pub fn in_table(self, other: &str) -> Self {
        match self {
            Self::Invalid { key, value, reason, hint, .. } => {
                Self::Invalid { table: other.to_owned(), key, value, reason, hint }
            }
            error @ (Self::Duplicate(_) | Self::Unknown(_)) => error,
        }
    }
}

impl LargeModelConfig {
    /// The model `model` at `url`, with defaults for everything else.
    pub fn new(url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            model: model.into(),
            api_key_env: None,
            params: Map::new(),
            timeouts: TimeoutConfig::default(),
            retries: RetryConfig::default(),
            breaker: BreakerConfig::default(),
            max_in_flight: default_max_in_flight(),
            adaptive_in_flight: None,
            requests_per_minute: None,
            tokens_per_minute: None,
            prices: None,
            model_prices: BTreeMap::new(),
            allow_unpriced: false,
            tokenizer: None,
            drop: Vec::new(),
            rename: BTreeMap::new(),
            ca: None,
            fallbacks: Vec::new(),
            max_reply_bytes: default_max_reply_bytes(),
        }
    }

    /// The price of a model of the endpoint, if known.
    pub fn prices_of(&self, model: &str) -> Option<Prices> {
        self.model_prices.get(model).copied().or(self.prices.filter(|_| model == self.model))
    }

    /// The prices of a model: those of the configured model if its own are unknown.
    pub(super) fn prices_or_default(&self, model: &str) -> Prices {
        self.prices_of(model).or(self.prices).unwrap_or_default()
    }

    /// The same with adaptive concurrency, unless that is set: for programs that can wait, such as
    /// evaluation and training.
    pub fn patient(self) -> Self {
        Self { adaptive_in_flight: self.adaptive_in_flight.or(Some(true)), ..self }
    }

    /// The limits on the rate of calls.
    pub(super) fn pace(&self) -> PaceConfig {
        PaceConfig {
            adaptive: self.adaptive_in_flight.unwrap_or_default().then_some(self.max_in_flight),
            // Waiting calls must not come near their time-outs.
            max_duration: self.timeouts.first_byte() / 4,
            limits: Limits { requests: self.requests_per_minute, tokens: self.tokens_per_minute },
            waits: self.fallbacks.is_empty(),
        }
    }

    /// Checks every value; `table` is the model's table, for the error. Returns the parsed URL.
    ///
    /// # Errors
    /// Names the value that cannot be used.
    pub fn validate(&self, table: &str) -> Result<Url, LargeModelConfigError> {
        let invalid =
            |key: &str, value: String, reason: &str, hint| LargeModelConfigError::Invalid {
                table: table.to_owned(),
                key: key.to_owned(),
                value,
                reason: reason.to_owned(),
                hint,
            };
        if self.model.trim().is_empty() {
            let hint = "give the id that the endpoint lists under `/models`";
            return Err(invalid("model", self.model.clone(), "it is empty", hint));
        }
        for key in ["model", "messages", "stream"] {
            if self.params.contains_key(key) {
                let hint =
                    "the request sets it itself; the model's id is the key `model` beside `params`";
                return Err(invalid("params", key.to_owned(), "the field is taken", hint));
            }
        }
        // TOML has no null: it was `nan` or `inf`, which JSON does not have.
        if let Some((key, _)) = self.params.iter().find(|(_, value)| value.is_null()) {
            let hint = "give a finite number, or leave it out";
            return Err(invalid("params", key.clone(), "it is no finite number", hint));
        }
        for key in self.drop.iter().chain(self.rename.keys()).chain(self.rename.values()) {
            if matches!(key.as_str(), "model" | "messages" | "stream") {
                let hint = "`drop` and `rename` are for fields that an endpoint refuses";
                return Err(invalid("drop", key.clone(), "no request does without it", hint));
            }
        }
        let limits = [
            ("timeouts.connect_ms", self.timeouts.connect_ms),
            ("timeouts.first_byte_ms", self.timeouts.first_byte_ms),
            ("timeouts.idle_ms", self.timeouts.idle_ms),
            ("timeouts.total_ms", self.timeouts.total_ms),
            ("max_in_flight", self.max_in_flight as u64),
            ("requests_per_minute", self.requests_per_minute.map_or(1, u64::from)),
            ("tokens_per_minute", self.tokens_per_minute.unwrap_or(1)),
            ("max_reply_bytes", self.max_reply_bytes as u64),
        ];
        for (key, value) in limits {
            // A day, and more bytes or requests than any machine has.
            let most = if key.ends_with("_ms") { 86_400_000 } else { 1 << 40 };
            if value == 0 || value > most {
                let reason = "it is out of range";
                return Err(invalid(
                    key,
                    value.to_string(),
                    reason,
                    "leave it out for the default",
                ));
            }
        }
        let others =
            self.model_prices.iter().map(|(id, prices)| (format!("model_prices.{id:?}"), prices));
        let prices = self.prices.iter().map(|prices| ("prices".to_owned(), prices));
        for (key, prices) in prices.chain(others) {
            if let Some((price, value)) = prices.unusable() {
                return Err(invalid(
                    &format!("{key}.{price}"),
                    value.to_string(),
                    "it is negative or not finite",
                    "give what a million tokens cost; 0 for nothing",
                ));
            }
        }
        self.parse_url().map_err(|unusable| LargeModelConfigError::of(table, unusable))
    }

    fn parse_url(&self) -> Result<Url, InvalidSetting> {
        const FORM: &str =
            "write it like `https://api.openai.com/v1` or `http://127.0.0.1:8000/v1`";
        let url = parse_url(&self.url, FORM)?;
        if url.path().trim_end_matches('/').ends_with("/chat/completions") {
            let hint = "leave `/chat/completions` out: it is appended";
            return Err(InvalidSetting::url(&self.url, "it names one path of the API", hint));
        }
        Ok(url)
    }
}

impl BreakerConfig {
    pub(super) fn pause(&self) -> Duration {
        Duration::from_millis(self.pause_ms)
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
