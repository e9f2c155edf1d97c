//! The address of a service, its credential, and the client that reaches it.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use http::HeaderValue;
use reqwest::{Certificate, Client, Url};
use secrecy::{ExposeSecret, SecretString};
use tower::util::MapResponseLayer;

use super::wire::{MAX_HEADERS, USER_AGENT, library_causes};
use crate::hint::Reason;

/// Looks up an environment variable that may hold a key.
pub type KeyLookup<'a> = &'a dyn Fn(&str) -> Option<SecretString>;

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSetting {
    /// The key below the service's table.
    pub key: &'static str,
    /// What it was set to; never a secret.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to do.
    pub hint: &'static str,
}

impl InvalidSetting {
    /// A URL that cannot be used, shown without what may be a password.
    pub fn url(url: &str, reason: impl Into<String>, hint: &'static str) -> Self {
        // Whatever stands before an `@` may be a password.
        let shown = url.rsplit('@').next().unwrap_or_default();
        let shown = shown.split(['?', '#']).next().unwrap_or_default();
        Self { key: "url", value: shown.to_owned(), reason: reason.into(), hint }
    }

    /// The error about this key of the table `table`.
    pub fn in_table(self, table: &str) -> Reason {
        let Self { key, value, reason, hint } = self;
        let text = format!("cannot use `{table}.{key}` = `{value}`: {reason}");
        Reason::from(text).with_hint(hint)
    }
}

/// The address of a service. `form` says how it is written.
///
/// # Errors
/// When it is no URL for HTTP, or holds more than an address.
pub fn parse_url(text: &str, form: &'static str) -> Result<Url, InvalidSetting> {
    let url = Url::parse(text.trim())
        .map_err(|error| InvalidSetting::url(text, error.to_string(), form))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(InvalidSetting::url(text, "it is not an http or https URL", form));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let hint = "put the key into an environment variable and name that in `api_key_env`";
        return Err(InvalidSetting::url(text, "it contains credentials", hint));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(InvalidSetting::url(text, "it has a query or a fragment", form));
    }
    Ok(url)
}

/// The value of the `Authorization` header: the key in the environment variable `named`, which must
/// be set, or where none is named in `default`, if that is set. An empty name is no key.
///
/// # Errors
/// When the variable is missing, or holds no key.
pub fn bearer(
    named: Option<&str>,
    default: Option<&str>,
    keys: KeyLookup<'_>,
) -> Result<Option<SecretString>, InvalidSetting> {
    let Some(variable) = named.or(default).filter(|variable| !variable.is_empty()) else {
        return Ok(None);
    };
    let invalid = |reason: &str, hint| InvalidSetting {
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
                return Err(invalid("its value is not a key", hint));
            }
            Ok(Some(value.into()))
        }
        None if named.is_some() => {
            Err(invalid("the variable is not set", "export it, or set `api_key_env = \"\"`"))
        }
        None => Ok(None),
    }
}

tokio::task_local! {
    /// Whether the request in progress goes over an idle connection.
    static IS_REUSED: Cell<bool>;
}

/// Sends a request with a client of [`build_client`]. Also says whether it went over an idle
/// connection, which the service may have closed before.
pub async fn execute(
    client: &Client,
    request: reqwest::Request,
) -> (reqwest::Result<reqwest::Response>, bool) {
    let sending = async { (client.execute(request).await, IS_REUSED.with(Cell::get)) };
    IS_REUSED.scope(Cell::new(true), sending).await
}

/// A client for the service at `base`, which follows no redirects. `ca` is a file of authorities
/// that are trusted beside the system's.
///
/// # Errors
/// When the certificates cannot be used.
pub fn build_client(
    base: &Url,
    connect: Duration,
    most_idle: usize,
    ca: Option<&Path>,
) -> Result<Client, InvalidSetting> {
    let mut builder = Client::builder()
        .user_agent(USER_AGENT)
        .http1_only()
        .tcp_nodelay(true)
        .http1_max_headers(MAX_HEADERS)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .connect_timeout(connect)
        .pool_max_idle_per_host(most_idle)
        .referer(false)
        .connector_layer(MapResponseLayer::new(|connection| {
            // Tasks of the client's own complete those that their request did not wait for.
            let _ = IS_REUSED.try_with(|is_reused| is_reused.set(false));
            connection
        }))
        // A redirect could send the key and the conversation to a host that was never configured.
        .redirect(reqwest::redirect::Policy::none());
    if is_this_machine(base) {
        builder = builder.no_proxy();
    }
    if base.scheme() == "http" {
        // Without TLS no root certificates are needed: reading them takes time, and fails where
        // there are none.
        builder = builder.tls_certs_only([]);
    }
    if let Some(path) = ca {
        let invalid = |reason: String| InvalidSetting {
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
    builder.build().map_err(|error| InvalidSetting {
        key: "url",
        value: base.to_string(),
        reason: library_causes(&error),
        hint: "TLS needs the system's root certificates: install `ca-certificates`",
    })
}

/// Whether a service runs on this machine.
pub fn is_this_machine(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        None => false,
    }
}
