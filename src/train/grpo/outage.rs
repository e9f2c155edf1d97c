//! Episodes that fail together: counted, and run again after a pause.

use std::time::Duration;

use super::config::OutageConfig;
use super::failure::{Cause, RolloutFailure};
use crate::train::error::TrainError;

/// The failures among episodes that were run together.
#[derive(Debug, Default)]
pub struct Failures {
    /// Episodes that were started.
    pub started: usize,
    /// Those that failed, retry included.
    pub failed: usize,
    /// Those whose reward failed.
    of_reward: usize,
    /// Those whose judge failed.
    of_judge: usize,
    /// Whether one of the failures is permanent.
    is_final: bool,
    /// The last failure that is not a mere consequence of others; a permanent one if there is one.
    pub last: Option<RolloutFailure>,
}

impl Failures {
    /// No failures yet, among `started` episodes.
    pub fn among(started: usize) -> Self {
        Self { started, ..Self::default() }
    }

    /// Counts a failure.
    pub fn add(&mut self, failure: RolloutFailure) {
        self.failed += 1;
        self.of_reward += usize::from(failure.cause == Cause::Reward);
        self.of_judge += usize::from(failure.cause == Cause::Judge);
        self.is_final |= failure.is_final;
        self.last = Some(match self.last.take() {
            Some(last) => last.or_later(failure),
            None => failure,
        });
    }

    /// Whether so many episodes failed that a model, the reward or the judge must be down, or one
    /// failed permanently.
    pub fn is_outage(&self) -> bool {
        self.is_final || self.failed * 2 > self.started
    }

    /// The cause of most failures.
    fn cause(&self) -> Cause {
        match self.last {
            Some(RolloutFailure { cause, is_final: true, .. }) => cause,
            _ if self.of_judge * 2 > self.failed => Cause::Judge,
            _ if self.of_reward * 2 > self.failed => Cause::Reward,
            _ => Cause::Model,
        }
    }
}

/// The pauses of one step, or of its evaluation.
pub struct Pauses {
    step: u64,
    max_retries: u32,
    pause: Duration,
    retries: u32,
    /// The failure before the last pause.
    before: Option<RolloutFailure>,
}

impl Pauses {
    /// No pauses yet.
    pub fn new(config: &OutageConfig, step: u64) -> Self {
        let pause = Duration::from_millis(config.pause_ms);
        Self { step, max_retries: config.retries, pause, retries: 0, before: None }
    }

    /// Waits before the episodes are run again.
    ///
    /// # Errors
    /// Where that is of no use, or was tried often enough.
    pub async fn after(&mut self, failures: Failures) -> Result<(), TrainError> {
        let cause = failures.cause();
        let Failures { failed, started, is_final, last, .. } = failures;
        // While a circuit breaker is open, an attempt has no failure of its own: what opened it
        // happened in one before.
        let last = match (self.before.take(), last) {
            (Some(before), Some(last)) if before.cause == last.cause => Some(before.or_later(last)),
            (before, last) => last.or(before),
        };
        self.before = last.clone();
        let reason = last.map(|failure| failure.reason).unwrap_or_default();
        let (step, retries) = (self.step, self.retries);
        if is_final || retries == self.max_retries {
            return Err(TrainError::EpisodesFail { cause, step, failed, started, retries, reason });
        }
        let pause_ms = self.pause.as_millis() as u64;
        tracing::warn!(%cause, failed, started, reason, pause_ms, "most episodes failed");
        tokio::time::sleep(self.pause).await;
        self.pause *= 2;
        self.retries += 1;
        Ok(())
    }
}
