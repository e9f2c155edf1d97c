//! Episodes by the dozen: run at once, scored, and retried where a model failed.

use futures::StreamExt;
use futures::stream::iter;
use serde_json::{Map, Value};

use crate::engine::Sampling;
use crate::episode::{
    Episode, EpisodeRequest, FinishReason, Limits, Participants, Silent, run_episode,
};
use crate::reward::{Reward, Rewarder};
use crate::task::Task;
use crate::trajectory::TokenTrace;

/// Attempts at an episode. The second draws the same tokens, so what it learns is not what the
/// large model's mood made it.
const ATTEMPTS: usize = 2;

/// Who takes part in a run's episodes, and within which limits.
pub struct Rollouts<'a> {
    /// The policy, the large model and their framing.
    pub participants: Participants<'a>,
    /// What an episode is worth.
    pub rewarder: &'a Rewarder,
    /// What an episode may use up; its fallback is off.
    pub limits: Limits,
    /// Fields of every call of the large model.
    pub params: Map<String, Value>,
    /// Episodes in flight at one time.
    pub max_in_flight: usize,
}

/// An episode to run.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'t> {
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

impl Rollouts<'_> {
    /// Runs all of `attempts`; the outcomes are in their order. An error is no outcome of the
    /// policy's: a model or the reward failed, or was too slow.
    pub async fn run(&self, attempts: &[Attempt<'_>]) -> Vec<Result<Scored, String>> {
        let running = attempts
            .iter()
            .enumerate()
            .map(|(index, attempt)| async move { (index, self.attempt(attempt).await) });
        let mut outcomes: Vec<_> =
            iter(running).buffer_unordered(self.max_in_flight).collect().await;
        outcomes.sort_by_key(|(index, _)| *index);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    async fn attempt(&self, attempt: &Attempt<'_>) -> Result<Scored, String> {
        let mut outcome = self.once(attempt).await;
        for _ in 1..ATTEMPTS {
            if outcome.is_err() {
                outcome = self.once(attempt).await;
            }
        }
        outcome
    }

    async fn once(&self, attempt: &Attempt<'_>) -> Result<Scored, String> {
        let request = EpisodeRequest {
            large_model_params: self.params.clone(),
            limits: self.limits.clone(),
            ..EpisodeRequest::new(&attempt.task.question, attempt.sampling)
        };
        let mut episode = run_episode(self.participants, &request, &mut Silent)
            .await
            .map_err(|error| error.to_string())?;
        trim(&mut episode.trajectory.trace);
        if episode.finish_reason == FinishReason::Deadline {
            // Slowness is not the policy's doing.
            return Err(format!("an episode took longer than {} ms", self.limits.deadline_ms));
        }
        let reward = self
            .rewarder
            .score(&episode.trajectory, attempt.task)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Scored { episode, reward })
    }
}

/// Cuts off what follows the last sampled token. It has no part in the update, and it may be what
/// has outgrown the policy's context.
fn trim(trace: &mut TokenTrace) {
    let end = trace.action_mask.iter().rposition(|&sampled| sampled).map_or(0, |last| last + 1);
    trace.ids.truncate(end);
    trace.log_probs.truncate(end);
    trace.action_mask.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trajectory::SampledToken;

    #[test]
    fn a_trace_ends_with_what_was_sampled() {
        let mut trace = TokenTrace::default();
        trace.push_context(&[1, 2]);
        trace.push_action(SampledToken { id: 3, log_prob: -1.0 });
        let expected = trace.clone();
        trace.push_context(&[4, 5]);
        trim(&mut trace);
        assert_eq!(trace, expected);
        trace.action_mask.fill(false);
        trim(&mut trace);
        assert_eq!(trace, TokenTrace::default());
    }
}
