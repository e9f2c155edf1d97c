//! The port to what samples tokens: token ids in, sampled ids with log-probabilities out.
//!
//! Which engine runs a policy is `config::PolicyEngine`; `cli::assemble` builds it, and
//! `tests/it/policy_contract.rs` runs the same contract over all of them.

pub mod config;
#[cfg(feature = "mistralrs")]
pub mod mistralrs;
pub mod native;
pub mod tokens;

use std::borrow::Cow;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::hint::{Hint, Reason};
pub use crate::sampling::Sampling;
use crate::trajectory::SampledToken;

/// One request for tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// The prompt. Never empty.
    pub prompt: Vec<u32>,
    /// How to draw.
    pub sampling: Sampling,
    /// Sampling one of these ends the sequence; it is the last token reported.
    pub stop_ids: Vec<u32>,
    /// Upper bound on sampled tokens; at least 1.
    pub max_tokens: usize,
    /// Report tokens as they are sampled, or all at the end (cheaper for bulk rollouts).
    pub stream: bool,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// A stop id was sampled.
    StopId,
    /// `max_tokens` or the context length was reached.
    Length,
}

/// What an engine reports while it serves a request. After `Done` or `Failed` nothing follows.
#[derive(Debug, Clone, PartialEq)]
pub enum GenerateEvent {
    /// Tokens sampled since the last event, in order; never empty.
    Tokens(Vec<SampledToken>),
    /// The sequence is complete.
    Done(StopReason),
    /// The request failed; the engine still serves others.
    Failed(EngineError),
}

/// Why an engine could not serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The prompt does not fit the model's context.
    #[error("the prompt of {tokens} tokens does not fit the context of {context} tokens")]
    PromptTooLong {
        /// Length of the prompt.
        tokens: usize,
        /// The model's context length.
        context: usize,
    },
    /// The request is invalid for any model.
    #[error("the engine cannot take this request: {0}")]
    InvalidRequest(String),
    /// The engine cannot give exact log-probabilities with these sampling settings.
    #[error("the engine cannot sample with these settings: {0}")]
    Sampling(Reason),
    /// A server that samples tokens failed, or cannot be reached.
    #[error("the token server `{server}` failed: {reason}")]
    Server {
        /// Its address.
        server: String,
        /// What happened.
        reason: Reason,
    },
    /// A server has another model than the policy.
    #[error("the token server `{server}` has another model than the policy: {reason}")]
    OtherModel {
        /// Its address.
        server: String,
        /// What differs.
        reason: Reason,
    },
    /// The model's probabilities for a token are not numbers.
    #[error("after {tokens} tokens, the model's probabilities are not numbers")]
    NotNumbers {
        /// The tokens before it.
        tokens: usize,
    },
    /// The queue is full.
    #[error("the engine's queue is full")]
    Overloaded,
    /// The engine stopped while the request was in flight.
    #[error("the engine stopped: {0}")]
    Stopped(String),
    /// The engine could not be built.
    #[error("cannot load the model from `{path}`: {reason}")]
    Load {
        /// What was to be loaded.
        path: String,
        /// What went wrong.
        reason: Reason,
    },
}

impl Hint for EngineError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::PromptTooLong { .. } => {
                "shorten the question, or lower `episode.observation_chars`".into()
            }
            Self::Overloaded => "retry later, or raise `policy.queue`".into(),
            Self::NotNumbers { .. } => {
                "its weights may be damaged, or its values too large for the type that it is computed in: try the model in another form".into()
            }
            Self::Sampling(reason)
            | Self::Server { reason, .. }
            | Self::OtherModel { reason, .. }
            | Self::Load { reason, .. } => return reason.hint(),
            Self::InvalidRequest(_) | Self::Stopped(_) => return None,
        })
    }
}

/// Samples tokens for many requests at once.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Starts a request. Events arrive on the receiver; dropping it cancels the request without
    /// affecting others. The channel holds at most `max_tokens + 1` events.
    fn generate(&self, request: GenerateRequest) -> mpsc::UnboundedReceiver<GenerateEvent>;

    /// The longest sequence, prompt and sampled tokens together, that the model can hold.
    fn context_length(&self) -> usize;

    /// Whether the engine can serve now. Rebuilds it if possible.
    async fn is_ready(&self) -> bool;
}
