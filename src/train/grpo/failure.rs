//! Why an episode has no reward.

use std::fmt;

/// The cause of an episode without a reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The policy's engine or the large model failed, or both were too slow.
    Model,
    /// The reward's program or server.
    Reward,
    /// The large model that acts as the judge.
    Judge,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Model => "a model",
            Self::Reward => "the reward",
            Self::Judge => "the judge",
        })
    }
}

/// Why an episode has no reward; never the policy's fault.
#[derive(Debug, Clone, PartialEq)]
pub struct RolloutFailure {
    /// What went wrong.
    pub reason: String,
    /// The cause.
    pub cause: Cause,
    /// Whether it is only a consequence of earlier failures: the call was not made because of them.
    pub is_consequence: bool,
    /// Whether it is permanent.
    pub is_final: bool,
    /// What the large model cost, in all attempts.
    pub cost: f64,
}

impl RolloutFailure {
    /// A failure that may be temporary.
    pub fn of(cause: Cause, reason: String) -> Self {
        Self { reason, cause, is_consequence: false, is_final: false, cost: 0.0 }
    }

    /// The one of two to report: the later, unless the first is permanent, or the later is only a
    /// consequence of failures before it.
    pub fn or_later(self, later: Self) -> Self {
        let says_more = later.is_final || !later.is_consequence;
        if says_more && !self.is_final { later } else { self }
    }
}
