//! Outcomes of attempts at a large model, for metrics and fallbacks.

use std::time::Duration;

use super::error::LargeModelError;

/// The outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptOutcome {
    /// With a good response.
    Success,
    /// With this error status.
    Status(u16),
    /// Without a connection, or with a broken one.
    Unreachable,
    /// A time-out.
    Timeout,
    /// A response that is not a reply.
    Malformed,
    /// A failure inside this process, which says nothing about the endpoint.
    Local,
    /// The caller left, or its deadline passed.
    Cancelled,
}

impl AttemptOutcome {
    /// The outcome in one word, for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Status(_) => "status",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Malformed => "malformed",
            Self::Local => "local",
            Self::Cancelled => "cancelled",
        }
    }

    /// The error status, if there was one.
    pub fn code(self) -> Option<u16> {
        match self {
            Self::Status(code) => Some(code),
            _ => None,
        }
    }
}

impl From<&LargeModelError> for AttemptOutcome {
    fn from(error: &LargeModelError) -> Self {
        match error {
            LargeModelError::Unreachable { .. } => Self::Unreachable,
            LargeModelError::Local { .. } => Self::Local,
            LargeModelError::Timeout { .. } => Self::Timeout,
            LargeModelError::Status { status, .. } => Self::Status(*status),
            LargeModelError::Malformed { .. } => Self::Malformed,
            LargeModelError::Deadline { .. } | LargeModelError::CircuitOpen { .. } => {
                Self::Cancelled
            }
            // The endpoint worked.
            LargeModelError::Rejected { .. } => Self::Success,
        }
    }
}

/// Receives the outcome of every attempt. Called inline, so it must be fast.
pub trait AttemptObserver: Send + Sync {
    /// An attempt at the large model of this name ended after this time. For a stream: when its
    /// last piece was read.
    fn attempt(&self, model: &str, outcome: AttemptOutcome, elapsed: Duration);
}

/// Ignores every outcome.
impl AttemptObserver for () {
    fn attempt(&self, _model: &str, _outcome: AttemptOutcome, _elapsed: Duration) {}
}
