//! What a run keeps in its checkpoints beside policy and optimizer.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::evaluate::ClassResult;
use super::guard::GuardState;
use crate::episode::RoleUsage;
use crate::train::checkpoint;
use crate::train::error::TrainError;
use crate::train::optimize::BadUpdates;
use crate::train::run_folder::RunFolder;

/// The state of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct RunState {
    pub(super) watch: GuardState,
    pub(super) bad_updates: BadUpdates,
    pub(super) best: Option<Best>,
    /// How often the run has gone back to its best policy.
    #[serde(default)]
    pub(super) returns: u32,
    /// What the judge has used.
    #[serde(default)]
    pub(super) judge: RoleUsage,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Best {
    pub(super) step: u64,
    pub(super) result: ClassResult,
}

impl RunState {
    pub(super) fn load(folder: &RunFolder) -> Result<Self, TrainError> {
        let Some((_, path)) = folder.latest() else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path.join(checkpoint::STATE))?;
        Ok(serde_json::from_str(&text).map_err(std::io::Error::other)?)
    }

    pub(super) fn save(&self, folder: &Path) -> Result<(), TrainError> {
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::other)?;
        Ok(std::fs::write(folder.join(checkpoint::STATE), text)?)
    }
}

/// Copies policy and optimizer from one checkpoint to another: neither the state of the run, nor
/// the policies before.
pub(super) fn copy_policy(from: &Path, to: &Path) -> Result<(), TrainError> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != checkpoint::STATE && !checkpoint::is_earlier(&name.to_string_lossy()) {
            std::fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}
