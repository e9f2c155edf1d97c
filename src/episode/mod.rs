//! The one loop that serving, training and evaluation share: the policy thinks and prompts, the
//! large model replies, until there is an answer.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::chat::ChatMessage;
use crate::engine::Sampling;
use crate::hint::{Hint, Reason};
use crate::large_model::{CallUsage, LargeModel, LargeModelError, Reply};
use crate::policy::{Policy, PolicyError};
use crate::protocol::{ANSWER, Protocol, ProtocolError};
use crate::trajectory::{Action, Trajectory, Turn, TurnFinish};

mod config;
mod estimate;
mod event;
mod form;
mod run;
#[cfg(test)]
mod tests;
mod watch;

pub use config::Limits;
pub use event::{DiscardEvents, EpisodeEvent, EventSink};
pub use form::{AnswerCheck, AnswerForm};
pub use run::run_episode;

/// The target of the spans of an episode, its turns and its calls.
pub const SPANS: &str = "prompt_r1::spans";
/// The target of events that contain prompts and replies.
pub const CONTENTS: &str = "prompt_r1::contents";

/// The participants of an episode.
#[derive(Clone, Copy)]
pub struct Participants<'a> {
    /// The policy.
    pub policy: &'a dyn Policy,
    /// The large model.
    pub large_model: &'a dyn LargeModel,
    /// The protocol.
    pub protocol: &'a Protocol,
}

/// One thing to answer.
#[derive(Debug, Clone)]
pub struct EpisodeRequest {
    /// The question; the last user message of a conversation.
    pub question: String,
    /// Messages before the question: shown to the policy as text, sent to the large model as they
    /// are.
    pub conversation: Vec<ChatMessage>,
    /// Whether `conversation` contains the question already and continues after it, as it does
    /// after tool calls.
    pub is_continued: bool,
    /// Parts of the question that are not text (images, audio): sent to the large model with the
    /// first prompt.
    pub attachments: Vec<Value>,
    /// The message that asks, if it has more than the question's text, with nulls in place of its
    /// attachments. It is sent in place of a first prompt that is only the question.
    pub message: Option<ChatMessage>,
    /// The first turns, written by the caller: the policy continues after them.
    pub turns: Vec<GivenTurn>,
    /// How the policy samples.
    pub sampling: Sampling,
    /// Fields for every call of the large model.
    pub large_model_params: Arc<Map<String, Value>>,
    /// Requirements on the answer besides being right.
    pub form: AnswerForm,
    /// Limits of the episode.
    pub limits: Limits,
    /// The number of turns that the opening shows to the policy. Default: that of `limits`.
    pub shown_turns: Option<usize>,
    /// Whether the fallback takes the last reply whatever its prompt was, even if the large model did
    /// not get the question.
    pub takes_any_reply: bool,
    /// When the clock of the episode's deadline started.
    pub started: Instant,
    /// The caller's own key, for endpoints without one.
    pub authorization: Option<SecretString>,
    /// Whose episode it is; 0 where callers are not known apart.
    pub caller: u64,
    /// The usage so far, which also counts when the episode is cancelled.
    pub tally: Tally,
}

impl EpisodeRequest {
    /// A bare question with default limits, started now.
    pub fn new(question: impl Into<String>, sampling: Sampling) -> Self {
        Self {
            question: question.into(),
            conversation: Vec::new(),
            is_continued: false,
            attachments: Vec::new(),
            message: None,
            turns: Vec::new(),
            sampling,
            large_model_params: Arc::default(),
            form: AnswerForm::default(),
            limits: Limits::default(),
            shown_turns: None,
            takes_any_reply: false,
            started: Instant::now(),
            authorization: None,
            caller: 0,
            tally: Tally::default(),
        }
    }
}

/// A turn that the caller wrote in the policy's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenTurn {
    /// The thought of the turn.
    pub think: Option<String>,
    /// The prompt; references in it are resolved as in the policy's own.
    pub prompt: String,
    /// The large model's reply. Without one, the large model is asked.
    pub response: Option<String>,
}

/// Why an episode ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The policy answered, or returned a reply.
    Answered,
    /// The policy has no turns left.
    TurnLimit,
    /// The policy has no tokens left, in a turn or in all.
    TokenLimit,
    /// The deadline passed.
    Deadline,
    /// The budget is spent.
    Budget,
    /// The policy wrote something that is neither a prompt nor an answer.
    Malformed,
}

impl FinishReason {
    /// Every reason, for metrics that start at zero.
    pub const ALL: [Self; 6] = [
        Self::Answered,
        Self::TurnLimit,
        Self::TokenLimit,
        Self::Deadline,
        Self::Budget,
        Self::Malformed,
    ];

    /// The name on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::TurnLimit => "turn_limit",
            Self::TokenLimit => "token_limit",
            Self::Deadline => "deadline",
            Self::Budget => "budget",
            Self::Malformed => "malformed",
        }
    }
}

/// Who wrote the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerSource {
    /// The policy.
    Policy,
    /// The large model; the text is unchanged.
    LargeModel,
}

impl AnswerSource {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::LargeModel => "large_model",
        }
    }
}

/// What both used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct EpisodeUsage {
    /// The policy.
    pub policy: CallUsage,
    /// The large model.
    pub large_model: CallUsage,
}

impl std::ops::AddAssign for EpisodeUsage {
    fn add_assign(&mut self, other: Self) {
        self.policy += other.policy;
        self.large_model += other.large_model;
    }
}

/// What an episode has used so far.
pub type Tally = Arc<Mutex<EpisodeUsage>>;

/// A finished episode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Episode {
    /// The answer; empty only without fallback.
    pub answer: String,
    /// Who wrote it.
    pub answer_source: AnswerSource,
    /// Why the episode ended.
    pub finish_reason: FinishReason,
    /// The turns.
    pub trajectory: Trajectory,
    /// The usage.
    pub usage: EpisodeUsage,
    /// Time spent waiting for either model, microseconds.
    #[serde(default)]
    pub model_micros: u64,
    /// The reply that is the answer, with its tool calls and finish reason, where one call of the
    /// large model made it. Not part of the record.
    #[serde(skip)]
    pub reply: Option<Reply>,
}

impl Episode {
    /// Whether the answer ended before it was complete: at a token limit, at the deadline, or by a
    /// content filter. Of a record, which lacks `reply`, it is known where the policy wrote the
    /// answer, or where the answer is the reply to a prompt of a turn.
    pub fn is_cut_off(&self) -> bool {
        let turns = &self.trajectory.turns;
        match (&self.reply, self.answer_source) {
            (Some(reply), _) => reply.is_cut_off(),
            (None, AnswerSource::LargeModel) => is_cut_reply(turns, &self.answer),
            (None, AnswerSource::Policy) => match turns.last() {
                Some(turn) if matches!(turn.action, Action::Answer(_)) => is_unfinished(turn),
                // A turn that the deadline cuts off is not among the turns.
                _ => self.finish_reason == FinishReason::Deadline,
            },
        }
    }
}

/// Whether a reply in these turns has this text and ended before it was complete.
fn is_cut_reply(turns: &[Turn], text: &str) -> bool {
    let mut seen = turns.iter().filter_map(|turn| turn.observation.as_ref());
    seen.any(|seen| seen.cut_off && seen.reply == text)
}

/// Whether the token limit cut the answer of a turn off.
fn is_unfinished(turn: &Turn) -> bool {
    let closing = format!("</{ANSWER}>");
    turn.finish == TurnFinish::Length && !turn.text.trim_end().ends_with(&closing)
}

/// Why an episode has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EpisodeErrorKind {
    /// The policy failed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The large model failed; the policy was never shown that as a reply.
    #[error(transparent)]
    LargeModel(#[from] LargeModelError),
    /// A template failed.
    #[error("{0}")]
    Protocol(Reason),
    /// The deadline passed before anything could be answered.
    #[error("the deadline of {limit_ms} ms passed before there was any reply to the question")]
    Deadline {
        /// The limit.
        limit_ms: u64,
    },
    /// The budget does not cover a single reply.
    #[error("the budget of {max_cost} was spent before there was any reply to the question")]
    Budget {
        /// The limit.
        max_cost: f64,
    },
    /// The prompt of a given turn is too long once its references are resolved.
    #[error(
        "`turns[{turn}].interaction_prompt` has more than {max} bytes with its references resolved, the bound `episode.prompt_bytes`"
    )]
    PromptTooLong {
        /// Which turn, from 0.
        turn: usize,
        /// The limit.
        max: usize,
    },
    /// The answer did not have the requested form, even at the second attempt.
    #[error("the large model's answer does not have the requested form: {reason}")]
    Unfit {
        /// What is wrong with it.
        reason: String,
    },
    /// The policy's answer turned out to be malformed after some of it was streamed.
    #[error("the policy's answer is malformed, and its beginning was streamed already")]
    Malformed,
    /// The caller is gone.
    #[error("the caller is gone")]
    Cancelled,
}

impl Hint for EpisodeErrorKind {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Policy(error) => return error.hint(),
            Self::LargeModel(error) => return error.hint(),
            Self::Deadline { .. } => "raise `deadline_ms`".into(),
            Self::Budget { .. } => "raise `max_cost`".into(),
            Self::Malformed => "ask again, or without streaming, where the fallback applies".into(),
            Self::Unfit { .. } => "use a model that follows such forms, or relax the form".into(),
            Self::Protocol(reason) => return reason.hint(),
            Self::PromptTooLong { .. } | Self::Cancelled => return None,
        })
    }
}

impl EpisodeErrorKind {
    /// Whether it failed only because its caller is gone.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled | Self::Policy(PolicyError::Cancelled))
    }

    /// The kind as one word, for traces.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Policy(_) => "policy",
            Self::LargeModel(_) => "large_model",
            Self::Protocol(_) => "protocol",
            Self::Deadline { .. } => "deadline",
            Self::Budget { .. } => "budget",
            Self::PromptTooLong { .. } => "prompt_too_long",
            Self::Unfit { .. } => "unfit",
            Self::Malformed => "malformed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl From<ProtocolError> for EpisodeErrorKind {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error.reason())
    }
}

/// An episode that failed, and what it had used by then.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{kind}")]
pub struct EpisodeError {
    /// Why.
    #[source]
    pub kind: EpisodeErrorKind,
    /// The usage up to the failure.
    pub usage: EpisodeUsage,
}

/// Stands for a prompt.
type ReplyKey = [u8; 32];
/// Replies by prompt, so that a repeated prompt is not billed twice.
type Replies = HashMap<ReplyKey, String>;
