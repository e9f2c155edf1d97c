//! The configuration of keys and limits.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::StoreError;

/// The scheme of a Redis URL that uses TLS.
pub(super) const REDISS: &str = "rediss://";

/// Looks up an environment variable that may hold a URL with a password.
pub type UrlLookup<'a> = &'a (dyn Fn(&str) -> Option<SecretString> + Sync);

/// Keys and limits: the table `[access]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessConfig {
    /// The file of the embedded store. Default: `prompt-r1.db`, made by `server keys create`.
    pub store: PathBuf,
    /// The name of the environment variable with the URL of a PostgreSQL database, such as
    /// `DATABASE_URL`, in which keys are stored instead of a file. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_url_env: Option<String>,
    /// The name of the environment variable with the URL of a Redis in which replicas share their
    /// counters. Default: none: each process counts requests and tokens for itself, and only
    /// spending is shared, through the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_url_env: Option<String>,
    /// TLS settings for a Redis whose URL begins with `rediss://`. Default: TLS with the system's
    /// root certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_tls: Option<RedisTlsConfig>,
    /// Whether to listen on other than loopback addresses without any key. Default: false.
    pub allow_no_keys: bool,
}

/// TLS to Redis: the table `[access.redis_tls]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisTlsConfig {
    /// Certificates of authorities, PEM, one of which must have signed Redis's certificate.
    /// Default: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// This server's client certificate with its intermediates, PEM. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// The private key of the client certificate, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            store: "prompt-r1.db".into(),
            store_url_env: None,
            redis_url_env: None,
            redis_tls: None,
            allow_no_keys: false,
        }
    }
}

impl AccessConfig {
    /// The URL of the store; `None` for the embedded one.
    ///
    /// # Errors
    /// When the variable is not set.
    pub fn store_url(&self, urls: UrlLookup<'_>) -> Result<Option<SecretString>, StoreError> {
        find(self.store_url_env.as_deref(), &["postgres://", "postgresql://"], urls)
    }

    pub(super) fn redis_url(
        &self,
        urls: UrlLookup<'_>,
    ) -> Result<Option<SecretString>, StoreError> {
        find(self.redis_url_env.as_deref(), &["redis://", REDISS, "redis+unix://", "unix://"], urls)
    }
}

fn find(
    variable: Option<&str>,
    schemes: &[&'static str],
    urls: UrlLookup<'_>,
) -> Result<Option<SecretString>, StoreError> {
    let Some(variable) = variable else { return Ok(None) };
    let url = urls(variable).ok_or_else(|| StoreError::Unset(variable.to_owned()))?;
    if schemes.iter().any(|scheme| url.expose_secret().starts_with(scheme)) {
        Ok(Some(url))
    } else {
        Err(StoreError::Scheme { variable: variable.to_owned(), scheme: schemes[0] })
    }
}
