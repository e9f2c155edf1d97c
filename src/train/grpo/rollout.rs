//! Episodes by the dozen: run at once, scored, and retried where a model failed.

use std::sync::Arc;

use futures::future::join_all;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

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

/// Attempts at an episode. The second draws the same tokens, so what it learns is not what the
/// large model's mood made it.
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
}

/// Why an episode has no reward; never the policy's doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutFailure {
    /// What went wrong.
    pub reason: String,
    /// Whether the reward failed, and not a model.
    pub is_reward: bool,
    /// Whether it only follows from earlier failures: the call was not made because of them.
    pub is_consequence: bool,
}

impl RolloutFailure {
    fn model(reason: String) -> Self {
        Self { reason, is_reward: false, is_consequence: false }
    }
}

impl Rollouts {
    /// Runs all of `attempts`; the outcomes are in their order. An error is no outcome of the
    /// policy's: a model or the reward failed, or was too slow.
    pub async fn run(&self, attempts: &[RolloutTask<'_>]) -> Vec<Result<Scored, RolloutFailure>> {
        join_all(attempts.iter().map(|attempt| self.attempt(attempt))).await
    }

    async fn attempt(&self, attempt: &RolloutTask<'_>) -> Result<Scored, RolloutFailure> {
        let _place = self
            .places
            .acquire()
            .await
            .map_err(|error| RolloutFailure::model(error.to_string()))?;
        let mut outcome = self.once(attempt).await;
        for _ in 1..ATTEMPTS {
            if outcome.is_err() {
                outcome = self.once(attempt).await;
            }
        }
        outcome
    }

    async fn once(&self, attempt: &RolloutTask<'_>) -> Result<Scored, RolloutFailure> {
        let request = EpisodeRequest {
            large_model_params: self.params.clone(),
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
                    ..RolloutFailure::model(error.to_string())
                }
            })?;
        // What follows has no part in the update, and may be what has outgrown the policy's context.
        episode.trajectory.trace.end_with_action();
        if episode.finish_reason == FinishReason::Deadline {
            // Slowness is not the policy's doing.
            let limit = self.limits.deadline_ms;
            return Err(RolloutFailure::model(format!("an episode took longer than {limit} ms")));
        }
        let reward =
            self.rewarder.score(&episode.trajectory, attempt.task).await.map_err(|error| {
                RolloutFailure { is_reward: true, ..RolloutFailure::model(error.to_string()) }
            })?;
        Ok(Scored { episode, reward })
    }
}
