//! A judge in training: a large model that scores answers instead of a comparison with the golds,
//! within a budget. Both are compared for monitoring.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::config::JudgeChoice;
use super::failure::{Cause, RolloutFailure};
use crate::hint::Hint;
use crate::judge::{Judge, Judgement};
use crate::large_model::{CallUsage, LargeModel};
use crate::reward::{RewardFn, own_answer};
use crate::task::Task;
use crate::train::error::TrainError;
use crate::trajectory::Trajectory;

/// The time-out of one judgement. It is generous; the time-outs of each call apply.
const TIMEOUT: Duration = Duration::from_secs(86_400);
/// The lowest score that counts as correct, of a judge or a comparison.
const CORRECT_SCORE: f64 = 0.5;

/// A judgement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// The score of the answer, 0 to 1.
    pub score: f64,
    /// Whether a comparison with the golds agrees about right or wrong.
    pub agrees: bool,
    /// The usage of the call.
    pub usage: CallUsage,
}

/// The judge of a run.
pub struct AnswerJudge {
    judge: Judge,
    max_calls: u64,
    max_cost: f64,
    used: Mutex<CallUsage>,
}

impl AnswerJudge {
    /// Asks `model` as `choice` says; `used` is the usage of earlier attempts.
    ///
    /// # Errors
    /// Where its prompt cannot be used.
    pub fn new(
        choice: &JudgeChoice,
        model: Arc<dyn LargeModel>,
        used: CallUsage,
    ) -> Result<Self, TrainError> {
        let judge = Judge::new(model, choice.prompt.as_deref(), TIMEOUT)
            .map_err(|error| TrainError::Config(error.reason()))?;
        let params = choice.large_model.as_ref().map(|model| model.params.clone());
        let judge = judge.with_params(params.unwrap_or_default());
        Ok(Self {
            judge,
            max_calls: choice.max_calls.unwrap_or(u64::MAX),
            max_cost: choice.max_cost.unwrap_or(f64::INFINITY),
            used: Mutex::new(used),
        })
    }

    /// Judges the first gold of `task` as a test, so that a failing judge is found before episodes
    /// are paid for.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn try_out(&self, task: &Task) -> Result<(), RolloutFailure> {
        let Some(gold) = task.golds.first() else { return Ok(()) };
        let (score, _) = self.ask(task, gold).await?;
        if score < CORRECT_SCORE {
            let judge = self.judge.model();
            tracing::warn!(judge, score, gold, "the judge takes a gold answer for wrong");
        }
        Ok(())
    }

    /// Usage so far: part of a checkpoint, so that the budget covers the whole run.
    pub fn used(&self) -> CallUsage {
        *self.lock()
    }

    /// Scores the answer of `trajectory`; `None` if its form prevents it from counting, or there is
    /// none: then no call is made.
    ///
    /// # Errors
    /// When the judge fails, gives no score, or has used up its budget. None of this says anything
    /// about the answer.
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
        let agrees = (score >= CORRECT_SCORE) == (compared >= CORRECT_SCORE);
        Ok(Some(Judged { score, agrees, usage }))
    }

    async fn ask(&self, task: &Task, answer: &str) -> Result<(f64, CallUsage), RolloutFailure> {
        self.begin()?;
        let judged = self.judge.score(task, answer).await;
        let used = judged.as_ref().map_or(CallUsage::default(), |judged| CallUsage {
            calls: u64::from(judged.may_be_billed),
            ..judged.usage
        });
        self.end(used);
        let failed = |reason| RolloutFailure::of(Cause::Judge, reason);
        let Judgement { value, was_asked, .. } =
            judged.map_err(|error| failed(error.explained()))?;
        let value = value
            .map_err(|reason| RolloutFailure { is_consequence: !was_asked, ..failed(reason) })?;
        Ok((value, used))
    }

    /// Reserves the expected usage of a call in the budget.
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

    /// Replaces the reserved usage of a call by the actual one. A cached reply used nothing, and is
    /// no call; a failed call that may have been billed is one.
    fn end(&self, usage: CallUsage) {
        let mut used = self.lock();
        used.calls = used.calls.saturating_sub(1);
        *used += usage;
    }

    fn lock(&self) -> MutexGuard<'_, CallUsage> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
