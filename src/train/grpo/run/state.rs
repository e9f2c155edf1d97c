//! The state of a run: its checkpoints, rollbacks to the best policy, its finished model.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::due::Due;
use super::{Ended, Run};
use crate::large_model::CallUsage;
use crate::model::Model;
use crate::train::checkpoint;
use crate::train::error::TrainError;
use crate::train::grpo::config::{Guards, TrainerConfig};
use crate::train::grpo::evaluate::{ClassResult, Evaluation};
use crate::train::grpo::guard::GuardState;
use crate::train::grpo::learner::Learner;
use crate::train::grpo::local::LocalLearner;
use crate::train::grpo::report;
use crate::train::json_file;
use crate::train::optimize::BadUpdates;
use crate::train::progress::Progress;
use crate::train::run_folder::RunFolder;
use crate::train::summary::RunSummary;

/// The state of a run in a checkpoint, besides policy and optimizer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct RunState {
    pub(super) watch: GuardState,
    pub(super) bad_updates: BadUpdates,
    pub(super) best: Option<Best>,
    /// How often the run was rolled back to its best policy.
    #[serde(default)]
    pub(super) rollbacks: u32,
    /// The usage of the judge.
    #[serde(default)]
    pub(super) judge: CallUsage,
    /// The last step, if the run ended before its policy was evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) due: Option<Due>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Best {
    pub(super) step: u64,
    pub(super) result: ClassResult,
    /// That of its evaluation; none if an earlier version made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    basis: Option<u32>,
}

impl Best {
    pub(super) fn of(evaluation: &Evaluation) -> Self {
        Self { step: evaluation.step, result: evaluation.at_least(), basis: evaluation.basis }
    }

    /// Whether an evaluation on `tasks` tasks with this basis can be compared with it.
    fn is_comparable(&self, basis: u32, tasks: usize) -> bool {
        self.result.tasks == tasks && self.basis.is_none_or(|own| own == basis)
    }
}

impl RunState {
    pub(super) fn load(folder: &RunFolder) -> Result<Self, TrainError> {
        let Some((_, path)) = folder.latest() else { return Ok(Self::default()) };
        Ok(json_file::read(&path.join(checkpoint::STATE))?)
    }

    pub(super) fn save(&self, folder: &Path) -> Result<(), TrainError> {
        Ok(json_file::write(&folder.join(checkpoint::STATE), self)?)
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
        let policy = self.saved_policy(best)?;
        self.start.save(&policy, &self.folder.model())?;
        report::write(self.config, self.folder.root(), self.trainer.step)?;
        Ok(self.folder.model())
    }

    /// The policy after `step` steps, of which there is a checkpoint, or the initial one.
    fn saved_policy(&self, step: u64) -> Result<Model, TrainError> {
        match step {
            0 => Ok(self.start.model.clone()),
            step => self.trainer.saved(&self.folder.checkpoint_path(step)),
        }
    }

    /// Evaluates the best policy again if the run evaluates otherwise now than it did then: results
    /// on other questions cannot be compared.
    pub(super) fn review_best(
        &mut self,
        progress: &dyn Progress,
        summary: &mut RunSummary,
    ) -> Result<(), TrainError> {
        let (step, tasks) = (self.trainer.step, self.tasks.eval.len());
        let Some(best) = self.state.best else { return Ok(()) };
        if tasks == 0 || best.is_comparable(self.basis, tasks) {
            return Ok(());
        }
        summary.note(format!(
            "the best policy, after step {}, is evaluated again: the evaluation has changed since",
            best.step
        ));
        self.rollouts.set_newest(step, &self.saved_policy(best.step)?)?;
        let evaluation = self.measure(progress, best.step);
        self.rollouts.set_newest(step, self.trainer.policy())?;
        self.state.best = Some(Best::of(&evaluation?));
        Ok(())
    }

    /// Whether there is a best policy to roll back to, and a rollback left.
    pub(super) fn can_roll_back(&self) -> bool {
        // Token servers keep the weights that they have.
        let is_here = self.load.is_none() && matches!(self.config.trainer, TrainerConfig::Local {});
        is_here
            && self.state.best.is_some()
            && self.state.rollbacks < self.config.guards.max_rollbacks
    }

    /// Makes the best policy and its optimizer the checkpoint of the current step: the run
    /// continues with new tasks, not with the same ones again.
    pub(super) fn roll_back(
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
        Ok(Ended::RolledBack)
    }
}
