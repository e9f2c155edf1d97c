//! A large model that says what an answer is worth, in place of a comparison with the golds: within
//! a budget, and compared with them all the same.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::LargeModelChoice;
use super::failure::{Cause, RolloutFailure};
use crate::episode::RoleUsage;
use crate::judge::{Judge, Judgement};
use crate::large_model::LargeModel;
use crate::reward::{RewardFn, own_answer};
use crate::task::Task;
use crate::train::error::TrainError;
use crate::trajectory::{TokenUsage, Trajectory};

/// How long one judgement may take. It waits for nobody; the time-outs of each call apply.
const PATIENCE: Duration = Duration::from_secs(86_400);
/// From which score on a judge, or a comparison, takes an answer for right.
const RIGHT: f64 = 0.5;

/// A large model that judges answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JudgeChoice {
    /// The large model. Default: the run's own, with its limits, its cache and its prices.
    pub large_model: Option<LargeModelChoice>,
    /// A template with `question`, `golds`, `answer` and `source` that asks for a last line
    /// `Score: N`, N from 0 to 1. Default: the built-in one.
    pub prompt: Option<PathBuf>,
    /// Calls of the judge in the whole run, at most; remembered replies are none. Default: no
    /// limit.
    pub max_calls: Option<u64>,
    /// What they may cost, in the currency of the prices. Default: no limit.
    pub max_cost: Option<f64>,
}

/// What the judge said of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// The answer's worth, 0 to 1.
    pub score: f64,
    /// Whether a comparison with the golds takes it for right or wrong as well.
    pub agrees: bool,
    /// What the call used.
    pub usage: RoleUsage,
}

/// The judge of a run.
pub struct AnswerJudge {
    judge: Judge,
    max_calls: u64,
    max_cost: f64,
    used: Mutex<RoleUsage>,
}

impl AnswerJudge {
    /// Asks `model` as `choice` says; `used` was used up before.
    ///
    /// # Errors
    /// Where its prompt cannot be used.
    pub fn new(
        choice: &JudgeChoice,
        model: Arc<dyn LargeModel>,
        used: RoleUsage,
    ) -> Result<Self, TrainError> {
        let judge = Judge::new(model, choice.prompt.as_deref(), PATIENCE)
            .map_err(|error| TrainError::Config(error.to_string()))?;
        let params = choice.large_model.as_ref().map(|model| model.params.clone());
        let judge = judge.with_params(params.unwrap_or_default());
        Ok(Self {
            judge,
            max_calls: choice.max_calls.unwrap_or(u64::MAX),
            max_cost: choice.max_cost.unwrap_or(f64::INFINITY),
            used: Mutex::new(used),
        })
    }

    /// Asks about the first gold of `task`, to find out before an episode is paid for whether the
    /// judge answers at all.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn try_out(&self, task: &Task) -> Result<(), RolloutFailure> {
        let Some(gold) = task.golds.first() else { return Ok(()) };
        let (score, _) = self.ask(task, gold).await?;
        if score < RIGHT {
            let judge = self.judge.model();
            tracing::warn!(judge, score, gold, "the judge takes a gold answer for wrong");
        }
        Ok(())
    }

    /// What was used so far: part of a checkpoint, so that the budget is that of the whole run.
    pub fn used(&self) -> RoleUsage {
        *self.lock()
    }

    /// What the answer of `trajectory` is worth; `None` where its form keeps it from counting, or
    /// there is none: nobody is asked then.
    ///
    /// # Errors
    /// Where the judge fails, says nothing of use, or has used up its budget. None of this says
    /// anything about the answer.
    pub async fn score(
        &self,
        reward: &RewardFn,
        trajectory: &Trajectory,
        task: &Task,
    ) -> Result<Option<Judged>, RolloutFailure> {
        let Some(answer) = own_answer(trajectory) else { return Ok(None) };
        let worth = |answer| reward.with_answer(trajectory, answer).total;
        if worth(1.0) == worth(0.0) {
            return Ok(None);
        }
        let (score, usage) = self.ask(task, answer).await?;
        let compared = reward.score(trajectory, task).answer;
        let agrees = (score >= RIGHT) == (compared >= RIGHT);
        Ok(Some(Judged { score, agrees, usage }))
    }

    async fn ask(&self, task: &Task, answer: &str) -> Result<(f64, RoleUsage), RolloutFailure> {
        self.begin()?;
        let judged = self.judge.score(task, answer).await;
        let used = judged.as_ref().map_or(RoleUsage::default(), |judged| judged.usage);
        let usage = self.end(used);
        let failed = |reason| RolloutFailure::of(Cause::Judge, reason);
        let Judgement { value, .. } = judged.map_err(|error| failed(error.to_string()))?;
        Ok((value.map_err(failed)?, usage))
    }

    /// Takes a call out of the budget.
    fn begin(&self) -> Result<(), RolloutFailure> {
        let mut used = self.lock();
        let spent = match () {
            () if used.calls >= self.max_calls => format!("`judge.max_calls` = {}", self.max_calls),
            () if used.cost >= self.max_cost => format!("`judge.max_cost` = {}", self.max_cost),
            () => {
                used.calls += 1;
                return Ok(());
            }
        };
        let reason = format!("the judge has used up its budget, {spent}");
        Err(RolloutFailure { is_final: true, ..RolloutFailure::of(Cause::Judge, reason) })
    }

    /// Puts what a call used in place of what it was expected to. A reply that was remembered used
    /// nothing, and was no call.
    fn end(&self, usage: RoleUsage) -> RoleUsage {
        let calls = u64::from(usage.tokens != TokenUsage::default());
        let mut used = self.lock();
        used.calls = used.calls.saturating_sub(1);
        let usage = RoleUsage { calls, ..usage };
        *used += usage;
        usage
    }

    fn lock(&self) -> MutexGuard<'_, RoleUsage> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
