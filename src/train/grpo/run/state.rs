//! The state of a run: its checkpoints, its return to the best policy, its finished model.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::due::Due;
use super::{Ended, Run};
use crate::episode::RoleUsage;
use crate::train::checkpoint;
use crate::train::error::TrainError;
use crate::train::grpo::config::{Guards, TrainerConfig};
use crate::train::grpo::evaluate::ClassResult;
use crate::train::grpo::guard::GuardState;
use crate::train::grpo::learner::Learner;
use crate::train::grpo::local::LocalLearner;
use crate::train::grpo::report;
use crate::train::optimize::BadUpdates;
use crate::train::run_folder::RunFolder;
use crate::train::summary::RunSummary;

/// The state of a run in a checkpoint, besides policy and optimizer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct RunState {
    pub(super) watch: GuardState,
    pub(super) bad_updates: BadUpdates,
    pub(super) best: Option<Best>,
    /// How often the run has returned to its best policy.
    #[serde(default)]
    pub(super) rollbacks: u32,
    /// The usage of the judge.
    #[serde(default)]
    pub(super) judge: RoleUsage,
    /// The last step, if the run ended before its policy was evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) due: Option<Due>,
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

/// Copies policy and optimizer from one checkpoint to another, without the state of the run and
/// earlier policies.
fn copy_policy(from: &Path, to: &Path) -> Result<(), TrainError> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != checkpoint::STATE && !checkpoint::is_earlier(&name.to_string_lossy()) {
            std::fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

impl Run<'_> {
    /// The current state.
    fn present(&self) -> RunState {
        RunState {
            bad_updates: self.trainer.bad_updates,
            judge: self.judge.as_ref().map_or(self.state.judge, |judge| judge.used()),
            ..self.state.clone()
        }
    }

    pub(super) fn checkpoint(&mut self) -> Result<(), TrainError> {
        let (best, state) = (self.state.best.map(|best| best.step), self.present());
        self.folder.checkpoint(
            self.trainer.step,
            self.config.keep_checkpoints,
            best,
            |folder| {
                self.trainer.save(folder)?;
                state.save(folder)
            },
        )?;
        Ok(())
    }

    /// Saves the run's progress before it ends with `error`, if it can go on later; `due` is a step
    /// that is not evaluated yet.
    pub(super) fn paused(&mut self, error: TrainError, due: Option<Due>) -> TrainError {
        if !error.is_pause() {
            return error;
        }
        self.state.due = due;
        self.checkpoint().err().unwrap_or(error)
    }

    /// Copies the best policy into the folder of the finished model.
    pub(super) fn finish(&self) -> Result<PathBuf, TrainError> {
        let best = self.state.best.map_or(self.trainer.step, |best| best.step);
        let policy = match best {
            0 => self.start.model.clone(),
            best => self.trainer.saved(&self.folder.checkpoint_path(best))?,
        };
        self.start.save(&policy, &self.folder.model())?;
        report::write(self.config, self.folder.root(), self.trainer.step)?;
        Ok(self.folder.model())
    }

    /// Whether there is a best policy to return to, and a return left.
    pub(super) fn may_return(&self) -> bool {
        // Token servers keep the weights that they have.
        let is_here = self.load.is_none() && matches!(self.config.trainer, TrainerConfig::Local {});
        is_here
            && self.state.best.is_some()
            && self.state.rollbacks < self.config.guards.max_rollbacks
    }

    /// Makes the best policy and its optimizer the checkpoint of the current step: the run
    /// continues with new tasks, not with the same ones again.
    pub(super) fn go_back(
        &mut self,
        reason: &str,
        summary: &mut RunSummary,
    ) -> Result<Ended, TrainError> {
        let best = self.state.best.map_or(0, |best| best.step);
        let Guards { max_rollbacks, rollback_lr_factor, .. } = self.config.guards;
        self.state.rollbacks += 1;
        self.state.watch.reset();
        let step = self.trainer.step;
        summary.note(format!(
            "step {step}: {}; back to the policy after step {best} with {} of the learning rate, rollback {} of {max_rollbacks}",
            reason,
            rollback_lr_factor.powi(self.state.rollbacks as i32),
            self.state.rollbacks,
        ));
        let state = RunState { bad_updates: BadUpdates::default(), ..self.present() };
        let kept = self.config.keep_checkpoints;
        self.folder.checkpoint(step, kept, Some(best), |folder| {
            match best {
                0 => LocalLearner::new(self.config, &self.start.model, None)?.save(folder)?,
                best => copy_policy(&self.folder.checkpoint_path(best), folder)?,
            }
            state.save(folder)
        })?;
        Ok(Ended::Returned)
    }
}
