//! Reads a TOML file into a type, with errors that name the key and the line.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::hint::{Hint, Reason};
use crate::spelling;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration `{path}`: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file cannot be parsed.
    #[error("`{path}` is not valid: {reason}")]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong, and where.
        reason: Reason,
    },
    /// A setting cannot be used.
    #[error("{0}")]
    Setting(Reason),
}

impl Hint for ConfigError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Invalid { reason, .. } | Self::Setting(reason) => reason.hint(),
            Self::Read { source, .. } => match source.kind() {
                ErrorKind::InvalidData | ErrorKind::IsADirectory => {
                    Some("a configuration is a text file, in TOML; `--policy` names a model".into())
                }
                _ => None,
            },
        }
    }
}

/// The text of a configuration file. It is read once: a pipe has nothing more to read.
#[derive(Debug)]
pub struct ConfigFile {
    path: String,
    text: String,
}

impl ConfigFile {
    /// Reads `path`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let shown = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Self { path: shown, text }),
            Err(source) => Err(ConfigError::Read { path: shown, source }),
        }
    }

    /// The settings in it. Unknown keys are errors.
    ///
    /// # Errors
    /// When it is no TOML, or has an unknown key.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        parse_toml(&self.text)
            .map_err(|reason| ConfigError::Invalid { path: self.path.clone(), reason })
    }
}

/// The settings in the file at `path`.
///
/// # Errors
/// When the file cannot be read, is no TOML, or has an unknown key.
pub fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    ConfigFile::read(path)?.parse()
}

/// Checks that a file's `schema_version` is the one that this program reads.
pub(super) fn check_version(found: u32) -> Result<(), ConfigError> {
    match found {
        1 => Ok(()),
        _ => {
            let text = format!("`schema_version` is {found}, this program reads 1");
            Err(ConfigError::Setting(text.into()))
        }
    }
}

/// Parses TOML.
pub(super) fn parse_toml<T: DeserializeOwned>(text: &str) -> Result<T, Reason> {
    toml::from_str(text).map_err(|error| {
        let message = error.to_string();
        match nearest(error.message()) {
            Some(key) => reason!("{}", message.trim_end(); hint: "did you mean `{key}`?"),
            None => message.trim_end().to_owned().into(),
        }
    })
}

/// The known key or value nearest to an unknown one, from serde's own message.
fn nearest(message: &str) -> Option<&str> {
    ["field", "variant"].iter().find_map(|what| {
        let (unknown, known) = spelling::unknown(what, message)?;
        spelling::nearest(unknown, known)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Example {
        max_turns: Option<u32>,
        deadline_ms: Option<u32>,
    }

    #[test]
    fn a_wrong_key_is_named_with_its_line_and_the_nearest_one() {
        let error = parse_toml::<Example>("max_turns = 1\ndeadine_ms = 3\n").unwrap_err();
        assert!(error.text.contains("line 2"), "{error}");
        assert!(error.text.contains("`deadine_ms`"), "{error}");
        assert_eq!(error.hint.as_deref(), Some("did you mean `deadline_ms`?"));
    }

    #[test]
    fn a_key_like_no_other_gets_no_hint() {
        let error = parse_toml::<Example>("zebra = 1").unwrap_err();
        assert_eq!(error.hint, None);
    }
}
