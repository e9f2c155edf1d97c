//! The measurements of a step.

use super::objective::ObjectiveSums;
use crate::train::metrics::Values;

/// The measurements of a step.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepFigures {
    pub(super) sums: ObjectiveSums,
    /// Updates made.
    pub(super) updates: f64,
    /// Updates dropped because their gradient was not finite.
    pub(super) dropped: f64,
    pub(super) norm: f64,
    pub(super) learning_rate: f64,
    /// Differences between rollout and trainer log-probabilities, over the first update.
    pub(super) logprob_diff: f64,
    pub(super) logprob_diff_tokens: f64,
    /// The largest of them.
    pub(super) logprob_diff_max: f64,
}

impl StepFigures {
    /// Mean entropy of the sampled tokens.
    pub fn entropy(&self) -> Option<f64> {
        self.mean(self.sums.entropy)
    }

    /// Share of clipped tokens.
    pub fn clip_fraction(&self) -> Option<f64> {
        self.mean(self.sums.clipped_low + self.sums.clipped_high)
    }

    /// Mean difference between rollout and trainer log-probabilities.
    pub fn rollout_logprob_diff(&self) -> Option<f64> {
        (self.logprob_diff_tokens > 0.0).then(|| self.logprob_diff / self.logprob_diff_tokens)
    }

    /// Mean divergence from the reference; meaningful if the objective has a KL term.
    pub fn kl(&self) -> Option<f64> {
        self.mean(self.sums.kl)
    }

    fn mean(&self, sum: f64) -> Option<f64> {
        (self.sums.tokens > 0.0).then(|| sum / self.sums.tokens)
    }

    /// By name, for the log.
    pub fn values(&self, has_kl: bool) -> Values {
        let mut values = vec![("learning_rate", self.learning_rate)];
        let mut push = |name, value: Option<f64>| values.extend(value.map(|value| (name, value)));
        push("loss", (self.updates > 0.0).then(|| self.sums.loss / self.updates));
        let norm = (self.updates > 0.0).then(|| self.norm / self.updates);
        // A server may not report it.
        push("gradient_norm", norm.filter(|norm| norm.is_finite()));
        push("entropy", self.entropy());
        push("kl", self.kl().filter(|_| has_kl));
        push("ratio", self.mean(self.sums.ratio));
        push("approx_kl", self.mean(self.sums.approx_kl));
        push("clip_low", self.mean(self.sums.clipped_low));
        push("clip_high", self.mean(self.sums.clipped_high));
        let displaced = self.mean(self.sums.displaced);
        push("displaced_tokens", displaced.filter(|_| self.sums.displaced > 0.0));
        push("rollout_logprob_diff", self.rollout_logprob_diff());
        push(
            "rollout_logprob_diff_max",
            self.rollout_logprob_diff().map(|_| self.logprob_diff_max),
        );
        push("dropped_updates", Some(self.dropped));
        values
    }
}
