//! Presets: settings that complete a configuration file.

use serde::{Deserialize, Serialize};

use super::config::GrpoConfig;
use crate::train::error::TrainError;

/// A preset of settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// The settings that work best here.
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

    /// The configuration of `written` completed by these settings.
    ///
    /// # Errors
    /// When a key is unknown or a value is of another type.
    pub fn complete(self, mut written: toml::Table) -> Result<GrpoConfig, TrainError> {
        let invalid =
            |error: toml::de::Error| TrainError::Config(error.message().to_owned().into());
        rename(&mut written);
        let mut table: toml::Table = toml::from_str(self.text()).map_err(invalid)?;
        overlay(&mut table, written);
        let config: GrpoConfig = table.try_into().map_err(invalid)?;
        config.check()?;
        Ok(config)
    }
}

/// Renames settings with former names, with a warning.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::reward::Scheme;
    use crate::train::grpo::objective::{Aggregation, Objective};

    const LEAST: &str = r#"
        schema_version = 1
        output = "runs/x"
        model = { path = "models/policy" }
        tasks = { kind = "world", questions = [{ chain = 2 }, "comparison"] }
        large_model = { path = "models/large-model" }
    "#;

    fn complete(more: &str) -> Result<GrpoConfig, String> {
        let table: toml::Table = toml::from_str(&format!("{more}\n{LEAST}")).unwrap();
        let preset =
            table.get("preset").map_or(Preset::Default, |name| name.clone().try_into().unwrap());
        preset.complete(table).map_err(|error| error.to_string())
    }

    #[test]
    fn presets_hold_where_the_file_is_silent() {
        let config = complete("").unwrap();
        assert_eq!(config.objective, Objective::default());
        assert_eq!(config.reward.scheme, Scheme::Strict);
        assert!(!config.limits.allow_final);

        let config = complete("preset = \"paper\"\ngroup_size = 4").unwrap();
        assert_eq!((config.group_size, config.groups_per_step), (4, 128));
        assert_eq!(config.objective.dual_clip, Some(3.0));
        assert_eq!(config.reward.scheme, Scheme::Paper);
        assert_eq!(config.schedule.peak, 1e-6);

        let config = complete("rollouts_ahead = 1\nguards = { max_log_prob_gap = 0.5 }").unwrap();
        assert_eq!(config.max_policy_lag, 1, "former names hold");
        assert_eq!(config.guards.max_rollout_logprob_diff, 0.5);

        let config = complete("objective = { aggregation = { dr_grpo = 64 } }").unwrap();
        assert_eq!(config.objective.aggregation, Aggregation::DrGrpo(64.0));
        assert_eq!(config.objective.clip_high, 0.28);
    }

    #[test]
    fn impossible_settings_are_named() {
        let servers = |more: &str| {
            format!(
                "{more}\ntokens = {{ servers = [\"http://h\"], dialect = \"completions\", model = \"m\" }}"
            )
        };
        complete(&servers("steps = 1")).unwrap();
        complete("clip_norm = inf\nguards = { max_kl = inf }").unwrap();
        let corrected = "steps = 2\nmax_policy_lag = 1\nobjective = { importance_cap = 2.0 }";
        complete(&servers(corrected)).unwrap();
        for (more, expected) in [
            ("group_size = 1", "`group_size` is 1"),
            ("steps = 0", "`steps` must be at least 1"),
            ("temperature = 0.0", "`temperature` is 0"),
            ("max_policy_lag = 9", "`max_policy_lag` is 9"),
            ("objective = { dual_clip = 0.5 }", "`objective.dual_clip` is 0.5"),
            ("objective = { kl_coef = -1.0 }", "`objective.kl_coef` is -1, but"),
            ("objective = { entropy_coef = nan }", "`objective.entropy_coef` is NaN"),
            ("objective = { aggregation = { dr_grpo = 0.0 } }", "`objective.aggregation.dr_grpo`"),
            ("guards = { max_kl = -1.0 }", "`guards.max_kl` is -1, but it must be at least 0"),
            ("guards = { max_entropy = nan }", "`guards.max_entropy` is NaN"),
            ("guards = { rollback_lr_factor = 2.0 }", "`guards.rollback_lr_factor` is 2"),
            ("schedule = { peak = -0.01 }", "must be at least 0 and finite"),
            ("schedule = { peak = nan }", "`schedule.peak` is NaN"),
            ("schedule = { final_ratio = 1.5 }", "`schedule.final_ratio` is 1.5"),
            ("weight_decay = inf", "`weight_decay` is inf"),
            ("clip_norm = nan", "`clip_norm` is NaN"),
            ("limits = { max_cost = -1.0 }", "`limits.max_cost` is -1"),
            ("limits = { max_cost = nan }", "`limits.max_cost` is NaN"),
            ("judge = { max_cost = -1.0 }", "`judge.max_cost` is -1"),
            ("objective = { clip_lo = 0.5 }", "unknown field `clip_lo`"),
            (&servers("steps = 2"), "`steps` is 2, but the servers of `tokens` keep the weights"),
            (&servers("steps = 2\nmax_policy_lag = 1"), "`objective.importance_cap` is not set"),
            (
                &servers("steps = 1\ntemperature = 0.7"),
                "cannot use `temperature` = 0.7 with `tokens`",
            ),
        ] {
            let error = complete(more).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
