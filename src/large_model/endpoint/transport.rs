//! What all calls of one endpoint share: its address and key, its connections, its limits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use reqwest::{Certificate, Client, Url};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;

use super::breaker::Breakers;
use super::config::{LargeModelConfig, LargeModelConfigError};
use super::direct::Direct;
use super::fields::Refused;
use super::models::Listed;
use super::wire::{AGENT, library_causes};
use crate::large_model::AttemptObserver;
use crate::large_model::pace::Pace;

/// Looks up an environment variable that may hold a key.
pub type KeyLookup<'a> = &'a dyn Fn(&str) -> Option<SecretString>;

/// What endpoints need beside their configuration.
#[derive(Clone)]
pub struct EndpointSetup<'a> {
    /// Looks up the keys that configurations name.
    pub keys: KeyLookup<'a>,
    /// Receives the outcome of every attempt.
    pub observer: Arc<dyn AttemptObserver>,
    /// Seeds the random part of the waits between attempts.
    pub seed: u64,
}

/// One endpoint.
pub(super) struct Transport {
    pub(super) name: String,
    pub(super) config: LargeModelConfig,
    /// The base of every path, without a slash at its end.
    pub(super) base: Url,
    /// The same, to make URLs of paths from.
    root: Uri,
    /// Where chat completions are.
    pub(super) completions: Uri,
    pub(super) client: Client,
    /// What sends the requests that the client makes, where nothing stands between.
    pub(super) direct: Option<Direct>,
    /// The value of the `Authorization` header.
    pub(super) authorization: Option<SecretString>,
    pub(super) slots: Arc<Semaphore>,
    /// At which pace calls are made, where that is limited.
    pub(super) pace: Option<Arc<Pace>>,
    breakers: Mutex<Breakers>,
    /// Fields that it turned out to refuse.
    pub(super) refused: Refused,
    /// The models that it listed.
    pub(super) listed: Listed,
    pub(super) rng: Mutex<ChaCha8Rng>,
    pub(super) observer: Arc<dyn AttemptObserver>,
}

/// The variable whose key is used where the configuration names none.
const DEFAULT_KEY: &str = "OPENAI_API_KEY";

impl Transport {
    pub(super) fn new(
        name: &str,
        config: &LargeModelConfig,
        setup: &EndpointSetup<'_>,
    ) -> Result<Self, LargeModelConfigError> {
        let mut base = config.validate(name)?;
        let path = base.path().trim_end_matches('/').to_owned();
        base.set_path(&path);
        let authorization = find_key(name, config, setup.keys)?;
        if authorization.is_some() && base.scheme() == "http" && !is_this_machine(&base) {
            tracing::warn!(model = name, url = %base, "the key is sent without encryption");
        }
        let uris = base.as_str().parse().ok().and_then(|root: Uri| {
            let completions = below(&root, "/chat/completions")?;
            Some((root, completions))
        });
        let (root, completions) = uris.ok_or_else(|| LargeModelConfigError::Invalid {
            name: name.to_owned(),
            key: "url",
            value: base.to_string(),
            reason: "requests cannot be sent to it".to_owned(),
            hint: "give the URL that the endpoint's documentation names",
        })?;
        let (connect, most_idle) = (config.timeouts.connect(), config.max_in_flight);
        Ok(Self {
            name: name.to_owned(),
            config: config.clone(),
            client: build_client(name, config, &base)?,
            direct: Direct::new(&root, is_this_machine(&base), connect, most_idle),
            base,
            root,
            completions,
            authorization,
            slots: Arc::new(Semaphore::new(config.max_in_flight.min(Semaphore::MAX_PERMITS))),
            pace: Pace::new(name, config.pace()),
            breakers: Mutex::new(Breakers::new(config.breaker)),
            refused: Refused::default(),
            listed: Listed::default(),
            rng: Mutex::new(ChaCha8Rng::seed_from_u64(setup.seed)),
            observer: Arc::clone(&setup.observer),
        })
    }

    /// The URL of a path of this API, with a query or without; `None` when it leads elsewhere.
    pub(super) fn at(&self, path: &str) -> Option<Uri> {
        below(&self.root, path)
    }

    pub(super) fn breakers(&self) -> MutexGuard<'_, Breakers> {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value of the `Authorization` header that the configuration asks for.
fn find_key(
    name: &str,
    config: &LargeModelConfig,
    keys: KeyLookup<'_>,
) -> Result<Option<SecretString>, LargeModelConfigError> {
    let variable = config.api_key_env.as_deref().unwrap_or(DEFAULT_KEY);
    if variable.is_empty() {
        return Ok(None);
    }
    let invalid = |reason: &str, hint| LargeModelConfigError::Invalid {
        name: name.to_owned(),
        key: "api_key_env",
        value: variable.to_owned(),
        reason: reason.to_owned(),
        hint,
    };
    let key = keys(variable).map(|key| key.expose_secret().trim().to_owned());
    match key.filter(|key| !key.is_empty()) {
        Some(key) => {
            let value = format!("Bearer {key}");
            if HeaderValue::from_str(&value).is_err() || value.split_whitespace().count() != 2 {
                let hint = "set the variable to the bare key, without quotes or line breaks";
                return Err(invalid("its value is no key", hint));
            }
            Ok(Some(value.into()))
        }
        None if config.api_key_env.is_some() => {
            Err(invalid("the variable is not set", "export it, or set `api_key_env = \"\"`"))
        }
        None => Ok(None),
    }
}

fn build_client(
    name: &str,
    config: &LargeModelConfig,
    base: &Url,
) -> Result<Client, LargeModelConfigError> {
    let mut builder = Client::builder()
        .user_agent(AGENT)
        .http1_only()
        .tcp_nodelay(true)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .connect_timeout(config.timeouts.connect())
        .pool_max_idle_per_host(config.max_in_flight)
        .referer(false)
        // A redirect would take the key and the conversation to a host that nobody configured.
        .redirect(reqwest::redirect::Policy::none());
    if is_this_machine(base) {
        builder = builder.no_proxy();
    }
    if base.scheme() == "http" {
        // Spares a machine without root certificates an error, and others the time to read them.
        builder = builder.tls_certs_only([]);
    }
    if let Some(path) = &config.ca {
        let invalid = |reason: String| LargeModelConfigError::Invalid {
            name: name.to_owned(),
            key: "ca",
            value: path.display().to_string(),
            reason,
            hint: "name a file of certificates in PEM form",
        };
        let pem = std::fs::read(path).map_err(|error| invalid(error.to_string()))?;
        let certificates =
            Certificate::from_pem_bundle(&pem).map_err(|error| invalid(library_causes(&error)))?;
        if certificates.is_empty() {
            return Err(invalid("it holds no certificate".to_owned()));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| LargeModelConfigError::Invalid {
        name: name.to_owned(),
        key: "url",
        value: base.to_string(),
        reason: library_causes(&error),
        hint: "TLS needs the system's root certificates: install `ca-certificates`",
    })
}

fn below(root: &Uri, path: &str) -> Option<Uri> {
    // As servers read them, these lead to where they stand, or up; `\` is `/` to some.
    const DOTS: [&str; 6] = [".", "..", "%2e", ".%2e", "%2e.", "%2e%2e"];
    let plain = path.split('?').next().unwrap_or_default();
    let is_dots = |segment: &str| DOTS.iter().any(|dots| segment.eq_ignore_ascii_case(dots));
    if !path.starts_with('/') || plain.split(['/', '\\']).any(is_dots) {
        return None;
    }
    let whole = format!("{}{path}", root.path().trim_end_matches('/'));
    let mut parts = root.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(whole).ok()?);
    Uri::from_parts(parts).ok()
}

fn is_this_machine(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let table = [
            ("http://host/v1", "/models", Some("http://host/v1/models")),
            ("https://host:8/", "/x?a=/../b", Some("https://host:8/x?a=/../b")),
            ("http://host/v1", "/a..b/...", Some("http://host/v1/a..b/...")),
            ("http://host/v1", "models", None),
            ("http://host/v1", "@evil/models", None),
            ("http://host/v1", "/../admin", None),
            ("http://host/v1", "/x/%2E%2e/admin?a", None),
            ("http://host/v1", "/.", None),
            ("http://host/v1", "/..\\admin", None),
            ("http://host/v1", "/a b", None),
        ];
        for (root, path, url) in table {
            let found = below(&root.parse().unwrap(), path);
            assert_eq!(found.map(|found| found.to_string()).as_deref(), url, "{root} {path}");
        }
    }
}
