//! What all calls of one endpoint share: its address and key, its connections, its limits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Uri;
use http::uri::PathAndQuery;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use reqwest::{Client, Url};
use secrecy::SecretString;

use super::breaker::Breakers;
use super::client::COMPLETIONS;
use super::config::{LargeModelConfig, LargeModelConfigError};
use super::count::TokenCounter;
use super::direct::Direct;
use super::fields::RefusedFields;
use super::models::ModelLists;
use super::slots::Slots;
use crate::large_model::AttemptObserver;
use crate::large_model::pace::Pace;
use crate::outbound::client::{KeyLookup, bearer, build_client, is_this_machine};

/// Dependencies of endpoints beside their configuration.
#[derive(Clone)]
pub struct EndpointSetup<'a> {
    /// Looks up the keys that configurations name.
    pub keys: KeyLookup<'a>,
    /// Receives the outcome of every attempt.
    pub observer: Arc<dyn AttemptObserver>,
    /// Seeds the jitter of waits between attempts.
    pub seed: u64,
}

/// One endpoint.
pub(super) struct Transport {
    pub(super) name: String,
    pub(super) config: LargeModelConfig,
    /// The base of every path, without a slash at its end.
    pub(super) base: Url,
    /// The same as a URL.
    root: Uri,
    /// The URL of chat completions.
    pub(super) completions: Uri,
    pub(super) client: Client,
    /// Sends the client's own requests, if neither TLS nor a proxy is needed.
    pub(super) direct: Option<Direct>,
    /// The value of the `Authorization` header.
    pub(super) authorization: Option<SecretString>,
    pub(super) slots: Slots,
    /// The rate limits of calls.
    pace: Arc<Pace>,
    breakers: Mutex<Breakers>,
    /// Fields that the endpoint refused before.
    pub(super) refused: RefusedFields,
    /// The cached list of its models.
    pub(super) listed: ModelLists,
    /// Counts the tokens of what the endpoint does not bill itself.
    pub(super) counter: Arc<TokenCounter>,
    pub(super) rng: Mutex<ChaCha8Rng>,
    pub(super) observer: Arc<dyn AttemptObserver>,
}

/// The variable with the key if the configuration names none.
const DEFAULT_KEY: &str = "OPENAI_API_KEY";

impl Transport {
    pub(super) fn new(
        name: &str,
        config: &LargeModelConfig,
        setup: &EndpointSetup<'_>,
    ) -> Result<Self, LargeModelConfigError> {
        let table = format!("large_models.{name}");
        let mut base = config.validate(&table)?;
        let path = base.path().trim_end_matches('/').to_owned();
        base.set_path(&path);
        let unusable = |unusable| LargeModelConfigError::of(&table, unusable);
        let variable = config.api_key_env.as_deref();
        let authorization = bearer(variable, Some(DEFAULT_KEY), setup.keys).map_err(unusable)?;
        if authorization.is_some() && base.scheme() == "http" && !is_this_machine(&base) {
            tracing::warn!(model = name, url = %base, "the key is sent without encryption");
        }
        let uris = base.as_str().parse().ok().and_then(|root: Uri| {
            let completions = below(&root, COMPLETIONS)?;
            Some((root, completions))
        });
        let (root, completions) = uris.ok_or_else(|| LargeModelConfigError::Invalid {
            table: table.clone(),
            key: "url".to_owned(),
            value: base.to_string(),
            reason: "requests cannot be sent to it".to_owned(),
            hint: "give the URL that the endpoint's documentation names",
        })?;
        let (connect, most_idle) = (config.timeouts.connect(), config.max_in_flight);
        let counter = config.tokenizer.as_deref().map(TokenCounter::load).transpose();
        let counter = counter.map_err(|error| LargeModelConfigError::Invalid {
            table: table.clone(),
            key: "tokenizer".to_owned(),
            value: config.tokenizer.iter().map(|path| path.display().to_string()).collect(),
            reason: error.to_string(),
            hint: "name a model's folder, a `tokenizer.json` or a `.gguf` file, or leave it out",
        })?;
        let client = build_client(&base, connect, most_idle, config.ca.as_deref());
        Ok(Self {
            name: name.to_owned(),
            config: config.clone(),
            client: client.map_err(unusable)?,
            direct: Direct::new(&root, is_this_machine(&base), connect, most_idle),
            pace: Pace::new(name, base.as_str(), authorization.as_ref(), config.pace()),
            base,
            root,
            completions,
            authorization,
            slots: Slots::new(config.max_in_flight),
            breakers: Mutex::new(Breakers::new(config.breaker)),
            refused: RefusedFields::default(),
            listed: ModelLists::default(),
            counter: Arc::new(counter.unwrap_or_default()),
            rng: Mutex::new(ChaCha8Rng::seed_from_u64(setup.seed)),
            observer: Arc::clone(&setup.observer),
        })
    }

    /// The URL of a path of this API, with a query or without; `None` if it leads elsewhere.
    pub(super) fn at(&self, path: &str) -> Option<Uri> {
        below(&self.root, path)
    }

    /// The pace at which calls are made, where it is limited.
    pub(super) fn pace(&self) -> Option<&Arc<Pace>> {
        Some(&self.pace).filter(|pace| pace.is_limited())
    }

    pub(super) fn breakers(&self) -> MutexGuard<'_, Breakers> {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn below(root: &Uri, path: &str) -> Option<Uri> {
    let plain = path.split('?').next().unwrap_or_default();
    if !path.starts_with('/') || may_lead_elsewhere(plain) {
        return None;
    }
    let whole = format!("{}{path}", root.path().trim_end_matches('/'));
    let mut parts = root.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(whole).ok()?);
    Uri::from_parts(parts).ok()
}

/// Whether some server resolves a path to a parent of it: such servers, and proxies before them,
/// decode it, once or again and again, treat `\` as `/`, and leave out what follows a `;`.
fn may_lead_elsewhere(path: &str) -> bool {
    let path = path.to_ascii_lowercase().replace("%2e", ".").replace("%3b", ";");
    let is_hidden = ["%2f", "%5c", "%25"].iter().any(|encoded| path.contains(encoded));
    let is_dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    is_hidden || path.split(['/', '\\']).any(is_dots)
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
            ("http://host/v1", "/x/..%2fadmin", None),
            ("http://host/v1", "/x/..%5Cadmin", None),
            ("http://host/v1", "/x/..%252Fadmin", None),
            ("http://host/v1", "/x/%252e%252e/admin", None),
            ("http://host/v1", "/x/..;/admin", None),
            ("http://host/v1", "/x/.%2e;a=b/admin", None),
            ("http://host/v1", "/x/..%3Ba/admin", None),
            ("http://host/v1", "/ft%3Am;a/x?y=%2f..", Some("http://host/v1/ft%3Am;a/x?y=%2f..")),
            ("http://host/v1", "/a b", None),
        ];
        for (root, path, url) in table {
            let found = below(&root.parse().unwrap(), path);
            assert_eq!(found.map(|found| found.to_string()).as_deref(), url, "{root} {path}");
        }
    }
}
