//! Secrets in environment variables.

use secrecy::SecretString;

/// The value of the environment variable `name`, if it is set.
pub(super) fn from_environment(name: &str) -> Option<SecretString> {
    std::env::var(name).ok().map(SecretString::from)
}
