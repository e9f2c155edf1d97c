//! The episode loop.

use std::ops::ControlFlow;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;
use tracing::{Instrument, Span, field};

mod arrange;
mod ask;
mod bare;
mod fallback;
mod given;

use ask::PromptOutcome;
use fallback::needs_call;

use crate::chat::ChatMessage;
use crate::compute;
use crate::large_model::{CallUsage, LargeModelError, Reply};
use crate::policy::{PolicyError, PolicyOpening, PolicySession, PolicyTurn};
use crate::protocol::{ExpandError, Opening, PromptResult};
use crate::token_estimate::TokenEstimate;
use crate::trajectory::{
    Action, Observation, TokenTrace, TokenUsage, Trajectory, Turn, TurnFinish,
};

use super::estimate::{CallEstimate, estimate_of};
use super::watch::{TurnWatch, WatchedTurn};
use super::{
    AnswerSource, CONTENTS, Episode, EpisodeError, EpisodeErrorKind, EpisodeEvent, EpisodeRequest,
    EpisodeUsage, EventSink, FinishReason, Participants, Replies, SPANS,
};

/// The share of the wall time that is reserved for the call that gives an answer its form, or that
/// asks the question itself: one part in this many.
const FINAL_SHARE: u32 = 4;

/// Runs one episode to its end. Dropping the future cancels both models.
///
/// # Errors
/// When there is nothing to answer with: a model failed, or a limit was reached before the first
/// reply to the question. The error contains the usage so far.
pub async fn run_episode(
    participants: Participants<'_>,
    request: &EpisodeRequest,
    events: &mut dyn EventSink,
) -> Result<Episode, EpisodeError> {
    let time = request.limits.deadline();
    let kept = if needs_call(&participants, request) { time / FINAL_SHARE } else { Duration::ZERO };
    let mut run = Run {
        participants,
        request,
        events,
        deadline: request.started + time,
        turns_end: request.started + time - kept,
        usage: EpisodeUsage::default(),
        turns: Vec::new(),
        exchanges: Vec::new(),
        last_answer: None,
        replies: Replies::new(),
        waited: Duration::ZERO,
        shown: TokenEstimate::default(),
        is_cut: false,
    };
    // Names by OpenTelemetry's conventions for generative models.
    let span = tracing::info_span!(
        target: SPANS,
        "episode",
        otel.name = "invoke_agent prompt-r1",
        gen_ai.operation.name = "invoke_agent",
        gen_ai.agent.name = participants.policy.name(),
        finish_reason = field::Empty,
        turns = field::Empty,
        otel.status_code = field::Empty,
        error.r#type = field::Empty,
    );
    let result = run.episode().instrument(span.clone()).await;
    match &result {
        Ok(episode) => {
            span.record("finish_reason", episode.finish_reason.as_str());
            span.record("turns", episode.trajectory.turns.len());
        }
        Err(kind) => {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", kind.label());
        }
    }
    result.map_err(|kind| EpisodeError { kind, usage: run.usage })
}

/// How the loop over turns ended.
enum Ending {
    Policy(String),
    /// The deadline passed while the policy wrote its answer; this is what it had.
    Unfinished(String),
    LargeModel(Box<Reply>),
    NoAnswer(FinishReason),
}

struct Run<'a> {
    participants: Participants<'a>,
    request: &'a EpisodeRequest,
    events: &'a mut dyn EventSink,
    deadline: Instant,
    /// The deadline of turns and their calls, which leaves time for the answer.
    turns_end: Instant,
    usage: EpisodeUsage,
    turns: Vec<Turn>,
    /// Prompts and replies so far: the conversation of the large model.
    exchanges: Vec<ChatMessage>,
    /// The last reply of a large model that knew the question.
    last_answer: Option<String>,
    replies: Replies,
    /// Time spent waiting for either model.
    waited: Duration,
    /// What the policy was shown and has written.
    shown: TokenEstimate,
    /// Whether the deadline cut the answer off.
    is_cut: bool,
}

impl Run<'_> {
    async fn episode(&mut self) -> Result<Episode, EpisodeErrorKind> {
        // The result of a tool cannot be found out by turns.
        let (ending, trace) = match self.request.form.must_call() {
            true => (Ending::NoAnswer(FinishReason::Answered), TokenTrace::default()),
            false => {
                let mut session = self.open().await?;
                (self.turns(&mut *session).await?, session.trace().clone())
            }
        };
        let (answer, answer_source, reason, reply) = self.conclude(ending).await?;
        let finish_reason = if self.is_cut { FinishReason::Deadline } else { reason };
        let trajectory = Trajectory { turns: std::mem::take(&mut self.turns), trace };
        let model_micros = self.waited.as_micros() as u64;
        let usage = self.usage;
        Ok(Episode { answer, answer_source, finish_reason, trajectory, usage, model_micros, reply })
    }

    /// Shows the policy the question.
    async fn open(&mut self) -> Result<Box<dyn PolicySession>, EpisodeErrorKind> {
        let request = self.request;
        let limits = &request.limits;
        let messages = request.conversation.iter();
        let bytes = messages.map(ChatMessage::text_length).sum::<usize>() + request.question.len();
        let (opening, estimate) = compute::in_place(bytes, || {
            let messages = request.conversation.iter();
            let conversation: Vec<(String, String)> =
                messages.map(|message| (message.role.clone(), message.transcript())).collect();
            let opening = self.participants.protocol.opening(&Opening {
                question: &self.question().transcript(),
                conversation: &conversation,
                tools: &request.form.tools(),
                max_turns: request.shown_turns.unwrap_or(limits.max_turns),
                allow_final: limits.allow_final && !request.form.by_large_model,
            })?;
            let estimate = estimate_of(&opening);
            Ok::<_, EpisodeErrorKind>((opening, estimate))
        })?;
        self.shown = estimate;
        let opening = PolicyOpening {
            pieces: &opening,
            sampling: request.sampling,
            authorization: request.authorization.as_ref(),
            caller: request.caller,
        };
        let opened = self.participants.policy.open(opening);
        let opened = timeout_at(self.deadline.into(), opened).await;
        Ok(opened.map_err(|_| EpisodeErrorKind::Deadline { limit_ms: limits.deadline_ms })??)
    }

    /// The answer, who wrote it, why the episode ended, and the reply that it is, if any.
    async fn conclude(
        &mut self,
        ending: Ending,
    ) -> Result<(String, AnswerSource, FinishReason, Option<Reply>), EpisodeErrorKind> {
        use AnswerSource::{LargeModel, Policy};
        let reason = match &ending {
            Ending::NoAnswer(reason) => *reason,
            Ending::Unfinished(_) => FinishReason::Deadline,
            _ => FinishReason::Answered,
        };
        if self.request.form.by_large_model {
            let (draft, source) = match ending {
                Ending::Policy(text) | Ending::Unfinished(text) => (text, Policy),
                Ending::LargeModel(reply) => (reply.message.as_text(), LargeModel),
                Ending::NoAnswer(_) => (String::new(), LargeModel),
            };
            return match self.formed(&draft).await {
                Ok(reply) => Ok((reply.message.as_text(), LargeModel, reason, Some(reply))),
                Err(EpisodeErrorKind::LargeModel(LargeModelError::Deadline { .. }))
                    if self.request.form.is_optional() =>
                {
                    self.unformed(draft, source).await
                }
                Err(error) => Err(error),
            };
        }
        match ending {
            Ending::Policy(text) | Ending::Unfinished(text) => Ok((text, Policy, reason, None)),
            Ending::LargeModel(reply) => {
                Ok((reply.message.as_text(), LargeModel, reason, Some(*reply)))
            }
            Ending::NoAnswer(_) if !self.request.limits.fallback => {
                Ok((String::new(), LargeModel, reason, None))
            }
            Ending::NoAnswer(_) => {
                let (text, reply) = self.best(reason).await?;
                Ok((text, LargeModel, reason, reply))
            }
        }
    }

    /// Runs turns until there is an answer or a limit is reached.
    async fn turns(&mut self, session: &mut dyn PolicySession) -> Result<Ending, EpisodeErrorKind> {
        let limits = &self.request.limits;
        loop {
            let index = self.turns.len();
            if index == limits.max_turns {
                return Ok(Ending::NoAnswer(FinishReason::TurnLimit));
            }
            let written = self.usage.policy.tokens.completion_tokens as usize;
            let room = limits.max_policy_tokens.saturating_sub(written).min(limits.max_turn_tokens);
            if room == 0 {
                return Ok(Ending::NoAnswer(FinishReason::TokenLimit));
            }
            if Instant::now() >= self.turns_end {
                return Ok(Ending::NoAnswer(FinishReason::Deadline));
            }
            if self.is_over_budget() {
                return Ok(Ending::NoAnswer(FinishReason::Budget));
            }
            self.events.emit(EpisodeEvent::Turn(index)).await?;
            let span = tracing::info_span!(target: SPANS, "turn", index);
            let turn = async {
                match self.request.turns.get(index) {
                    Some(given) => self.given(session, given).await,
                    None => self.turn(session, room).await,
                }
            };
            match turn.instrument(span).await? {
                ControlFlow::Break(ending) => return Ok(ending),
                ControlFlow::Continue(()) => {}
            }
        }
    }

    async fn turn(
        &mut self,
        session: &mut dyn PolicySession,
        room: usize,
    ) -> Result<ControlFlow<Ending>, EpisodeErrorKind> {
        let begun = Instant::now();
        let drafts = self.request.form.by_large_model;
        let prices = self.participants.policy.prices();
        let tally = &self.request.tally;
        let writing = CallEstimate::begin(
            tally,
            self.usage,
            |usage| &mut usage.policy,
            prices,
            self.shown.tokens(),
        );
        let mut sink = TurnWatch::new(&mut *self.events, drafts, writing);
        let span = tracing::info_span!(
            target: SPANS,
            "policy",
            otel.name = format_args!("chat {}", self.participants.policy.name()),
            gen_ai.operation.name = "chat",
            gen_ai.request.model = self.participants.policy.name(),
            gen_ai.usage.input_tokens = field::Empty,
            gen_ai.usage.output_tokens = field::Empty,
        );
        let writing = session.turn(room, &mut sink).instrument(span.clone());
        let written = timeout_at(self.turns_end.into(), writing).await;
        if let Ok(Ok(written)) = &written {
            record_usage(&span, written.usage);
        }
        self.waited += begun.elapsed();
        if matches!(written, Ok(Ok(_)) | Err(_)) {
            sink.close().await?;
        }
        let has_answered = sink.has_answered();
        let WatchedTurn { text, parsed, mut writing, held_back } = sink.finish();
        if matches!(parsed.action, Action::Answer(_)) {
            for piece in held_back {
                self.events.emit(EpisodeEvent::Answer(piece, AnswerSource::Policy)).await?;
            }
        }
        self.shown += TokenEstimate::of(&text);
        span.in_scope(|| tracing::info!(target: CONTENTS, text, "written"));
        let is_billed = match &written {
            Ok(Err(PolicyError::Remote(error))) => {
                writing.fail(error);
                error.may_be_billed() || writing.has_written()
            }
            Ok(Err(PolicyError::Cancelled)) | Err(_) => !writing.waiting.is_on(),
            // What it used is known, or nothing.
            Ok(_) => false,
        };
        self.end_estimate(writing, is_billed);
        let PolicyTurn { finish, usage, cost } = match written {
            Ok(Ok(written)) => written,
            Ok(Err(PolicyError::Cancelled)) => return Err(EpisodeErrorKind::Cancelled),
            // The conversation exceeds the policy's context: answer with what is known.
            Ok(Err(PolicyError::Engine(crate::engine::EngineError::PromptTooLong { .. })))
                if !self.turns.is_empty() =>
            {
                return Ok(ControlFlow::Break(Ending::NoAnswer(FinishReason::TokenLimit)));
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                return Ok(ControlFlow::Break(match parsed.action {
                    Action::Nothing if has_answered => return Err(EpisodeErrorKind::Malformed),
                    // It was reported to the client already, and it is better than no answer.
                    Action::Answer(answer) if !drafts => Ending::Unfinished(answer),
                    _ => Ending::NoAnswer(FinishReason::Deadline),
                }));
            }
        };
        self.usage.policy += CallUsage { calls: 1, tokens: usage, cost };
        self.tally();
        self.turns.push(Turn {
            text,
            think: parsed.think,
            action: parsed.action.clone(),
            finish,
            is_given: false,
            tokens: usage.completion_tokens as usize,
            cost,
            millis: begun.elapsed().as_millis() as u64,
            observation: None,
        });
        // A truncated prompt is not what the policy meant to send.
        let cut = finish == TurnFinish::Length && !parsed.is_closed;
        match parsed.action {
            Action::Answer(answer) => Ok(ControlFlow::Break(Ending::Policy(answer))),
            // Another answer would be appended to it.
            Action::Nothing if has_answered => Err(EpisodeErrorKind::Malformed),
            _ if cut => Ok(ControlFlow::Break(Ending::NoAnswer(FinishReason::TokenLimit))),
            Action::Nothing => Ok(ControlFlow::Break(Ending::NoAnswer(FinishReason::Malformed))),
            Action::FinalPrompt(prompt) if drafts && self.is_question(&prompt) => {
                // The call that gives the answer its form makes the same request.
                Ok(ControlFlow::Break(Ending::NoAnswer(FinishReason::Answered)))
            }
            Action::FinalPrompt(prompt) => match self.ask(&prompt, !drafts).await {
                Ok(PromptOutcome::Replied(reply, observation)) => {
                    self.attach(observation);
                    Ok(ControlFlow::Break(Ending::LargeModel(reply)))
                }
                Ok(PromptOutcome::Unsent(error)) => Ok(self.unsent(error)),
                Err(error) => self.continue_without_reply(error),
            },
            Action::Prompt(_) if self.is_last_turn() && !self.request.limits.fallback => {
                Ok(ControlFlow::Break(Ending::NoAnswer(FinishReason::TurnLimit)))
            }
            Action::Prompt(prompt) => {
                let asked = self.ask(&prompt, false).await;
                self.show(session, asked).await
            }
        }
    }

    /// Shows the policy the result of its prompt.
    async fn show(
        &mut self,
        session: &mut dyn PolicySession,
        asked: Result<PromptOutcome, EpisodeErrorKind>,
    ) -> Result<ControlFlow<Ending>, EpisodeErrorKind> {
        let settings = self.participants.protocol.settings();
        let chars = settings.observation_chars(self.request.limits.observation_chars);
        let is_last = self.is_last_turn();
        let head;
        let shown = match asked {
            Ok(PromptOutcome::Replied(reply, mut observation)) => {
                let reply = reply.message.as_text();
                head = reply.chars().take(chars).collect::<String>();
                observation.truncated = head.len() < reply.len();
                let is_repeated = observation.repeated;
                self.attach(observation);
                if is_repeated { PromptResult::Repeated(&head) } else { PromptResult::Reply(&head) }
            }
            Ok(PromptOutcome::Unsent(ExpandError::Missing(turn))) => PromptResult::Missing(turn),
            Ok(PromptOutcome::Unsent(error)) => return Ok(self.unsent(error)),
            Err(error) => return self.continue_without_reply(error),
        };
        if !is_last {
            let observation = self.participants.protocol.observation(shown)?;
            self.shown += estimate_of(&observation);
            session.observe(&observation).await?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Ends the turns when a prompt cannot be sent.
    fn unsent(&self, error: ExpandError) -> ControlFlow<Ending> {
        if error == ExpandError::TooLong {
            let policy = self.participants.policy.name();
            let bound = self.request.limits.prompt_bytes;
            tracing::warn!(
                policy,
                bound,
                "a prompt was not sent: with its references it is longer than `episode.prompt_bytes`"
            );
        }
        ControlFlow::Break(Ending::NoAnswer(FinishReason::Malformed))
    }

    /// Emits more of what the large model says.
    async fn announce(&mut self, is_answer: bool, text: String) -> Result<(), EpisodeErrorKind> {
        let event = match is_answer {
            true => EpisodeEvent::Answer(text, AnswerSource::LargeModel),
            false => EpisodeEvent::Response(text),
        };
        self.events.emit(event).await
    }

    fn attach(&mut self, observation: Observation) {
        if let Some(turn) = self.turns.last_mut() {
            turn.observation = Some(observation);
        }
    }

    /// Ends the estimate of a call, which counts if it may have been billed.
    fn end_estimate(&mut self, call: CallEstimate, is_billed: bool) {
        self.usage = call.ended(is_billed);
        drop(call);
        self.tally();
    }

    fn tally(&self) {
        *self.request.tally.lock().unwrap_or_else(PoisonError::into_inner) = self.usage;
    }

    /// Whether the turn just written is the last one allowed.
    fn is_last_turn(&self) -> bool {
        self.turns.len() == self.request.limits.max_turns
    }

    fn is_over_budget(&self) -> bool {
        let spent = self.usage.policy.cost + self.usage.large_model.cost;
        self.request.limits.max_cost.is_some_and(|max_cost| spent >= max_cost)
    }
}

fn record_usage(span: &Span, usage: TokenUsage) {
    span.record("gen_ai.usage.input_tokens", usage.prompt_tokens);
    span.record("gen_ai.usage.output_tokens", usage.completion_tokens);
}
