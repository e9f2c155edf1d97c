//! Sets of settings to start from.

use serde::{Deserialize, Serialize};

use super::config::GrpoConfig;
use crate::train::error::TrainError;

/// A set of settings to start from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// What works best here.
    #[default]
    Default,
    /// The published settings.
    Paper,
}

impl Preset {
    /// The settings as a configuration file has them.
    pub fn text(self) -> &'static str {
        match self {
            Self::Default => include_str!("presets/default.toml"),
            Self::Paper => include_str!("presets/paper.toml"),
        }
    }

    /// The configuration that `written` makes together with these settings.
    ///
    /// # Errors
    /// When a key is unknown or a value is of another type.
    pub fn complete(self, mut written: toml::Table) -> Result<GrpoConfig, TrainError> {
        let invalid = |error: toml::de::Error| TrainError::Config(error.message().to_owned());
        rename(&mut written);
        let mut table: toml::Table = toml::from_str(self.text()).map_err(invalid)?;
        overlay(&mut table, written);
        let config: GrpoConfig = table.try_into().map_err(invalid)?;
        config.check()?;
        Ok(config)
    }
}

/// Puts settings under their present names, with a warning for those that have a former one.
fn rename(written: &mut toml::Table) {
    let warn = |old, new| tracing::warn!("the setting `{old}` is now called `{new}`");
    if let Some(value) = written.remove("rollouts_ahead") {
        warn("rollouts_ahead", "max_policy_lag");
        written.entry("max_policy_lag").or_insert(value);
    }
    if let Some(guards) = written.get_mut("guards").and_then(toml::Value::as_table_mut)
        && let Some(value) = guards.remove("max_log_prob_gap")
    {
        warn("guards.max_log_prob_gap", "guards.max_rollout_logprob_diff");
        guards.entry("max_rollout_logprob_diff").or_insert(value);
    }
}

fn overlay(below: &mut toml::Table, above: toml::Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => overlay(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}
