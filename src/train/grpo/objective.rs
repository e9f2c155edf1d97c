//! The objective of an update and its gradient: arithmetic on the log-probabilities of sampled
//! tokens. Pure; tokens that were not sampled are never part of it.

use serde::{Deserialize, Serialize};

use crate::train::config::{BOUND, FINITE, within};
use crate::train::error::TrainError;

/// The objective.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Objective {
    /// Below a ratio of `1 - clip_low`, a token is pushed no further down.
    pub clip_low: f64,
    /// Above a ratio of `1 + clip_high`, a token is pushed no further up.
    pub clip_high: f64,
    /// Bounds the loss of a token with a negative advantage, however likely it became: ratios are
    /// capped at this (dual clip).
    pub dual_clip: Option<f64>,
    /// The unit of importance ratios.
    pub importance: Importance,
    /// How tokens are weighted.
    pub aggregation: Aggregation,
    /// Caps the importance weight that corrects for the difference between the probabilities at
    /// sampling and the trainer's before the step: the engine's rounding and, with
    /// `max_policy_lag`, the updates in between. If set, ratios are relative to the latter;
    /// otherwise to the former, so that clipping bounds the distance from the sampling policy.
    pub importance_cap: Option<f64>,
    /// The weight of the KL term; 0 for none.
    pub kl_coef: f64,
    /// The estimator of the KL term.
    pub kl_estimator: KlEstimator,
    /// The weight of the entropy bonus.
    pub entropy_coef: f64,
    /// The weight of the LLDS regulariser (arXiv 2512.04220; 0.1 there) on trajectories that were
    /// no worse than their group: if the likelihood of such a trajectory falls, each token that has
    /// become less likely is penalised by the decrease of its log-probability. 0 for none. It acts
    /// from a step's second update on, or relative to the sampling policy.
    pub llds_coef: f64,
}

impl Default for Objective {
    fn default() -> Self {
        Self {
            clip_low: 0.2,
            clip_high: 0.28,
            dual_clip: None,
            importance: Importance::Token,
            aggregation: Aggregation::TokenMean,
            importance_cap: None,
            kl_coef: 0.0,
            kl_estimator: KlEstimator::K3,
            entropy_coef: 0.0,
            llds_coef: 0.0,
        }
    }
}

impl Objective {
    /// Checks every number.
    ///
    /// # Errors
    /// Names the first invalid one.
    pub(super) fn check(&self) -> Result<(), TrainError> {
        let constant = match self.aggregation {
            Aggregation::DrGrpo(constant) => constant,
            Aggregation::TokenMean | Aggregation::SequenceMean => 1.0,
        };
        within(&[
            ("objective.clip_low", self.clip_low, BOUND),
            ("objective.clip_high", self.clip_high, BOUND),
            ("objective.dual_clip", self.dual_clip.unwrap_or(1.0), 1.0..=f64::INFINITY),
            ("objective.importance_cap", self.importance_cap.unwrap_or(1.0), BOUND),
            ("objective.kl_coef", self.kl_coef, FINITE),
            ("objective.entropy_coef", self.entropy_coef, f64::MIN..=f64::MAX),
            ("objective.llds_coef", self.llds_coef, FINITE),
            ("objective.aggregation.dr_grpo", constant, 1e-9..=f64::MAX),
        ])
    }
}

/// The unit of importance ratios.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Importance {
    /// Each token.
    #[default]
    Token,
    /// Whole trajectories: the geometric mean over the sampled tokens (GSPO).
    Sequence,
}

/// The weighting of an update's tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// All tokens equally.
    #[default]
    TokenMean,
    /// All trajectories equally: the mean over each, then over them.
    SequenceMean,
    /// The sum over each trajectory divided by this constant, then the mean over them (Dr.GRPO):
    /// long trajectories do not weigh less per token.
    DrGrpo(f64),
}

/// An estimator of the divergence from the reference, from `d = reference − policy`,
/// log-probabilities of a sampled token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// `−d`: unbiased, of either sign.
    K1,
    /// `d²/2`: biased, low variance.
    K2,
    /// `exp(d) − d − 1`: unbiased, never negative.
    #[default]
    K3,
}

impl KlEstimator {
    /// The estimate and its gradient in the policy's log-probability.
    pub fn estimate(self, log_prob: f64, reference: f64) -> (f64, f64) {
        let d = reference - log_prob;
        match self {
            Self::K1 => (-d, 1.0),
            Self::K2 => (d * d / 2.0, -d),
            Self::K3 => (d.exp() - d - 1.0, 1.0 - d.exp()),
        }
    }
}

/// The sampled tokens of one trajectory. All slices have the same length; log-probabilities are
/// natural.
#[derive(Debug, Clone, Copy)]
pub struct SampledTokens<'a> {
    /// Under the current policy.
    pub log_probs: &'a [f64],
    /// Under the policy that ratios are relative to.
    pub old: &'a [f64],
    /// Under the reference; required if `kl_coef` is not 0.
    pub reference: Option<&'a [f64]>,
    /// Weights that correct for the actual sampling distribution.
    pub weights: Option<&'a [f64]>,
    /// Entropies of the distributions that the tokens were sampled from, nats.
    pub entropies: &'a [f64],
    /// The trajectory's advantage.
    pub advantage: f64,
}

/// The size of a whole update, of which micro-batches are parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpdateSize {
    /// Trajectories.
    pub sequences: usize,
    /// Sampled tokens.
    pub tokens: usize,
}

/// The gradient of the objective with respect to each sampled token's scores.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenGradients {
    /// With respect to the log-probabilities.
    pub log_probs: Vec<f64>,
    /// With respect to the entropies.
    pub entropies: Vec<f64>,
}

/// Sums over the tokens of an update.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ObjectiveSums {
    /// The objective.
    pub loss: f64,
    /// Number of tokens.
    pub tokens: f64,
    /// Ratios.
    pub ratio: f64,
    /// Clipped tokens: ratio below its bound, negative advantage.
    pub clipped_low: f64,
    /// Clipped tokens: ratio above its bound, positive advantage.
    pub clipped_high: f64,
    /// Estimates of the distance that the update has moved the policy (k3 against the old one).
    pub approx_kl: f64,
    /// Estimates of the divergence from the reference.
    pub kl: f64,
    /// Entropies.
    pub entropy: f64,
    /// Tokens with a penalty for lost likelihood.
    pub displaced: f64,
}

impl Objective {
    /// Adds the trajectory to `sums` and appends its gradients to `gradients`.
    pub fn add(
        &self,
        tokens: &SampledTokens<'_>,
        size: UpdateSize,
        gradients: &mut TokenGradients,
        sums: &mut ObjectiveSums,
    ) {
        let length = tokens.log_probs.len();
        let share = self.share(length, size);
        let log_ratios: Vec<f64> =
            tokens.log_probs.iter().zip(tokens.old).map(|(new, old)| new - old).collect();
        let mean = log_ratios.iter().sum::<f64>() / length.max(1) as f64;
        let first = gradients.log_probs.len();
        // Whether the trajectory's likelihood is protected, and has fallen.
        let is_displaced = self.llds_coef != 0.0 && tokens.advantage >= 0.0 && mean < 0.0;
        // The value of the trajectory's common ratio, if it has one.
        let mut common = 0.0;
        for (at, &log_ratio) in log_ratios.iter().enumerate() {
            let ratio = match self.importance {
                Importance::Token => log_ratio.exp(),
                Importance::Sequence => mean.exp(),
            };
            let weight = share * tokens.weights.map_or(1.0, |weights| weights[at]);
            let (surrogate, gradient) = self.surrogate(ratio, tokens.advantage);
            let (kl, kl_gradient) = tokens.reference.map_or((0.0, 0.0), |reference| {
                self.kl_estimator.estimate(tokens.log_probs[at], reference[at])
            });
            let mut d_log_prob = share * self.kl_coef * kl_gradient;
            match self.importance {
                Importance::Token => d_log_prob -= weight * gradient * ratio,
                Importance::Sequence => common -= weight * gradient * ratio,
            }
            if is_displaced && log_ratio < 0.0 {
                d_log_prob -= share * self.llds_coef;
                sums.loss -= share * self.llds_coef * log_ratio;
                sums.displaced += 1.0;
            }
            gradients.log_probs.push(d_log_prob);
            gradients.entropies.push(-share * self.entropy_coef);

            let entropy = tokens.entropies[at];
            sums.loss +=
                share * (self.kl_coef * kl - self.entropy_coef * entropy) - weight * surrogate;
            sums.tokens += 1.0;
            sums.ratio += ratio;
            let (low, high) = (1.0 - self.clip_low, 1.0 + self.clip_high);
            sums.clipped_low += f64::from(ratio < low && tokens.advantage < 0.0);
            sums.clipped_high += f64::from(ratio > high && tokens.advantage > 0.0);
            sums.approx_kl += KlEstimator::K3.estimate(0.0, log_ratio).0;
            sums.kl += kl;
            sums.entropy += entropy;
        }
        for gradient in &mut gradients.log_probs[first..] {
            *gradient += common / length as f64;
        }
    }

    /// The weight of each token of a trajectory of `length` tokens.
    fn share(&self, length: usize, size: UpdateSize) -> f64 {
        let sequences = size.sequences.max(1) as f64;
        match self.aggregation {
            Aggregation::TokenMean => 1.0 / size.tokens.max(1) as f64,
            Aggregation::SequenceMean => 1.0 / (sequences * length.max(1) as f64),
            Aggregation::DrGrpo(constant) => 1.0 / (sequences * constant),
        }
    }

    /// The value of a token at this ratio, and its derivative with respect to the ratio.
    fn surrogate(&self, ratio: f64, advantage: f64) -> (f64, f64) {
        let clipped = ratio.clamp(1.0 - self.clip_low, 1.0 + self.clip_high) * advantage;
        if let Some(most) = self.dual_clip
            && advantage < 0.0
            && ratio > most
        {
            return (most * advantage, 0.0);
        }
        let plain = ratio * advantage;
        if plain <= clipped { (plain, advantage) } else { (clipped, 0.0) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn objective() -> Objective {
        Objective::default()
    }

    const OLD: [f64; 4] = [-1.0, -1.1, -1.2, -1.3];

    fn run<'a>(
        objective: &Objective,
        log_probs: &'a [f64],
        change: impl FnOnce(&mut SampledTokens<'a>),
    ) -> (TokenGradients, ObjectiveSums) {
        let mut tokens = SampledTokens {
            log_probs,
            old: &OLD[..log_probs.len()],
            reference: None,
            weights: None,
            entropies: &[0.5; 4][..log_probs.len()],
            advantage: 1.0,
        };
        change(&mut tokens);
        let (mut gradients, mut sums) = (TokenGradients::default(), ObjectiveSums::default());
        let size = UpdateSize { sequences: 3, tokens: 10 };
        objective.add(&tokens, size, &mut gradients, &mut sums);
        (gradients, sums)
    }

    /// The value of one token with ratio `ratio`, and whether it still has a gradient.
    #[test]
    fn ratios_are_clipped_where_they_should_be() {
        let dual = Objective { dual_clip: Some(3.0), ..objective() };
        for (objective, ratio, advantage, worth, pulls) in [
            (objective(), 1.0, 2.0, 2.0, true),
            (objective(), 1.2, 1.0, 1.2, true),
            (objective(), 1.5, 1.0, 1.28, false),
            (objective(), 0.5, 1.0, 0.5, true),
            (objective(), 0.9, -1.0, -0.9, true),
            (objective(), 0.5, -1.0, -0.8, false),
            (objective(), 5.0, -1.0, -5.0, true),
            (dual, 5.0, -1.0, -3.0, false),
            (dual, 2.9, -1.0, -2.9, true),
            (dual, 5.0, 1.0, 1.28, false),
            (objective(), 1.1, 0.0, 0.0, false),
        ] {
            let (gradients, sums) = run(&objective, &[f64::ln(ratio) - 1.0], |tokens| {
                tokens.advantage = advantage;
            });
            assert!((sums.loss + worth / 10.0).abs() < 1e-12, "{ratio} {advantage}: {sums:?}");
            let gradient = if pulls { -ratio * advantage / 10.0 } else { 0.0 };
            assert!((gradients.log_probs[0] - gradient).abs() < 1e-12, "{ratio} {advantage}");
            let (low, high) = (ratio < 0.8 && advantage < 0.0, ratio > 1.28 && advantage > 0.0);
            assert_eq!((sums.clipped_low, sums.clipped_high), (f64::from(low), f64::from(high)));
        }
    }

    #[test]
    fn divergence_estimates_and_their_gradients() {
        for (estimator, value, gradient) in [
            (KlEstimator::K1, 0.5, 1.0),
            (KlEstimator::K2, 0.125, 0.5),
            (KlEstimator::K3, (-0.5f64).exp() - 0.5, 1.0 - (-0.5f64).exp()),
        ] {
            let (found, found_gradient) = estimator.estimate(-1.0, -1.5);
            assert!((found - value).abs() < 1e-12 && (found_gradient - gradient).abs() < 1e-12);
        }
    }

    #[test]
    fn gradients_are_those_of_the_loss() {
        let log_probs = [-1.05, -0.7, -1.4, -0.95];
        const REFERENCE: [f64; 4] = [-1.2, -1.0, -1.0, -1.1];
        const WEIGHTS: [f64; 4] = [1.0, 0.7, 1.3, 1.0];
        let all = [Importance::Token, Importance::Sequence].into_iter().flat_map(|importance| {
            [Aggregation::TokenMean, Aggregation::SequenceMean, Aggregation::DrGrpo(7.0)]
                .into_iter()
                .flat_map(move |aggregation| {
                    [KlEstimator::K1, KlEstimator::K2, KlEstimator::K3].into_iter().map(
                        move |kl_estimator| Objective {
                            importance,
                            aggregation,
                            kl_estimator,
                            kl_coef: 0.1,
                            entropy_coef: 0.01,
                            ..objective()
                        },
                    )
                })
        });
        for objective in all {
            for advantage in [0.8, -1.1] {
                let loss = |log_probs: &[f64]| {
                    run(&objective, log_probs, |tokens| {
                        tokens.reference = Some(&REFERENCE);
                        tokens.weights = Some(&WEIGHTS);
                        tokens.advantage = advantage;
                    })
                };
                let (gradients, _) = loss(&log_probs);
                for at in 0..log_probs.len() {
                    let moved = |by: f64| {
                        let mut moved = log_probs;
                        moved[at] += by;
                        loss(&moved).1.loss
                    };
                    let difference = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                    let error = (gradients.log_probs[at] - difference).abs();
                    assert!(error < 1e-8, "{objective:?} {advantage} {at}: {error}");
                }
            }
        }
    }

    /// `tests/golden/llds/make.py` made the numbers with PyTorch.
    #[test]
    fn the_likelihood_of_what_was_good_is_kept_as_published() {
        #[derive(Deserialize)]
        struct Case {
            coefficient: f64,
            old: Vec<Vec<f64>>,
            new: Vec<Vec<f64>>,
            advantages: Vec<f64>,
            loss: f64,
            gradients: Vec<Vec<f64>>,
        }
        let text = include_str!("../../../tests/golden/llds/cases.json");
        for case in serde_json::from_str::<Vec<Case>>(text).unwrap() {
            let size = UpdateSize {
                sequences: case.old.len(),
                tokens: case.old.iter().map(Vec::len).sum(),
            };
            let run = |llds_coef| {
                let objective = Objective { llds_coef, ..objective() };
                let (mut found, mut sums) = (Vec::new(), ObjectiveSums::default());
                for ((old, new), &advantage) in case.old.iter().zip(&case.new).zip(&case.advantages)
                {
                    let tokens = SampledTokens {
                        log_probs: new,
                        old,
                        reference: None,
                        weights: None,
                        entropies: &vec![0.0; new.len()],
                        advantage,
                    };
                    let mut gradients = TokenGradients::default();
                    objective.add(&tokens, size, &mut gradients, &mut sums);
                    found.push(gradients.log_probs);
                }
                (sums.loss, found)
            };
            // The regulariser's contribution to the objective.
            let ((without, plain), (with, kept)) = (run(0.0), run(case.coefficient));
            assert!((with - without - case.loss).abs() < 1e-9, "{with} {without} {}", case.loss);
            for ((plain, kept), expected) in plain.iter().zip(&kept).zip(&case.gradients) {
                for ((plain, kept), expected) in plain.iter().zip(kept).zip(expected) {
                    assert!((kept - plain - expected).abs() < 1e-9);
                }
            }
        }
    }

    #[test]
    fn tokens_are_weighted_as_asked() {
        for (aggregation, share) in [
            (Aggregation::TokenMean, 0.1),
            (Aggregation::SequenceMean, 1.0 / 6.0),
            (Aggregation::DrGrpo(5.0), 1.0 / 15.0),
        ] {
            let objective = Objective { aggregation, entropy_coef: 0.5, ..objective() };
            let (gradients, sums) = run(&objective, &[-1.0, -1.1], |_| {});
            for at in 0..2 {
                assert!((gradients.log_probs[at] + share).abs() < 1e-12);
                assert!((gradients.entropies[at] + 0.5 * share).abs() < 1e-12);
            }
            assert!((sums.loss + 2.0 * share * 1.25).abs() < 1e-12);
            assert!((sums.ratio / sums.tokens - 1.0).abs() < 1e-12 && sums.approx_kl.abs() < 1e-12);
        }
    }
}
