//! What an operator says about keys.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::StoreError;

/// How the URL of a Redis begins that is asked over TLS.
pub(super) const REDISS: &str = "rediss://";

/// Looks up an environment variable that may hold a URL with a password.
pub type UrlLookup<'a> = &'a (dyn Fn(&str) -> Option<SecretString> + Sync);

/// Keys and limits: the table `[access]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccessConfig {
    /// The file of the embedded store. Default: `prompt-r1.db`, made by `server keys create`.
    pub store: PathBuf,
    /// The name of the environment variable that holds the URL of a PostgreSQL database to keep
    /// keys in instead, such as `DATABASE_URL`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_url_env: Option<String>,
    /// The name of the environment variable that holds the URL of a Redis by which replicas share
    /// what keys have used. Default: none; each process counts for itself, and only what was spent
    /// is in the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_url_env: Option<String>,
    /// What a Redis whose URL begins with `rediss://` is asked over. Default: TLS by the
    /// certificates that the system trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_tls: Option<RedisTlsConfig>,
    /// Whether to listen beyond this machine though there are no keys. Default: false.
    pub allow_no_keys: bool,
}

/// TLS to Redis: the table `[access.redis_tls]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisTlsConfig {
    /// Certificates of authorities, PEM; one of them must have signed what Redis shows. Default:
    /// those that the system trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The certificate that this server shows to Redis, and those between it and the root, PEM.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// That certificate's private key, PEM.
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
