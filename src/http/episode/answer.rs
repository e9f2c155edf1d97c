//! The answer of an episode on its way to a client, independent of the client's protocol.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::StatusCode;
use futures::{Stream, stream};
use serde_json::Value;

use super::stop_sequences::{Cut, Ending, StopSequences};
use super::task::{EpisodeStream, EpisodeTask, TaskEvent};
use crate::episode::{AnswerSource, Episode, EpisodeErrorKind, EpisodeEvent, EventSink};
use crate::http::error::ApiError;
use crate::http::wire::thoughts;

/// A finished answer.
#[derive(Debug, Clone)]
pub(in crate::http) struct Answered {
    pub(in crate::http) episode: Episode,
    /// What truncated it at the client's request, if anything did.
    pub(in crate::http) ending: Option<Ending>,
}

/// The JSON of an answer's log-probabilities is about so many times as long as the answer.
const LOGPROBS: usize = 16;

impl Answered {
    /// The refusal that the large model replied with, if it did.
    pub(in crate::http) fn refusal(&self) -> Option<&str> {
        self.reply_field("refusal").and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// The tool calls that the large model replied with.
    pub(in crate::http) fn tool_calls(&self) -> &[Value] {
        self.reply_field("tool_calls").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn reply_field(&self, name: &str) -> Option<&Value> {
        self.episode.reply.as_ref()?.message.extra.get(name)
    }

    /// About how long its JSON is, bytes, with or without the turns.
    pub(in crate::http) fn bytes(&self, with_turns: bool) -> usize {
        let Episode { answer, trajectory, .. } = &self.episode;
        let turns = if with_turns { trajectory.text_bytes() } else { 0 };
        let logprobs = logprobs(&self.episode).map_or(0, |_| LOGPROBS * answer.len());
        answer.len() + turns + logprobs
    }
}

/// A piece of a streamed answer. The last one is `Done` or `Failed`.
pub(in crate::http) enum AnswerPiece {
    Thought(String),
    Text(String),
    Done(Box<Answered>),
    Failed(ApiError),
}

impl AnswerPiece {
    /// About how long its JSON is, bytes, with or without the turns.
    pub(in crate::http) fn bytes(&self, with_turns: bool) -> usize {
        match self {
            Self::Thought(text) | Self::Text(text) => text.len(),
            Self::Done(answered) => answered.bytes(with_turns),
            Self::Failed(_) => 0,
        }
    }
}

/// Requirements on every answer of a request.
#[derive(Debug, Clone)]
pub(in crate::http) struct AnswerRequirements {
    pub(in crate::http) stops: StopSequences,
    /// Whether it must have log-probabilities.
    pub(in crate::http) logprobs: bool,
    /// Whether the policy emits its text token by token, as one that runs here does.
    pub(in crate::http) has_tokens: bool,
}

impl AnswerRequirements {
    /// More of an answer as far as it is wanted.
    fn take(&mut self, text: &str, source: AnswerSource) -> String {
        let cut = match source {
            AnswerSource::Policy if self.has_tokens => Cut::ByToken,
            _ => Cut::Anywhere,
        };
        self.stops.push(text, cut)
    }

    fn check(&self, episode: &Episode) -> Result<(), ApiError> {
        if !self.logprobs || logprobs(episode).is_some() || !has_tokens(episode) {
            return Ok(());
        }
        let message = reason!(
            "the large model gives no `logprobs`";
            hint: "leave them out, or ask for another large model"
        );
        let error = ApiError::new(StatusCode::BAD_REQUEST, "unsupported_parameter", message);
        Err(error.with_param("logprobs").no_retry())
    }
}

/// The pieces of an answer that is not streamed.
pub(in crate::http) fn whole_pieces(
    (text, answered): (String, Answered),
) -> impl Iterator<Item = AnswerPiece> {
    let thoughts = thoughts(&answered.episode).map(AnswerPiece::Thought);
    let text = (!text.is_empty()).then_some(AnswerPiece::Text(text));
    thoughts.into_iter().chain(text).chain([AnswerPiece::Done(Box::new(answered))])
}

/// The log-probabilities of the answer, from the large model.
pub(in crate::http) fn logprobs(episode: &Episode) -> Option<&Value> {
    episode.reply.as_ref()?.logprobs.as_ref()
}

/// Whether an answer has tokens that log-probabilities could be given for: tool calls and refusals
/// have none.
fn has_tokens(episode: &Episode) -> bool {
    let Some(reply) = &episode.reply else { return true };
    let is_said = |key: &str| match reply.message.extra.get(key) {
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        _ => false,
    };
    !episode.answer.is_empty() && !is_said("tool_calls") && !is_said("refusal")
}

/// Runs an episode to its end: its text, its answer, and the time spent outside of the models.
pub(in crate::http) async fn whole(
    task: &EpisodeTask,
    requirements: &AnswerRequirements,
) -> Result<(String, Answered, Duration), ApiError> {
    let requirements = requirements.clone();
    let mut whole = Whole { requirements, text: String::new(), has_answered: false };
    let episode = task.run(&mut whole).await?;
    whole.requirements.check(&episode)?;
    let overhead = task.overhead(&episode);
    if !whole.has_answered {
        whole.text = whole.requirements.take(&episode.answer, episode.answer_source);
    }
    let (rest, ending) = whole.requirements.stops.finish();
    whole.text.push_str(&rest);
    Ok((whole.text, Answered { episode, ending }, overhead))
}

/// Collects an answer for a reply that is not streamed, and truncates it where a stream would.
struct Whole {
    requirements: AnswerRequirements,
    text: String,
    has_answered: bool,
}

#[async_trait]
impl EventSink for Whole {
    fn is_live(&self) -> bool {
        false
    }

    async fn emit(&mut self, event: EpisodeEvent) -> Result<(), EpisodeErrorKind> {
        if let EpisodeEvent::Answer(text, source) = event {
            self.has_answered = true;
            self.text.push_str(&self.requirements.take(&text, source));
        }
        Ok(())
    }
}

/// The pieces of an answer while its episode runs.
pub(in crate::http) fn pieces(
    episode: EpisodeStream,
    requirements: AnswerRequirements,
) -> impl Stream<Item = AnswerPiece> + Send {
    let pieces = Pieces {
        episode,
        requirements,
        has_thought: false,
        has_reply_thought: false,
        has_answered: false,
        in_new_turn: false,
        is_over: false,
        pending: VecDeque::new(),
    };
    stream::unfold(pieces, |mut pieces| async move { Some((pieces.next().await?, pieces)) })
}

struct Pieces {
    episode: EpisodeStream,
    requirements: AnswerRequirements,
    /// Whether the policy thought, and whether only the large model did.
    has_thought: bool,
    has_reply_thought: bool,
    has_answered: bool,
    /// Whether a turn began since the last thought.
    in_new_turn: bool,
    is_over: bool,
    /// Pieces that wait to be sent.
    pending: VecDeque<AnswerPiece>,
}

impl Pieces {
    async fn next(&mut self) -> Option<AnswerPiece> {
        loop {
            if let Some(piece) = self.pending.pop_front() {
                return Some(piece);
            }
            if self.is_over {
                return None;
            }
            match self.episode.next().await {
                Some(TaskEvent::Event(event)) => self.take(event),
                Some(TaskEvent::Done(result)) => match *result {
                    Ok(episode) => self.finish(episode),
                    Err(error) => self.fail(error),
                },
                // An episode that ends without a result has panicked.
                None => self.fail(ApiError::internal()),
            }
        }
    }

    fn take(&mut self, event: EpisodeEvent) {
        match event {
            EpisodeEvent::Turn(_) => self.in_new_turn = self.has_thought,
            EpisodeEvent::Think(text) => {
                self.has_thought = true;
                let is_apart = std::mem::take(&mut self.in_new_turn);
                let text = if is_apart { format!("\n\n{text}") } else { text };
                self.pending.push_back(AnswerPiece::Thought(text));
            }
            // The conversation between the models is part of the trace only.
            EpisodeEvent::Prompt(_) | EpisodeEvent::Response(_) => {}
            EpisodeEvent::ReplyThought(text) if !self.has_thought => {
                self.has_reply_thought = true;
                self.pending.push_back(AnswerPiece::Thought(text));
            }
            EpisodeEvent::ReplyThought(_) => {}
            EpisodeEvent::Answer(text, source) => self.answer(&text, source),
        }
    }

    fn answer(&mut self, text: &str, source: AnswerSource) {
        self.has_answered = true;
        let text = self.requirements.take(text, source);
        self.say(text);
    }

    fn say(&mut self, text: String) {
        if !text.is_empty() {
            self.pending.push_back(AnswerPiece::Text(text));
        }
    }

    fn finish(&mut self, episode: Episode) {
        if let Err(error) = self.requirements.check(&episode) {
            return self.fail(error);
        }
        if !(self.has_thought || self.has_reply_thought)
            && let Some(thoughts) = thoughts(&episode)
        {
            self.pending.push_back(AnswerPiece::Thought(thoughts));
        }
        if !self.has_answered {
            self.answer(&episode.answer, episode.answer_source);
        }
        let (rest, ending) = self.requirements.stops.finish();
        self.say(rest);
        self.pending.push_back(AnswerPiece::Done(Box::new(Answered { episode, ending })));
        self.is_over = true;
    }

    fn fail(&mut self, error: ApiError) {
        self.pending.push_back(AnswerPiece::Failed(error));
        self.is_over = true;
    }
}
