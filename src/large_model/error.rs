//! Errors of a large model, and which of them are worth a retry.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::hint::{Hint, Reason};
use crate::trajectory::TokenUsage;

/// A call without a reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LargeModelError {
    /// No connection could be made, or it broke.
    #[error("cannot reach the large model `{model}`: {reason}")]
    Unreachable {
        /// The model's name.
        model: String,
        /// The endpoint, without credentials.
        url: String,
        /// What the transport said.
        reason: String,
        /// Whether the request may have been served.
        was_sent: bool,
    },
    /// The call failed inside this process: it has no file descriptors left, or the model that
    /// runs here stopped.
    #[error("the large model `{model}` cannot be asked: {reason}")]
    Local {
        /// The model's name.
        model: String,
        /// What failed.
        reason: String,
    },
    /// A time limit passed.
    #[error("the large model `{model}` was too slow: no {phase} within {} ms", limit.as_millis())]
    Timeout {
        /// The model's name.
        model: String,
        /// What was waited for.
        phase: Phase,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The caller's deadline passed.
    #[error("the deadline passed {} the large model `{model}` was asked", moment(*was_sent))]
    Deadline {
        /// The model's name.
        model: String,
        /// Whether the request may have been served.
        was_sent: bool,
    },
    /// The endpoint answered with an error status.
    #[error("the large model `{model}` answered {status}: {message}")]
    Status {
        /// The model's name.
        model: String,
        /// The HTTP status.
        status: u16,
        /// The upstream's own message, or the head of its body.
        message: String,
        /// The upstream's `Retry-After`.
        retry_after: Option<Duration>,
        /// The upstream's error object, when it sent one.
        body: Option<Box<serde_json::Value>>,
        /// What was billed, where a part of a reply came before the error.
        billed: Option<Box<TokenUsage>>,
    },
    /// The endpoint's answer is not a reply.
    #[error("the large model `{model}` sent no valid reply: {reason}")]
    Malformed {
        /// The model's name.
        model: String,
        /// What was wrong with it.
        reason: String,
    },
    /// Too many recent calls failed; none is made until a pause is over.
    #[error("the large model `{model}` failed too often; the next try is in {} ms", retry_in.as_millis())]
    CircuitOpen {
        /// The model's name.
        model: String,
        /// The rest of the pause.
        retry_in: Duration,
    },
    /// The call itself cannot be made, such as a prompt longer than the model's context.
    #[error("the large model `{model}` cannot take this call: {reason}")]
    Rejected {
        /// The model's name.
        model: String,
        /// Why not.
        reason: Reason,
    },
}

impl Hint for LargeModelError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Unreachable { url, .. } => format!("check that `{url}` is right and up").into(),
            Self::Timeout { model, phase: Phase::RateLimit, .. } => {
                format!("raise the limits per minute of `large_models.{model}`, or send less")
                    .into()
            }
            Self::Timeout { model, .. } => {
                format!("raise the time-outs of `large_models.{model}`, or use a faster model")
                    .into()
            }
            Self::Malformed { .. } => {
                "`url` must point at an OpenAI-compatible API, usually ending in `/v1`".into()
            }
            Self::Status { status: 300..400, .. } => "set `url` to where the API is".into(),
            Self::Rejected { reason, .. } => return reason.hint(),
            Self::Local { .. }
            | Self::Deadline { .. }
            | Self::Status { .. }
            | Self::CircuitOpen { .. } => return None,
        })
    }
}

/// The part of a call that a time limit applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for room within the limits per minute.
    RateLimit,
    /// Waiting for a free slot.
    FreeSlot,
    /// Resolving, connecting and the TLS handshake.
    Connection,
    /// From the request to the response's headers.
    FirstByte,
    /// Between two pieces of the response's body.
    NextByte,
}

impl Phase {
    /// The phase as messages name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RateLimit => "room within the limits per minute",
            Self::FreeSlot => "free slot",
            Self::Connection => "connection",
            Self::FirstByte => "first byte",
            Self::NextByte => "next byte",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl LargeModelError {
    /// Whether the same call may be repeated later: it may succeed then, and was not billed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => !self.may_be_billed(),
            Self::Local { .. } => true,
            Self::Status { billed: Some(_), .. } => false,
            // A prepaid quota that is used up: waiting does not help.
            Self::Status { body: Some(body), .. } if is_quota(body) => false,
            Self::Status { status, .. } => is_transient_status(*status),
            Self::Malformed { .. }
            | Self::Deadline { .. }
            | Self::CircuitOpen { .. }
            | Self::Rejected { .. } => false,
        }
    }

    /// Whether the call may have been billed: it was made, and not refused.
    pub fn may_be_billed(&self) -> bool {
        match self {
            Self::Malformed { .. } => true,
            Self::Unreachable { was_sent, .. } | Self::Deadline { was_sent, .. } => *was_sent,
            Self::Timeout { phase, .. } => matches!(phase, Phase::FirstByte | Phase::NextByte),
            Self::Status { status, billed, .. } => billed.is_some() || is_gateway_timeout(*status),
            Self::CircuitOpen { .. } | Self::Local { .. } | Self::Rejected { .. } => false,
        }
    }

    /// What the call was billed, where the endpoint said so or a part of the reply was read.
    pub fn billed(&self) -> Option<TokenUsage> {
        match self {
            Self::Status { billed, .. } => billed.as_deref().copied(),
            _ => None,
        }
    }

    /// Whether another model may take the same call: the fault is this model's or its operator's,
    /// not the caller's.
    pub fn is_worth_another_model(&self) -> bool {
        match self {
            Self::Deadline { .. } => false,
            Self::Status { status, .. } => !matches!(status, 400 | 413 | 422),
            _ => true,
        }
    }
}

/// When a deadline passed, for its message.
fn moment(was_sent: bool) -> &'static str {
    if was_sent { "while" } else { "before" }
}

/// Whether a response of this status may differ later, and was not billed.
pub(super) fn is_transient_status(status: u16) -> bool {
    let is_unsupported = matches!(status, 501 | 505);
    let is_servers = status >= 500 && !is_unsupported && !is_gateway_timeout(status);
    matches!(status, 408 | 409 | 429) || is_servers
}

/// Whether a gateway gave up waiting: the model behind it may have continued, and billed the call.
pub fn is_gateway_timeout(status: u16) -> bool {
    matches!(status, 504 | 524)
}

/// Whether an error object says that a prepaid quota is used up.
pub(super) fn is_quota(error: &serde_json::Value) -> bool {
    ["code", "type"].iter().any(|key| error.get(*key).is_some_and(|it| it == "insufficient_quota"))
}

/// A name that no large model has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no large model is called `{name}`")]
pub struct UnknownModel {
    /// The name.
    pub name: String,
    /// The nearest name, and all of them.
    pub hint: String,
}

impl Hint for UnknownModel {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(self.hint.as_str().into())
    }
}
