//! Runs many episodes at once, scores them, and retries those in which a model failed.

use std::sync::Arc;

use futures::future::join_all;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::failure::{Cause, RolloutFailure};
use super::judge::{AnswerJudge, Judged};
use crate::engine::Sampling;
use crate::episode::{
    DiscardEvents, Episode, EpisodeErrorKind, EpisodeRequest, FinishReason, Limits, Participants,
    run_episode,
};
use crate::hint::Hint;
use crate::large_model::{LargeModel, LargeModelError};
use crate::policy::Policy;
use crate::protocol::Protocol;
use crate::reward::{Reward, Rewarder};
use crate::task::Task;

/// Attempts at an episode, and at its reward. The second samples the same tokens, so that a failure
/// of the large model does not bias what is learnt.
const ATTEMPTS: usize = 2;

/// The participants of a run's episodes, and their limits.
#[derive(Clone)]
pub struct Rollouts {
    /// The policy.
    pub policy: Arc<dyn Policy>,
    /// The large model.
    pub large_model: Arc<dyn LargeModel>,
    /// The protocol.
    pub protocol: Arc<Protocol>,
    /// The reward.
    pub rewarder: Arc<Rewarder>,
    /// The judge, if there is one.
    pub judge: Option<Arc<AnswerJudge>>,
    /// Limits of an episode; its fallback is off.
    pub limits: Limits,
    /// Fields of every call of the large model.
    pub params: Map<String, Value>,
    /// A slot for each episode in flight, in the order of requests.
    pub slots: Arc<Semaphore>,
}

/// An episode to be run.
#[derive(Debug, Clone, Copy)]
pub struct RolloutTask<'t> {
    /// The task.
    pub task: &'t Task,
    /// How the policy samples.
    pub sampling: Sampling,
}

/// A finished episode and its reward.
#[derive(Debug, Clone)]
pub struct Scored {
    /// The episode.
    pub episode: Episode,
    /// The reward.
    pub reward: Reward,
    /// The judgement of its answer, if there is a judge.
    pub judged: Option<Judged>,
    /// What the large model cost, in all attempts.
    pub cost: f64,
}

impl Rollouts {
    /// Runs all of `attempts`; the results are in their order. An error is not an outcome of the
    /// policy's: a model or the reward failed, or was too slow.
    pub async fn run(&self, attempts: &[RolloutTask<'_>]) -> Vec<Result<Scored, RolloutFailure>> {
        join_all(attempts.iter().map(|attempt| self.attempt(attempt))).await
    }

    async fn attempt(&self, attempt: &RolloutTask<'_>) -> Result<Scored, RolloutFailure> {
        let slot = self.slots.acquire().await;
        let _slot = slot.map_err(|error| RolloutFailure::of(Cause::Model, error.to_string()))?;
        let mut cost = 0.0;
        match self.scored(attempt, &mut cost).await {
            Ok((episode, (reward, judged))) => Ok(Scored { episode, reward, judged, cost }),
            Err(failure) => Err(RolloutFailure { cost, ..failure }),
        }
    }

    /// An episode and its score; adds the cost of all attempts to `cost`.
    async fn scored(
        &self,
        attempt: &RolloutTask<'_>,
        cost: &mut f64,
    ) -> Result<(Episode, (Reward, Option<Judged>)), RolloutFailure> {
        let mut episode = self.episode(attempt, cost).await;
        for _ in 1..ATTEMPTS {
            if let Err(first) = episode {
                episode = self.episode(attempt, cost).await.map_err(|later| first.or_later(later));
            }
        }
        let episode = episode?;
        let mut scored = self.score(&episode, attempt.task).await;
        for _ in 1..ATTEMPTS {
            scored = match scored {
                Err(first) if !first.is_final => {
                    let again = self.score(&episode, attempt.task).await;
                    again.map_err(|later| first.or_later(later))
                }
                scored => scored,
            };
        }
        Ok((episode, scored?))
    }

    async fn episode(
        &self,
        attempt: &RolloutTask<'_>,
        cost: &mut f64,
    ) -> Result<Episode, RolloutFailure> {
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
            run_episode(participants, &request, &mut DiscardEvents).await.map_err(|error| {
                *cost += error.usage.large_model.cost;
                RolloutFailure {
                    is_consequence: matches!(
                        error.kind,
                        EpisodeErrorKind::LargeModel(LargeModelError::CircuitOpen { .. })
                    ),
                    ..RolloutFailure::of(Cause::Model, error.kind.explained())
                }
            })?;
        *cost += episode.usage.large_model.cost;
        // Later tokens are not part of the update, and may exceed the policy's context.
        episode.trajectory.trace.end_with_action();
        if episode.finish_reason == FinishReason::Deadline {
            // A time-out is not the policy's fault.
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
            reward.map_err(|error| RolloutFailure::of(Cause::Reward, error.explained()))?;
        Ok((reward, judged))
    }
}
