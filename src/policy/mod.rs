//! The port to the policy: the small model that thinks, prompts and answers.

use std::borrow::Cow;
use std::ops::ControlFlow;

use async_trait::async_trait;
use secrecy::SecretString;

use crate::engine::{EngineError, Sampling};
use crate::hint::{Hint, Reason};
use crate::large_model::{FailedCalls, LargeModelError, Prices, UnseenUsage, Waiting};
use crate::protocol::Piece;
use crate::tokenization::{TokenizeError, TokenizerError};
use crate::trajectory::{TokenTrace, TokenUsage, TurnFinish};

mod direct;
mod program;
mod remote;
mod scripted;
mod stepped;
mod token;

pub use direct::{DIRECT, DirectPolicy};
pub use program::ProgramPolicy;
pub use remote::RemotePolicy;
pub use scripted::ScriptedPolicy;
pub use stepped::{ExternalTurn, StepHandle, SteppedPolicy, TurnRequest};
pub use token::TokenPolicy;

/// A turn that could not be sampled.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PolicyError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The policy's endpoint failed.
    #[error("the policy's endpoint failed: {0}")]
    Remote(#[from] LargeModelError),
    /// The policy's program failed.
    #[error("the policy's program `{command}` failed: {reason}")]
    Program {
        /// The program and its arguments.
        command: String,
        /// What happened.
        reason: String,
    },
    /// Text could not be tokenised.
    #[error("the policy's tokenizer failed: {0}")]
    Tokenizer(Reason),
    /// The text is far beyond the policy's context; it was not tokenised.
    #[error("a text of {bytes} bytes does not fit a context of {context} tokens")]
    TextTooLong {
        /// The length of the text.
        bytes: usize,
        /// The context.
        context: usize,
    },
    /// The receiver of the turn's text is gone.
    #[error("the caller is gone")]
    Cancelled,
}

impl Hint for PolicyError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Engine(error) => error.hint(),
            Self::Remote(error) => error.hint(),
            Self::Tokenizer(reason) => reason.hint(),
            Self::Program { .. } | Self::TextTooLong { .. } | Self::Cancelled => None,
        }
    }
}

impl From<TokenizeError> for PolicyError {
    fn from(error: TokenizeError) -> Self {
        match error {
            TokenizeError::TooLong { bytes, context } => Self::TextTooLong { bytes, context },
            TokenizeError::Busy => EngineError::Overloaded.into(),
            TokenizeError::Failed(reason) => Self::Tokenizer(reason.into()),
        }
    }
}

impl From<TokenizerError> for PolicyError {
    fn from(error: TokenizerError) -> Self {
        Self::Tokenizer(error.reason())
    }
}

/// Takes a turn's text as it is written.
#[async_trait]
pub trait TurnSink: Send {
    /// More text of the turn. `Break` ends the turn: nothing that follows can matter.
    async fn text(&mut self, text: &str) -> Result<ControlFlow<()>, PolicyError>;

    /// Set by a policy behind an endpoint while its turn waits to be sent.
    fn waiting(&self) -> Waiting {
        Waiting::default()
    }

    /// Takes the usage of such a policy's failed calls in whose place another model was asked.
    fn failed_calls(&self) -> FailedCalls {
        FailedCalls::default()
    }

    /// Takes what such a policy uses beside the text of a turn.
    fn unseen(&self) -> UnseenUsage {
        UnseenUsage::default()
    }
}

#[cfg(test)]
#[async_trait]
impl TurnSink for String {
    async fn text(&mut self, text: &str) -> Result<ControlFlow<()>, PolicyError> {
        self.push_str(text);
        Ok(ControlFlow::Continue(()))
    }
}

/// What a policy wrote in one turn.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyTurn {
    /// Why it stopped.
    pub finish: TurnFinish,
    /// Usage of the turn, without [`TurnSink::failed_calls`]. A policy that reuses the computation of
    /// earlier turns still reports every token it was conditioned on.
    pub usage: TokenUsage,
    /// Cost of the turn, in the operator's currency; 0 for a policy that runs here.
    pub cost: f64,
}

/// What a policy begins an episode with.
#[derive(Debug, Clone, Copy)]
pub struct PolicyOpening<'a> {
    /// Its opening message, a user turn.
    pub pieces: &'a [Piece],
    /// How its tokens are drawn.
    pub sampling: Sampling,
    /// The caller's own `Authorization` header, used where the policy is behind an endpoint that
    /// has no key of its own.
    pub authorization: Option<&'a SecretString>,
    /// Whose episode it is; 0 where callers are not known apart.
    pub caller: u64,
}

impl<'a> PolicyOpening<'a> {
    /// An opening for no caller in particular.
    pub fn new(pieces: &'a [Piece], sampling: Sampling) -> Self {
        Self { pieces, sampling, authorization: None, caller: 0 }
    }
}

/// A policy, ready for many episodes at once.
#[async_trait]
pub trait Policy: Send + Sync {
    /// The policy's name in replies and metrics.
    fn name(&self) -> &str;

    /// The prices of its tokens; none for a policy that runs here.
    fn prices(&self) -> Prices {
        Prices::default()
    }

    /// Whether all that its turns may cost is known.
    fn is_priced(&self) -> bool {
        true
    }

    /// Whether its turns are calls of an endpoint, which may be billed.
    fn is_remote(&self) -> bool {
        false
    }

    /// Begins an episode.
    async fn open(&self, opening: PolicyOpening<'_>)
    -> Result<Box<dyn PolicySession>, PolicyError>;

    /// The text of each token of a trace of this policy's, in order. A character of several tokens
    /// stands with the last of them. Empty for policies that do not expose their tokens.
    async fn token_texts(&self, _ids: &[u32]) -> Result<Vec<String>, PolicyError> {
        Ok(Vec::new())
    }

    /// Whether the policy is ready.
    async fn is_ready(&self) -> bool {
        true
    }
}

/// One episode's side of a policy. Dropping it, or the future of a turn, cancels what is running.
#[async_trait]
pub trait PolicySession: Send {
    /// Writes a turn of at most `max_tokens` tokens.
    async fn turn(
        &mut self,
        max_tokens: usize,
        sink: &mut dyn TurnSink,
    ) -> Result<PolicyTurn, PolicyError>;

    /// Appends a turn that the policy did not write, exactly as if it had.
    async fn given(&mut self, turn: &str) -> Result<(), PolicyError>;

    /// Appends what the policy is shown before its next turn.
    ///
    /// # Errors
    /// When the policy cannot take it: its context is full, or it has failed.
    async fn observe(&mut self, observation: &[Piece]) -> Result<(), PolicyError>;

    /// The token stream so far; empty for policies that do not expose their tokens.
    fn trace(&self) -> &TokenTrace;
}
