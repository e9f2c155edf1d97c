//! The configuration of traces.

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Traces for OpenTelemetry: the table `[telemetry]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// The collector, which takes OTLP over HTTP, such as `http://127.0.0.1:4318`. It is reached
    /// directly, without proxies or redirects. Export runs on an idle-priority thread: on a machine
    /// that is busy throughout, traces are dropped rather than requests delayed.
    pub otlp_url: String,
    /// The name of the environment variable that holds headers for it, `name=value,name=value`.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers_env: Option<String>,
    /// The share of requests that are traced, from 0 to 1, whatever the trace that a request is part
    /// of says: by its flag, a caller would decide how much is exported. Default: 1.
    #[serde(default = "all")]
    pub share: f64,
    /// Whether traces contain prompts and replies. Default: false.
    #[serde(default)]
    pub contents: bool,
}

fn all() -> f64 {
    1.0
}

impl TelemetryConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let is_http = ["http://", "https://"].iter().any(|start| self.otlp_url.starts_with(start));
        if !is_http || reqwest::Url::parse(&self.otlp_url).is_err() {
            return Err(ConfigError::Setting(reason!(
                "`telemetry.otlp_url` = `{}` is not an HTTP URL", self.otlp_url;
                hint: "write it as `http://127.0.0.1:4318`, without `/v1/traces`"
            )));
        }
        if !(0.0..=1.0).contains(&self.share) {
            let reason = format!("`telemetry.share` = {} is not between 0 and 1", self.share);
            return Err(ConfigError::Setting(reason.into()));
        }
        Ok(())
    }
}
