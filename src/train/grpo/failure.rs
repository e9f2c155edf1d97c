//! Why an episode has no reward.

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

impl Cause {
    /// The cause in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Model => "a model",
            Self::Reward => "the reward",
            Self::Judge => "the judge",
        }
    }
}

/// Why an episode has no reward; never the policy's fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutFailure {
    /// What went wrong.
    pub reason: String,
    /// The cause.
    pub cause: Cause,
    /// Whether it is only a consequence of earlier failures: the call was not made because of them.
    pub is_consequence: bool,
    /// Whether it is permanent.
    pub is_final: bool,
}

impl RolloutFailure {
    /// A failure that may be temporary.
    pub fn of(cause: Cause, reason: String) -> Self {
        Self { reason, cause, is_consequence: false, is_final: false }
    }
}
