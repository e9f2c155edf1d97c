//! The one loop that serving, training and evaluation share: the policy thinks and prompts, the
//! large model replies, until there is an answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::chat::ChatMessage;
use crate::engine::Sampling;
use crate::large_model::{LargeModel, LargeModelError, Reply};
use crate::policy::{Policy, PolicyError};
use crate::protocol::{Protocol, ProtocolError};
use crate::trajectory::{TokenUsage, Trajectory};

mod config;
mod estimate;
mod event;
mod form;
mod run;
#[cfg(test)]
mod tests;
mod watch;

pub use config::Limits;
pub use event::{EpisodeEvent, EventSink, Silent};
pub use form::{AnswerForm, Check};
pub use run::run_episode;

/// The target of the spans of an episode, its turns and its calls.
pub const SPANS: &str = "prompt_r1::spans";
/// The target of the events that hold what was asked and said.
pub const CONTENTS: &str = "prompt_r1::contents";

/// Who takes part in an episode.
#[derive(Clone, Copy)]
pub struct Participants<'a> {
    /// Thinks and prompts.
    pub policy: &'a dyn Policy,
    /// Replies.
    pub large_model: &'a dyn LargeModel,
    /// Frames what each of them reads.
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
    /// Whether `conversation` holds the question already and goes on after it, as it does once
    /// tools were called.
    pub is_continued: bool,
    /// Parts of the question that are no text (images, audio): they go to the large model with the
    /// first prompt.
    pub attachments: Vec<Value>,
    /// The first turns, written by the caller: the policy goes on behind them.
    pub turns: Vec<GivenTurn>,
    /// How the policy samples.
    pub sampling: Sampling,
    /// Fields for every call of the large model.
    pub large_model_params: Arc<Map<String, Value>>,
    /// What is asked of the answer beside its being right.
    pub form: AnswerForm,
    /// What the episode may use up.
    pub limits: Limits,
    /// When the clock of the episode's deadline started.
    pub started: Instant,
    /// The caller's own key, for endpoints without one.
    pub authorization: Option<SecretString>,
    /// What the episode has used so far, for whoever must know even when it is cancelled.
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
            turns: Vec::new(),
            sampling,
            large_model_params: Arc::default(),
            form: AnswerForm::default(),
            limits: Limits::default(),
            started: Instant::now(),
            authorization: None,
            tally: Tally::default(),
        }
    }
}

/// A turn that the caller wrote in the policy's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenTurn {
    /// What the policy is to have thought.
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
    /// The policy answered, or handed on a reply.
    Answered,
    /// The policy used up its turns.
    TurnLimit,
    /// The policy used up its tokens, in a turn or in all.
    TokenLimit,
    /// The wall time was over.
    Deadline,
    /// The money was spent.
    Budget,
    /// The policy wrote something that is neither a prompt nor an answer.
    Malformed,
}

impl FinishReason {
    /// Every reason, for series that start at zero.
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

/// Whose words the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerSource {
    /// The policy's.
    Policy,
    /// The large model's, unchanged.
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

/// What one role used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RoleUsage {
    /// Turns written, or calls made.
    pub calls: u64,
    /// Tokens read and written, summed over the calls.
    #[serde(flatten)]
    pub tokens: TokenUsage,
    /// What it cost, in the currency of the configured prices.
    pub cost: f64,
}

impl std::ops::AddAssign for RoleUsage {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.tokens += other.tokens;
        self.cost += other.cost;
    }
}

/// What both used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct EpisodeUsage {
    /// The policy.
    pub policy: RoleUsage,
    /// The large model.
    pub large_model: RoleUsage,
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
    /// Whose words it is.
    pub answer_source: AnswerSource,
    /// Why the episode ended.
    pub finish_reason: FinishReason,
    /// What happened.
    pub trajectory: Trajectory,
    /// What it took.
    pub usage: EpisodeUsage,
    /// Time spent waiting for either model, microseconds.
    #[serde(default)]
    pub model_micros: u64,
    /// The reply that is the answer, with its tool calls and its reason to end, where one call of
    /// the large model made it. Not part of the record.
    #[serde(skip)]
    pub reply: Option<Reply>,
}

impl Episode {
    /// The policy's own answer: what a reward counts.
    pub fn policy_answer(&self) -> Option<&str> {
        (self.answer_source == AnswerSource::Policy && self.finish_reason == FinishReason::Answered)
            .then_some(self.answer.as_str())
    }
}

/// Why an episode brought no answer at all.
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
    Protocol(String),
    /// The deadline passed before anything could be answered.
    #[error(
        "the deadline of {limit_ms} ms passed before there was any reply\nhint: raise `deadline_ms`"
    )]
    Deadline {
        /// The limit.
        limit_ms: u64,
    },
    /// The budget does not even pay for one reply.
    #[error(
        "the budget of {max_cost} was spent before there was any reply\nhint: raise `max_cost`"
    )]
    Budget {
        /// The limit.
        max_cost: f64,
    },
    /// A given turn's prompt stands for too much.
    #[error(
        "`turns[{turn}].interaction_prompt` has more than {most} bytes with its references resolved, the bound `episode.prompt_bytes`"
    )]
    PromptTooLong {
        /// Which turn, from 0.
        turn: usize,
        /// The limit.
        most: usize,
    },
    /// The answer does not have the form that was asked for, even at the second try.
    #[error(
        "the large model's answer does not have the form that was asked for: {reason}\nhint: ask a model that keeps to such forms, or relax the form"
    )]
    Unfit {
        /// What is wrong with it.
        reason: String,
    },
    /// Whoever asked is gone.
    #[error("nobody listens any more")]
    Cancelled,
}

impl EpisodeErrorKind {
    /// The kind in one word, for traces.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Policy(_) => "policy",
            Self::LargeModel(_) => "large_model",
            Self::Protocol(_) => "protocol",
            Self::Deadline { .. } => "deadline",
            Self::Budget { .. } => "budget",
            Self::PromptTooLong { .. } => "prompt_too_long",
            Self::Unfit { .. } => "unfit",
            Self::Cancelled => "cancelled",
        }
    }
}

impl From<ProtocolError> for EpisodeErrorKind {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// An episode that failed, and what it had used by then.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{kind}")]
pub struct EpisodeError {
    /// Why.
    #[source]
    pub kind: EpisodeErrorKind,
    /// What was used all the same.
    pub usage: EpisodeUsage,
}

/// Stands for a prompt.
type ReplyKey = [u8; 32];
/// Replies by prompt, so that a repeated prompt is not paid twice.
type Replies = HashMap<ReplyKey, String>;
