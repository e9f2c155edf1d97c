//! Why an episode has no reward.

/// What failed, where an episode has no reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The policy's engine or the large model, or both were too slow.
    Model,
    /// The reward's program or server.
    Reward,
    /// The large model that judges answers.
    Judge,
}

impl Cause {
    /// What failed, in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Model => "a model",
            Self::Reward => "the reward",
            Self::Judge => "the judge",
        }
    }
}

/// Why an episode has no reward; never the policy's doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutFailure {
    /// What went wrong.
    pub reason: String,
    /// What failed.
    pub cause: Cause,
    /// Whether it only follows from earlier failures: the call was not made because of them.
    pub is_consequence: bool,
    /// Whether it will fail again, however long the wait.
    pub is_final: bool,
}

impl RolloutFailure {
    /// One that may be over later.
    pub fn of(cause: Cause, reason: String) -> Self {
        Self { reason, cause, is_consequence: false, is_final: false }
    }
}
