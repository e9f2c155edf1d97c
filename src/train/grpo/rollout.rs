//! Episodes by the dozen: run at once, scored, and retried where a model failed.

use std::sync::Arc;

use futures::future::join_all;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::failure::{Cause, RolloutFailure};
use super::judge::{AnswerJudge, Judged};
use crate::engine::Sampling;
use crate::episode::{
    Episode, EpisodeErrorKind, EpisodeRequest, FinishReason, Limits, Participants, Silent,
    run_episode,
};
use crate::large_model::{LargeModel, LargeModelError};
use crate::policy::Policy;
use crate::protocol::Protocol;
use crate::reward::{Reward, Rewarder};
use crate::task::Task;

/// Attempts at an episode, and at its reward. The second draws the same tokens, so what it learns is
/// not what the large model's mood made it.
const ATTEMPTS: usize = 2;

/// Who takes part in a run's episodes, and within which limits.
#[derive(Clone)]
pub struct Rollouts {
    /// Thinks and prompts.
    pub policy: Arc<dyn Policy>,
    /// Replies.
    pub large_model: Arc<dyn LargeModel>,
    /// Frames what each of them reads.
    pub protocol: Arc<Protocol>,
    /// What an episode is worth.
    pub rewarder: Arc<Rewarder>,
    /// What says what its answer is worth, where no comparison does.
    pub judge: Option<Arc<AnswerJudge>>,
    /// What an episode may use up; its fallback is off.
    pub limits: Limits,
    /// Fields of every call of the large model.
    pub params: Map<String, Value>,
    /// A place for each episode in flight; who asks first gets one first.
    pub places: Arc<Semaphore>,
}

/// An episode to run.
#[derive(Debug, Clone, Copy)]
pub struct RolloutTask<'t> {
    /// What is asked.
    pub task: &'t Task,
    /// How the policy samples.
    pub sampling: Sampling,
}

/// A finished episode and its reward.
#[derive(Debug, Clone)]
pub struct Scored {
    /// What happened.
    pub episode: Episode,
    /// What it was worth.
    pub reward: Reward,
    /// What the judge said of its answer, where one was asked.
    pub judged: Option<Judged>,
}

impl Rollouts {
    /// Runs all of `attempts`; the outcomes are in their order. An error is no outcome of the
    /// policy's: a model or the reward failed, or was too slow.
    pub async fn run(&self, attempts: &[RolloutTask<'_>]) -> Vec<Result<Scored, RolloutFailure>> {
        join_all(attempts.iter().map(|attempt| self.attempt(attempt))).await
    }

    async fn attempt(&self, attempt: &RolloutTask<'_>) -> Result<Scored, RolloutFailure> {
        let place = self.places.acquire().await;
        let _place = place.map_err(|error| RolloutFailure::of(Cause::Model, error.to_string()))?;
        let mut episode = self.episode(attempt).await;
        for _ in 1..ATTEMPTS {
            if episode.is_err() {
                episode = self.episode(attempt).await;
            }
        }
        let episode = episode?;
        let mut scored = self.score(&episode, attempt.task).await;
        for _ in 1..ATTEMPTS {
            if scored.as_ref().is_err_and(|failure| !failure.is_final) {
                scored = self.score(&episode, attempt.task).await;
            }
        }
        let (reward, judged) = scored?;
        Ok(Scored { episode, reward, judged })
    }

    async fn episode(&self, attempt: &RolloutTask<'_>) -> Result<Episode, RolloutFailure> {
        let request = EpisodeRequest {
            large_model_params: self.params.clone().into(),
            limits: self.limits.clone(),
            ..EpisodeRequest::new(&attempt.task.question, attempt.sampling)
        };
        let participants = Participants {
            policy: &*self.policy,
            large_model: &*self.large_model,
            protocol: &self.protocol,
        };
        let mut episode =
            run_episode(participants, &request, &mut Silent).await.map_err(|error| {
                RolloutFailure {
                    is_consequence: matches!(
                        error.kind,
                        EpisodeErrorKind::LargeModel(LargeModelError::CircuitOpen { .. })
                    ),
                    ..RolloutFailure::of(Cause::Model, error.to_string())
                }
            })?;
        // What follows has no part in the update, and may be what has outgrown the policy's context.
        episode.trajectory.trace.end_with_action();
        if episode.finish_reason == FinishReason::Deadline {
            // Slowness is not the policy's doing.
            let limit = self.limits.deadline_ms;
            let reason = format!("an episode took longer than {limit} ms");
            return Err(RolloutFailure::of(Cause::Model, reason));
        }
        Ok(episode)
    }

    async fn score(
        &self,
        episode: &Episode,
        task: &Task,
    ) -> Result<(Reward, Option<Judged>), RolloutFailure> {
        let trajectory = &episode.trajectory;
        let judged = match &self.judge {
            Some(judge) => judge.score(self.rewarder.builtin(), trajectory, task).await?,
            None => None,
        };
        let reward = match &judged {
            Some(judged) => self.rewarder.score_judged(trajectory, task, judged.score).await,
            None => self.rewarder.score(trajectory, task).await,
        };
        let reward =
            reward.map_err(|error| RolloutFailure::of(Cause::Reward, error.to_string()))?;
        Ok((reward, judged))
    }
}
