//! Checks that every training configuration shares.

use super::error::TrainError;

/// Fails unless a file's `schema_version` is the one that this program reads.
pub(super) fn version(found: u32) -> Result<(), TrainError> {
    match found {
        1 => Ok(()),
        found => {
            Err(TrainError::Config(format!("`schema_version` is {found}, this program reads 1")))
        }
    }
}

/// Fails where one of these settings is 0.
pub(super) fn at_least_one(settings: &[(&str, u64)]) -> Result<(), TrainError> {
    match settings.iter().find(|(_, value)| *value == 0) {
        None => Ok(()),
        Some((name, _)) => Err(TrainError::Config(format!("`{name}` must be at least 1"))),
    }
}

/// Fails unless a setting is a share.
pub(super) fn share(name: &str, value: f64) -> Result<(), TrainError> {
    match (0.0..=1.0).contains(&value) {
        true => Ok(()),
        false => Err(TrainError::Config(format!(
            "`{name}` is {value}, but it must be a share from 0 to 1"
        ))),
    }
}

/// The default of `max_rejected`.
pub(super) fn max_rejected() -> f64 {
    0.01
}
