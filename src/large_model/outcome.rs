//! How an attempt at a large model ended, for metrics and fallbacks.

use std::time::Duration;

use super::error::LargeModelError;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptOutcome {
    /// With a good response.
    Success,
    /// With this error status.
    Status(u16),
    /// Without a connection, or with a broken one.
    Unreachable,
    /// With a time-out.
    Timeout,
    /// With something that is no reply.
    Malformed,
    /// With a failure inside this process, which says nothing about the endpoint.
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
            // The endpoint did its part.
            LargeModelError::Rejected { .. } => Self::Success,
        }
    }
}

/// Receives the outcome of every attempt; called from within the call, so it must be quick.
pub trait AttemptObserver: Send + Sync {
    /// An attempt at the large model of this name ended, so long after it began. For a stream:
    /// when its last piece was read.
    fn attempt(&self, model: &str, outcome: AttemptOutcome, elapsed: Duration);
}

/// Ignores every outcome.
impl AttemptObserver for () {
    fn attempt(&self, _model: &str, _outcome: AttemptOutcome, _elapsed: Duration) {}
}
