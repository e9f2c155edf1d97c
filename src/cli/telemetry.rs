//! Logs, and traces for OpenTelemetry where a collector is configured.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use secrecy::ExposeSecret;
use tokio::runtime::Handle;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::TelemetryConfig;
use crate::episode::{CONTENTS, SPANS};

use super::background::Background;
use super::secrets;

/// The time-out of the collector.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Logging and tracing. Dropping it exports pending traces.
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
    /// The runtime that serialises and exports traces.
    background: Option<Background>,
}

impl Telemetry {
    /// Starts logging to standard error, with levels by `RUST_LOG`, and as JSON unless that is a
    /// terminal; and tracing, if `config` has a collector.
    pub fn start(config: Option<&TelemetryConfig>) -> anyhow::Result<Self> {
        let background = config.map(|_| Background::start("traces")).transpose()?;
        let provider = config
            .zip(background.as_ref())
            .map(|(config, background)| background.make(|| provider(config))?)
            .transpose()?;
        // mistral.rs logs every layer that it loads.
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
            EnvFilter::new("info,mistralrs_core=warn,mistralrs_quant=warn,hf_hub=warn")
        });
        let filter = quietened(filter)?;
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let lines = match std::io::stderr().is_terminal() {
            true => lines.boxed(),
            false => lines.json().boxed(),
        };
        let traces = config.zip(provider.as_ref()).map(|(config, provider)| {
            let contents = if config.contents { LevelFilter::INFO } else { LevelFilter::OFF };
            let targets = Targets::new()
                .with_target("prompt_r1", LevelFilter::INFO)
                .with_target(CONTENTS, contents);
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("prompt-r1"))
                .with_location(false)
                .with_threads(false)
                .with_tracked_inactivity(false)
                .with_filter(targets)
        });
        let registry = tracing_subscriber::registry().with(lines.with_filter(filter)).with(traces);
        // A second call has no effect.
        let _ = registry.try_init();
        Ok(Self { provider, background })
    }

    /// Exports pending traces.
    pub async fn finish(self) {
        let Self { provider: Some(provider), background } = self else { return };
        let sent = tokio::task::spawn_blocking(move || provider.shutdown()).await;
        if let Ok(Err(error)) = sent {
            tracing::warn!(%error, "cannot send the last traces");
        }
        drop(background);
    }
}

/// Filters duplicate and internal messages.
fn quietened(filter: EnvFilter) -> anyhow::Result<EnvFilter> {
    // It logs every failed step, including intended ones. Naming it in `RUST_LOG` enables it.
    const STEPS: &str = "mistralrs_core::engine";
    let steps = (!filter.to_string().contains(STEPS)).then_some(STEPS);
    // Spans of episodes are for traces; their contents must not be logged.
    [SPANS, CONTENTS].into_iter().chain(steps).try_fold(filter, |filter, target| {
        Ok(filter.add_directive(format!("{target}=off").parse()?))
    })
}

fn provider(config: &TelemetryConfig) -> anyhow::Result<SdkTracerProvider> {
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(TIMEOUT)
        .build()?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Exporter { client, runtime: Handle::current() })
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", config.otlp_url.trim_end_matches('/')))
        .with_timeout(TIMEOUT)
        .with_headers(headers(config)?)
        .build()?;
    // The flag of a `traceparent` is ignored: a caller would control how much is exported.
    let sampler = Sampler::TraceIdRatioBased(config.share);
    let resource = Resource::builder().with_service_name("prompt-r1").build();
    let builder = SdkTracerProvider::builder().with_batch_exporter(exporter);
    Ok(builder.with_sampler(sampler).with_resource(resource).build())
}

/// Headers from the configured variable: `name=value,name=value`.
fn headers(config: &TelemetryConfig) -> anyhow::Result<HashMap<String, String>> {
    let Some(variable) = &config.headers_env else { return Ok(HashMap::new()) };
    let Some(value) = secrets::from_environment(variable) else {
        anyhow::bail!("`telemetry.headers_env`: the variable `{variable}` is not set");
    };
    let pairs = value.expose_secret().split(',').map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    });
    pairs
        .collect::<Option<_>>()
        .ok_or_else(|| anyhow::anyhow!("`{variable}` is not of the form `name=value,name=value`"))
}

/// Exports on the background runtime: the exporter's own thread has none.
#[derive(Debug)]
struct Exporter {
    client: reqwest::Client,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Exporter {
    async fn send_bytes(
        &self,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let request = self.client.request(parts.method, parts.uri.to_string());
        let request = request.headers(parts.headers).body(body);
        let sent = self.runtime.spawn(async move {
            let response = request.send().await?;
            let status = response.status();
            Ok::<_, reqwest::Error>((status, response.bytes().await?))
        });
        let (status, body) = sent.await?.map_err(reqwest::Error::without_url)?;
        let mut response = http::Response::new(body);
        *response.status_mut() = status;
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn steps_that_fail_are_logged_only_at_a_verbose_level() {
        for (levels, step) in [
            ("warn", "mistralrs_core::engine=off"),
            ("debug,mistralrs_core=trace", "mistralrs_core::engine=off"),
            ("warn,mistralrs_core::engine=error", "mistralrs_core::engine=error"),
        ] {
            let filter = quietened(EnvFilter::new(levels)).unwrap().to_string();
            let directives: Vec<&str> = filter.split(',').collect();
            assert!(directives.contains(&step), "{filter}");
            assert!(directives.contains(&&*format!("{CONTENTS}=off")), "{filter}");
        }
    }
}
