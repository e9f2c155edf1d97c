//! The objective over the trajectories of one update, for a learner that has scored them.

use super::collect::Sample;
use super::config::GrpoConfig;
use super::figures::StepFigures;
use super::learner::TraceScores;
use super::objective::{Objective, ObjectiveSums, SampledTokens, TokenGradients, UpdateSize};
use crate::trajectory::TokenTrace;

/// Scores by other policies than the updated one: for each trajectory, the log-probabilities of its
/// sampled tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct OtherScores<'a> {
    /// Under the policy before the step's first update, if this is a later one.
    pub before: Option<&'a [Vec<f64>]>,
    /// Under the reference, if the objective has a KL term.
    pub reference: Option<&'a [Vec<f64>]>,
}

/// An update in progress.
pub struct Update<'a> {
    objective: &'a Objective,
    samples: &'a [Sample<'a>],
    others: OtherScores<'a>,
    size: UpdateSize,
    /// Whether it is the first of its step: differences between rollout and learner are measured
    /// then.
    is_first: bool,
    sums: ObjectiveSums,
    figures: &'a mut StepFigures,
}

impl<'a> Update<'a> {
    /// Over all of `samples`. Adds its measurements to `figures`.
    pub(super) fn new(
        config: &'a GrpoConfig,
        samples: &'a [Sample<'a>],
        others: OtherScores<'a>,
        figures: &'a mut StepFigures,
    ) -> Self {
        let size = UpdateSize {
            sequences: samples.len(),
            tokens: samples.iter().map(|sample| sample.trace.action_count()).sum(),
        };
        let is_first = figures.updates + figures.dropped == 0.0;
        let sums = figures.sums;
        Self { objective: &config.objective, samples, others, size, is_first, sums, figures }
    }

    /// The trajectories.
    pub fn traces(&self) -> Vec<&'a TokenTrace> {
        self.samples.iter().map(|sample| sample.trace).collect()
    }

    /// The learning rate.
    pub fn learning_rate(&self) -> f64 {
        self.figures.learning_rate
    }

    /// Whether the objective depends on entropies, which then have a gradient.
    pub fn rewards_entropy(&self) -> bool {
        self.objective.entropy_coef != 0.0
    }

    /// The objective over the trajectories whose gradients were requested so far.
    pub fn loss(&self) -> f64 {
        self.sums.loss
    }

    /// The gradient of the objective with respect to the scores of trajectory `index`, which are
    /// `own`. To be called once for each trajectory.
    pub fn gradients(&mut self, index: usize, own: &TraceScores) -> TokenGradients {
        let sample = &self.samples[index];
        let log_probs = &own.log_probs;
        let rollout: Vec<f64> = sample.trace.action_log_probs().collect();
        if self.is_first {
            for (own, rollout) in log_probs.iter().zip(&rollout) {
                let logprob_diff = (own - rollout).abs();
                self.figures.logprob_diff += logprob_diff;
                self.figures.logprob_diff_max = self.figures.logprob_diff_max.max(logprob_diff);
            }
            self.figures.logprob_diff_tokens += rollout.len() as f64;
        }
        let old = match (self.objective.importance_cap, self.others.before) {
            (None, _) => &rollout,
            (Some(_), Some(before)) => &before[index],
            (Some(_), None) => log_probs,
        };
        let weights = self.objective.importance_cap.map(|cap| {
            let weight = |(old, rollout): (&f64, &f64)| {
                let weight = (old - rollout).exp();
                // `min` would make a number of what is none, and learn from it.
                if weight > cap { cap } else { weight }
            };
            old.iter().zip(&rollout).map(weight).collect::<Vec<f64>>()
        });
        let tokens = SampledTokens {
            log_probs,
            old,
            reference: self.others.reference.map(|all| &all[index][..]),
            weights: weights.as_deref(),
            entropies: &own.entropies,
            advantage: sample.advantage,
        };
        let mut gradients = TokenGradients::default();
        self.objective.add(&tokens, self.size, &mut gradients, &mut self.sums);
        gradients
    }

    /// Ends it with the learner's result, and adds it to the step's figures.
    pub(super) fn finish(self, norm: Option<f64>) {
        match norm {
            Some(norm) => {
                self.figures.sums = self.sums;
                self.figures.norm += norm;
                self.figures.updates += 1.0;
            }
            None => self.figures.dropped += 1.0,
        }
    }
}
