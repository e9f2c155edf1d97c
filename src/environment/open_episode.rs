//! One open episode: the loop runs in its own task and waits for turns.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::{EnvironmentError, EnvironmentSetup, EpisodeState, FinishedEpisode};
use crate::engine::Sampling;
use crate::episode::{
    DiscardEvents, EpisodeRequest, FinishReason, Limits, Participants, run_episode,
};
use crate::hint::Hint;
use crate::policy::{ExternalTurn, StepHandle, SteppedPolicy};
use crate::reward::own_answer;
use crate::task::Task;
use crate::tokenization::BYTES_A_TOKEN;
use crate::trajectory::{SampledToken, TokenTrace};

/// An open episode. Dropping it ends it.
pub(super) struct OpenEpisode {
    /// Takes the policy's turns.
    policy: StepHandle,
    outcome: oneshot::Receiver<FinishedEpisode>,
    /// The turn that is awaited.
    turn: usize,
    /// Whether the turn was taken and its result not yet returned.
    is_taken: bool,
    /// The result that was returned last.
    last: Option<EpisodeState>,
    /// One more than the largest token id; absent without a tokenizer.
    vocabulary: Option<usize>,
    _task: AbortOnDropHandle<()>,
}

impl OpenEpisode {
    pub(super) fn begin(
        setup: Arc<EnvironmentSetup>,
        vocabulary: Option<usize>,
        task: Task,
        limits: Limits,
    ) -> Self {
        let (stepped, policy) = SteppedPolicy::new(setup.text.clone());
        let (sender, outcome) = oneshot::channel();
        let running = tokio::spawn(async move {
            let outcome = run(&setup, stepped, &task, limits).await;
            let _ = sender.send(outcome);
        });
        let task = AbortOnDropHandle::new(running);
        Self { policy, outcome, turn: 0, is_taken: false, last: None, vocabulary, _task: task }
    }

    /// The result of the reset.
    pub(super) async fn next(&mut self) -> EpisodeState {
        self.state_of(0).await
    }

    /// The result of the last turn: the prompt for turn `turn`, or the end. Cancel safe.
    async fn state_of(&mut self, turn: usize) -> EpisodeState {
        let state = match self.policy.prompts.recv().await {
            Some(prompted) => EpisodeState::Turn {
                turn,
                shown: prompted.shown,
                trace: prompted.trace,
                max_tokens: prompted.max_tokens,
            },
            None => {
                let ended = (&mut self.outcome).await;
                let unknown = |_| failed("the episode's task ended without a result".to_owned());
                EpisodeState::Done(Box::new(ended.unwrap_or_else(unknown)))
            }
        };
        (self.turn, self.is_taken) = (turn, false);
        self.last = Some(state.clone());
        state
    }

    pub(super) async fn step(
        &mut self,
        turn: Option<usize>,
        played: ExternalTurn,
    ) -> Result<EpisodeState, EnvironmentError> {
        let expected = self.turn;
        match (turn, &self.last) {
            // The client missed the reply to the reset.
            (_, None) => return Err(EnvironmentError::Busy),
            // The client missed the reply to this turn.
            (Some(turn), Some(last)) if !self.is_taken && turn.checked_add(1) == Some(expected) => {
                return Ok(last.clone());
            }
            (Some(sent), _) if sent != expected => {
                return Err(EnvironmentError::WrongTurn { sent, expected });
            }
            (None, _) if self.is_taken => return Err(EnvironmentError::Busy),
            (_, Some(done @ EpisodeState::Done(_))) => return Ok(done.clone()),
            (_, Some(EpisodeState::Turn { max_tokens, trace, .. })) if !self.is_taken => {
                self.check(&played, *max_tokens, trace)?;
                // When the receiver is gone, the episode is over: its time was up.
                let _ = self.policy.turns.send(played).await;
                self.is_taken = true;
            }
            _ => {}
        }
        Ok(self.state_of(expected + 1).await)
    }

    /// Whether a turn can be taken at all.
    fn check(
        &self,
        played: &ExternalTurn,
        max: usize,
        trace: &TokenTrace,
    ) -> Result<(), EnvironmentError> {
        match played {
            ExternalTurn::Tokens(_) if self.vocabulary.is_none() => {
                Err(EnvironmentError::BadTurn(reason!(
                    "it has token ids, but the environment has no tokenizer";
                    hint: "name the policy's model by `model` in its configuration, or give the `text`"
                )))
            }
            ExternalTurn::Tokens(_) if trace.ids.is_empty() => Err(EnvironmentError::BadTurn(
                "it has token ids, but the turns before it were texts".into(),
            )),
            ExternalTurn::Tokens(tokens) if tokens.is_empty() => {
                Err(EnvironmentError::BadTurn("it has no token".into()))
            }
            ExternalTurn::Tokens(tokens) if tokens.len() > max => {
                Err(EnvironmentError::TooLong { found: tokens.len(), unit: "tokens", max })
            }
            ExternalTurn::Text(text, _) if text.len() > max.saturating_mul(BYTES_A_TOKEN) => {
                let max = max.saturating_mul(BYTES_A_TOKEN);
                Err(EnvironmentError::TooLong { found: text.len(), unit: "bytes", max })
            }
            ExternalTurn::Text(..) if self.turn > 0 && !trace.ids.is_empty() => {
                Err(EnvironmentError::BadTurn(
                    "it is a text, but the turns before it had token ids".into(),
                ))
            }
            ExternalTurn::Tokens(tokens) => self.known(tokens),
            ExternalTurn::Text(..) => Ok(()),
        }
    }

    /// Whether all tokens are in the vocabulary.
    fn known(&self, tokens: &[SampledToken]) -> Result<(), EnvironmentError> {
        let size = self.vocabulary.unwrap_or(0);
        match tokens.iter().find(|token| token.id as usize >= size) {
            Some(SampledToken { id, .. }) => Err(EnvironmentError::BadTurn(reason!(
                "it has the token id {id}, but the vocabulary has {size} ids";
                hint: "name the model that samples the turns by `model` in the environment's configuration"
            ))),
            None => Ok(()),
        }
    }
}

async fn run(
    setup: &EnvironmentSetup,
    policy: SteppedPolicy,
    task: &Task,
    limits: Limits,
) -> FinishedEpisode {
    let deadline_ms = limits.deadline_ms;
    let request = EpisodeRequest {
        large_model_params: setup.params.clone().into(),
        limits,
        ..EpisodeRequest::new(&task.question, Sampling::GREEDY)
    };
    let participants = Participants {
        policy: &policy,
        large_model: &*setup.large_model,
        protocol: &setup.protocol,
    };
    let episode = match run_episode(participants, &request, &mut DiscardEvents).await {
        Ok(episode) => episode,
        Err(error) => {
            let used = error.usage.large_model;
            let mut outcome = failed(error.kind.explained());
            (outcome.large_model_calls, outcome.cost) = (used.calls, used.cost);
            return outcome;
        }
    };
    let mut trace = episode.trajectory.trace.clone();
    trace.end_with_action();
    let used = episode.usage.large_model;
    let mut outcome = FinishedEpisode {
        turns: episode.trajectory.turns.len(),
        trace,
        reward: None,
        finish_reason: Some(episode.finish_reason),
        answer: own_answer(&episode.trajectory).unwrap_or_default().to_owned(),
        large_model_calls: used.calls,
        cost: used.cost,
        error: None,
    };
    if episode.finish_reason == FinishReason::Deadline {
        // A time-out is not the policy's fault.
        outcome.error = Some(format!("the episode took longer than {deadline_ms} ms"));
        return outcome;
    }
    match setup.rewarder.score(&episode.trajectory, task).await {
        Ok(reward) => outcome.reward = Some(reward),
        Err(error) => outcome.error = Some(error.explained()),
    }
    outcome
}

fn failed(error: String) -> FinishedEpisode {
    FinishedEpisode {
        turns: 0,
        trace: TokenTrace::default(),
        reward: None,
        finish_reason: None,
        answer: String::new(),
        large_model_calls: 0,
        cost: 0.0,
        error: Some(error),
    }
}
