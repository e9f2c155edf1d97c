//! The settings of the protocol that are not text.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::ProtocolError;
use crate::atomic_file;
use crate::sampling::SamplingConfig;

/// The file of [`Settings`] in a folder of templates.
pub const SETTINGS_FILE: &str = "protocol.json";

/// Settings of the protocol that are not text: `protocol.json` in a folder of templates. A model's
/// folder says by them how its policy is run: as it was trained and measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Whether the large model sees the earlier prompts and replies of an episode with each prompt.
    /// Without them every prompt is independent: it is shorter, its reply can be cached across
    /// episodes, and an earlier mistake does not influence later replies.
    pub history: bool,
    /// How the policy samples where neither a request nor the configuration says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<SamplingConfig>,
    /// Characters of a reply that the policy is shown at most, whatever the limits of an episode
    /// allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observation_chars: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { history: true, sampling: None, observation_chars: None }
    }
}

impl Settings {
    /// Those in `folder`; the defaults where it has none.
    ///
    /// # Errors
    /// When the file cannot be read, has an unknown key, or a value that is out of range.
    pub fn load(folder: Option<&Path>) -> Result<Self, ProtocolError> {
        let path = folder.map(|folder| folder.join(SETTINGS_FILE)).filter(|path| path.is_file());
        let Some(path) = path else { return Ok(Self::default()) };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(ProtocolError::Read { path, source }),
        };
        let settings = serde_json::from_str(&text).map_err(|error| error.to_string());
        settings
            .and_then(|settings: Self| settings.check().map(|()| settings))
            .map_err(|reason| ProtocolError::Settings { path, reason })
    }

    fn check(&self) -> Result<(), String> {
        if self.observation_chars == Some(0) {
            return Err("`observation_chars` must be at least 1".to_owned());
        }
        self.sampling.map_or(Ok(()), |sampling| sampling.check("sampling"))
    }

    /// Writes them into `folder`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        let text = serde_json::to_string(self)? + "\n";
        atomic_file::write(&folder.join(SETTINGS_FILE), text)
    }

    /// How the policy samples where the configuration says `configured`.
    pub fn sampling(&self, configured: Option<SamplingConfig>) -> SamplingConfig {
        configured.or(self.sampling).unwrap_or_default()
    }

    /// Characters of a reply that the policy is shown in an episode that allows `limit`.
    pub fn observation_chars(&self, limit: usize) -> usize {
        self.observation_chars.map_or(limit, |own| own.min(limit))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::hint::Hint;
    use crate::protocol::Protocol;

    const GREEDY: SamplingConfig = SamplingConfig { temperature: 0.0, top_p: 1.0, top_k: None };

    #[test]
    fn they_are_read_and_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(SETTINGS_FILE);
        let recorded = tempfile::tempdir().unwrap();
        let (default, alone) =
            (Settings::default(), Settings { history: false, ..Settings::default() });
        let all = Settings { sampling: Some(GREEDY), observation_chars: Some(120), ..alone };
        let text = r#"{"history": false, "sampling": {"temperature": 0, "top_p": 1},
                       "observation_chars": 120}"#;
        for (text, expected) in [
            (None, default),
            (Some("{}"), default),
            (Some(r#"{"history":false}"#), alone),
            (Some(text), all),
        ] {
            if let Some(text) = text {
                std::fs::write(&file, text).unwrap();
            }
            Protocol::record(Some(folder.path()), recorded.path()).unwrap();
            for folder in [folder.path(), recorded.path()] {
                assert_eq!(Protocol::load(Some(folder)).unwrap().settings(), expected);
            }
            expected.write(recorded.path()).unwrap();
            assert_eq!(Settings::load(Some(recorded.path())).unwrap(), expected);
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for (text, reason) in [
            (r#"{"historie":false}"#, "`historie`"),
            (r#"{"sampling":{"temp":0}}"#, "`temp`"),
            (r#"{"sampling":{"temperature":-1}}"#, "`temperature` from 0 to 5"),
            (r#"{"sampling":{"top_p":0}}"#, "`top_p` above 0"),
            (r#"{"observation_chars":0}"#, "`observation_chars`"),
        ] {
            std::fs::write(folder.path().join(SETTINGS_FILE), text).unwrap();
            let error = Protocol::load(Some(folder.path())).unwrap_err().explained();
            assert!(error.contains(reason) && error.contains("hint:"), "{error}");
        }
    }

    #[test]
    fn the_configuration_comes_before_the_folder() {
        let folder = Settings {
            sampling: Some(GREEDY),
            observation_chars: Some(120),
            ..Settings::default()
        };
        let other = SamplingConfig { temperature: 1.0, ..GREEDY };
        assert_eq!(folder.sampling(Some(other)), other);
        assert_eq!(folder.sampling(None), GREEDY);
        assert_eq!(Settings::default().sampling(None), SamplingConfig::default());
        for (limit, shown) in [(100, 100), (2048, 120)] {
            assert_eq!(folder.observation_chars(limit), shown);
            assert_eq!(Settings::default().observation_chars(limit), limit);
        }
    }

    #[test]
    fn the_arithmetic_policy_is_run_as_it_was_measured() {
        for folder in ["models/arithmetic/templates", "models/recipes/real/templates"] {
            let settings = Settings::load(Some(Path::new(folder))).unwrap();
            let measured =
                Settings { history: false, sampling: Some(GREEDY), observation_chars: Some(120) };
            assert_eq!(settings, measured, "{folder}");
        }
    }
}
