//! Secrets in environment variables.

use secrecy::SecretString;

/// The value of the environment variable `name`, if it is set and not empty.
pub(super) fn from_environment(name: &str) -> Option<SecretString> {
    let value = std::env::var(name).ok()?;
    let value = value.trim();
    (!value.is_empty()).then(|| value.into())
}
