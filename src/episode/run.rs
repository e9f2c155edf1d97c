//! The loop itself.

use std::ops::ControlFlow;
use std::time::Instant;

use async_trait::async_trait;
use futures::StreamExt;
use serde_json::json;
use tokio::time::timeout_at;

use crate::chat::ChatMessage;
use crate::large_model::{Call, LargeModelError, Reply, ReplyChunk};
use crate::policy::{PolicyError, PolicySession, TurnSink, WrittenTurn};
use crate::protocol::{Fragment, Opening, TurnParser};
use crate::trajectory::{Action, Observation, Turn, TurnFinish};

use super::{
    AnswerSource, Episode, EpisodeError, EpisodeErrorKind, EpisodeEvent, EpisodeRequest,
    EpisodeUsage, EventSink, FinishReason, Participants, Replies,
};

/// Runs one episode to its end. Dropping the future cancels both models at once.
///
/// # Errors
/// When there is nothing to answer with: a model failed, or a limit was reached before the first
/// reply. The error says what had been used.
pub async fn run_episode(
    participants: Participants<'_>,
    request: &EpisodeRequest,
    events: &mut dyn EventSink,
) -> Result<Episode, EpisodeError> {
    let mut run = Run {
        participants,
        request,
        events,
        deadline: request.started + request.limits.deadline(),
        usage: EpisodeUsage::default(),
        turns: Vec::new(),
        exchanges: Vec::new(),
        replies: Replies::new(),
    };
    run.episode().await.map_err(|kind| EpisodeError { kind, usage: run.usage })
}

/// How the loop over turns ended.
enum Ending {
    Policy(String),
    LargeModel(String),
    Without(FinishReason),
}

struct Run<'a> {
    participants: Participants<'a>,
    request: &'a EpisodeRequest,
    events: &'a mut dyn EventSink,
    deadline: Instant,
    usage: EpisodeUsage,
    turns: Vec<Turn>,
    /// Prompts and replies so far, as the large model's conversation.
    exchanges: Vec<ChatMessage>,
    replies: Replies,
}

impl Run<'_> {
    async fn episode(&mut self) -> Result<Episode, EpisodeErrorKind> {
        let request = self.request;
        let limits = &request.limits;
        let conversation: Vec<(String, String)> = request
            .conversation
            .iter()
            .map(|message| (message.role.clone(), message.as_text()))
            .collect();
        let opening = self.participants.protocol.opening(&Opening {
            question: &request.question,
            conversation: &conversation,
            max_turns: limits.max_turns,
            allow_final: limits.allow_final,
        })?;
        let mut session = self.participants.policy.open(&opening, request.sampling).await?;
        let ending = self.turns(&mut *session).await?;
        let (answer, answer_source, finish_reason) = match ending {
            Ending::Policy(text) => (text, AnswerSource::Policy, FinishReason::Answered),
            Ending::LargeModel(text) => (text, AnswerSource::LargeModel, FinishReason::Answered),
            Ending::Without(reason) => {
                let best = if limits.fallback { self.best(reason).await? } else { String::new() };
                (best, AnswerSource::LargeModel, reason)
            }
        };
        let trajectory = crate::trajectory::Trajectory {
            turns: std::mem::take(&mut self.turns),
            trace: session.trace().clone(),
        };
        Ok(Episode { answer, answer_source, finish_reason, trajectory, usage: self.usage })
    }

    /// Turns until there is an answer or a limit.
    async fn turns(&mut self, session: &mut dyn PolicySession) -> Result<Ending, EpisodeErrorKind> {
        let limits = &self.request.limits;
        loop {
            let index = self.turns.len();
            if index == limits.max_turns {
                return Ok(Ending::Without(FinishReason::TurnLimit));
            }
            let written = self.usage.policy.tokens.completion_tokens as usize;
            let room = limits.max_policy_tokens.saturating_sub(written).min(limits.max_turn_tokens);
            if room == 0 {
                return Ok(Ending::Without(FinishReason::TokenLimit));
            }
            if Instant::now() >= self.deadline {
                return Ok(Ending::Without(FinishReason::Deadline));
            }
            if self.is_over_budget() {
                return Ok(Ending::Without(FinishReason::Budget));
            }
            self.events.emit(EpisodeEvent::Turn(index)).await?;
            match self.turn(session, room).await? {
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
        let mut sink = Watch { parser: TurnParser::default(), events: &mut *self.events };
        let written = timeout_at(self.deadline.into(), session.turn(room, &mut sink)).await;
        let text = sink.parser.text().to_owned();
        let parsed = sink.parser.finish();
        let WrittenTurn { finish, usage } = match written {
            Ok(Ok(written)) => written,
            Ok(Err(PolicyError::Cancelled)) => return Err(EpisodeErrorKind::Cancelled),
            // The conversation has outgrown the policy's context: what is known must do.
            Ok(Err(PolicyError::Engine(crate::engine::EngineError::PromptTooLong { .. })))
                if !self.turns.is_empty() =>
            {
                return Ok(ControlFlow::Break(Ending::Without(FinishReason::TokenLimit)));
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Ok(ControlFlow::Break(Ending::Without(FinishReason::Deadline))),
        };
        self.usage.policy.calls += 1;
        self.usage.policy.tokens += usage;
        self.usage.policy.cost += self.participants.policy.prices().cost(usage);
        self.turns.push(Turn {
            text,
            think: parsed.think,
            action: parsed.action.clone(),
            finish,
            tokens: usage.completion_tokens as usize,
            millis: begun.elapsed().as_millis() as u64,
            observation: None,
        });
        // A prompt that was cut off is not what the policy meant to send.
        let cut = finish == TurnFinish::Length;
        match parsed.action {
            Action::Answer(answer) => Ok(ControlFlow::Break(Ending::Policy(answer))),
            _ if cut => Ok(ControlFlow::Break(Ending::Without(FinishReason::TokenLimit))),
            Action::Nothing => Ok(ControlFlow::Break(Ending::Without(FinishReason::Malformed))),
            Action::FinalPrompt(prompt) => {
                let (reply, observation) = self.ask(&prompt, true).await?;
                self.attach(observation);
                Ok(ControlFlow::Break(Ending::LargeModel(reply)))
            }
            Action::Prompt(prompt) => self.exchange(session, &prompt).await,
        }
    }

    /// Sends a prompt and shows the policy the reply.
    async fn exchange(
        &mut self,
        session: &mut dyn PolicySession,
        prompt: &str,
    ) -> Result<ControlFlow<Ending>, EpisodeErrorKind> {
        let limits = &self.request.limits;
        let is_last = self.turns.len() == limits.max_turns;
        if is_last && !limits.fallback {
            return Ok(ControlFlow::Break(Ending::Without(FinishReason::TurnLimit)));
        }
        let (reply, mut observation) = match self.ask(prompt, false).await {
            Ok(asked) => asked,
            Err(EpisodeErrorKind::LargeModel(LargeModelError::Deadline { .. }))
                if !self.exchanges.is_empty() =>
            {
                return Ok(ControlFlow::Break(Ending::Without(FinishReason::Deadline)));
            }
            Err(error) => return Err(error),
        };
        let shown: String = reply.chars().take(limits.observation_chars).collect();
        observation.truncated = shown.len() < reply.len();
        self.attach(observation);
        if !is_last {
            session.observe(&self.participants.protocol.observation(&shown)?)?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The reply to a prompt, from the record if the same prompt was sent before. `is_answer` says
    /// under which name the words are announced.
    async fn ask(
        &mut self,
        prompt: &str,
        is_answer: bool,
    ) -> Result<(String, Observation), EpisodeErrorKind> {
        let begun = Instant::now();
        let known = self.replies.get(prompt).cloned();
        let repeated = known.is_some();
        let mut usage = Default::default();
        let reply = match known {
            Some(reply) => {
                self.announce(is_answer, reply.clone()).await?;
                reply
            }
            None => {
                let mut messages = self.large_model_opening()?;
                messages.extend(self.exchanges.iter().cloned());
                messages.push(ChatMessage::text("user", prompt));
                let reply = self.call(messages, is_answer).await?;
                usage = reply.usage;
                reply.message.as_text()
            }
        };
        if !repeated {
            self.exchanges.push(ChatMessage::text("user", prompt));
            self.exchanges.push(ChatMessage::text("assistant", reply.clone()));
            self.replies.insert(prompt.to_owned(), reply.clone());
        }
        let millis = begun.elapsed().as_millis() as u64;
        let observation =
            Observation { reply: reply.clone(), truncated: false, repeated, usage, millis };
        Ok((reply, observation))
    }

    /// One call of the large model, counted.
    async fn call(
        &mut self,
        messages: Vec<ChatMessage>,
        is_answer: bool,
    ) -> Result<Reply, EpisodeErrorKind> {
        let model = self.participants.large_model;
        let call = Call {
            messages,
            params: self.params(),
            deadline: Some(self.deadline),
            authorization: self.request.authorization.clone(),
        };
        let past = || LargeModelError::Deadline { model: model.name().to_owned() };
        let reply = if self.events.is_live() {
            let stream = timeout_at(self.deadline.into(), model.stream(&call)).await;
            let mut stream = stream.map_err(|_| past())??;
            loop {
                let chunk = timeout_at(self.deadline.into(), stream.next()).await;
                match chunk.map_err(|_| past())? {
                    Some(Ok(ReplyChunk::Text(text))) => self.announce(is_answer, text).await?,
                    Some(Ok(ReplyChunk::Done(reply))) => break reply,
                    Some(Err(error)) => return Err(error.into()),
                    None => {
                        return Err(EpisodeErrorKind::LargeModel(LargeModelError::Malformed {
                            model: model.name().to_owned(),
                            reason: "the stream ended before the reply was complete".into(),
                        }));
                    }
                }
            }
        } else {
            let reply = timeout_at(self.deadline.into(), model.complete(&call)).await;
            reply.map_err(|_| past())??
        };
        self.usage.large_model.calls += 1;
        self.usage.large_model.tokens += reply.usage;
        self.usage.large_model.cost += model.prices().cost(reply.usage);
        Ok(reply)
    }

    /// What the request asks of the large model, with a seed of the episode's.
    fn params(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut params = self.request.large_model_params.clone();
        let seed = (self.request.sampling.seed >> 1) as i64;
        params.entry("seed").or_insert(json!(seed));
        params
    }

    /// What stands before the first prompt.
    fn large_model_opening(&self) -> Result<Vec<ChatMessage>, EpisodeErrorKind> {
        let system = self.participants.protocol.large_model_system()?;
        let mut messages = Vec::new();
        if !system.is_empty() {
            messages.push(ChatMessage::text("system", system));
        }
        messages.extend(self.request.conversation.iter().cloned());
        Ok(messages)
    }

    /// The best answer there is without one of the policy's: the last reply, or the large model's
    /// reply to the question itself.
    async fn best(&mut self, reason: FinishReason) -> Result<String, EpisodeErrorKind> {
        if let Some(last) = self.exchanges.last() {
            let reply = last.as_text();
            self.announce(true, reply.clone()).await?;
            return Ok(reply);
        }
        let limits = &self.request.limits;
        if reason == FinishReason::Deadline {
            return Err(EpisodeErrorKind::Deadline { limit_ms: limits.deadline_ms });
        }
        if let (FinishReason::Budget, Some(max_cost)) = (reason, limits.max_cost) {
            return Err(EpisodeErrorKind::Budget { max_cost });
        }
        let mut messages = self.large_model_opening()?;
        messages.push(ChatMessage::text("user", self.request.question.clone()));
        Ok(self.call(messages, true).await?.message.as_text())
    }

    async fn announce(&mut self, is_answer: bool, text: String) -> Result<(), EpisodeErrorKind> {
        let event =
            if is_answer { EpisodeEvent::Answer(text) } else { EpisodeEvent::Response(text) };
        self.events.emit(event).await
    }

    fn attach(&mut self, observation: Observation) {
        if let Some(turn) = self.turns.last_mut() {
            turn.observation = Some(observation);
        }
    }

    fn is_over_budget(&self) -> bool {
        let spent = self.usage.policy.cost + self.usage.large_model.cost;
        self.request.limits.max_cost.is_some_and(|max_cost| spent >= max_cost)
    }
}

/// Reads a turn as it is written and passes on what it says.
struct Watch<'a> {
    parser: TurnParser,
    events: &'a mut dyn EventSink,
}

#[async_trait]
impl TurnSink for Watch<'_> {
    async fn text(&mut self, text: &str) -> Result<ControlFlow<()>, PolicyError> {
        for fragment in self.parser.push(text) {
            let event = match fragment {
                Fragment::Think(text) => EpisodeEvent::Think(text),
                Fragment::Prompt(text) | Fragment::FinalPrompt(text) => EpisodeEvent::Prompt(text),
                Fragment::Answer(text) => EpisodeEvent::Answer(text),
            };
            self.events.emit(event).await.map_err(|_| PolicyError::Cancelled)?;
        }
        let overrun = self.parser.is_overrun();
        Ok(if overrun { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}
