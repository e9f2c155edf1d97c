//! The trained side: policy, reference and optimizer, and one step of them.

use std::collections::VecDeque;
use std::path::Path;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::collect::Sample;
use super::config::GrpoConfig;
use super::objective::{KlEstimator, ObjectiveSums, SampledTokens, TokenGradients, UpdateSize};
use crate::model::Model;
use crate::seed::{Purpose, derive};
use crate::train::checkpoint;
use crate::train::error::TrainError;
use crate::train::metrics::Values;
use crate::train::optimize::ModelOptimizer;
use crate::train::pack::Pack;
use crate::train::run_folder::RunFolder;
use crate::trajectory::TokenTrace;

/// Trajectories that the divergence from the start is measured on.
const DIVERGENCE_SAMPLES: usize = 64;

/// What is trained, and what it is trained with.
pub struct Learner<'c> {
    config: &'c GrpoConfig,
    /// The policy and its optimizer.
    pub policy: ModelOptimizer,
    /// The policy before each of the last `max_policy_lag` steps, the oldest first: the episodes of
    /// the next steps are theirs.
    earlier: VecDeque<Model>,
    /// The policy as it was when the run began, with the adapter that it began with.
    reference: Model,
    /// What the learning rate of the schedule is multiplied by.
    pub rate_factor: f64,
    /// Steps done.
    pub step: u64,
}

/// What a step measured.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepFigures {
    sums: ObjectiveSums,
    /// Updates made.
    updates: f64,
    /// Updates dropped because their gradient was not finite.
    dropped: f64,
    norm: f64,
    learning_rate: f64,
    /// Over the first update: differences between rollout and trainer log-probabilities.
    gap: f64,
    gap_tokens: f64,
    /// The largest of them.
    gap_most: f64,
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
        (self.gap_tokens > 0.0).then(|| self.gap / self.gap_tokens)
    }

    /// Mean divergence from the reference; meaningful where the objective has a KL term.
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
        push("gradient_norm", (self.updates > 0.0).then(|| self.norm / self.updates));
        push("entropy", self.entropy());
        push("kl", self.kl().filter(|_| has_kl));
        push("ratio", self.mean(self.sums.ratio));
        push("approx_kl", self.mean(self.sums.approx_kl));
        push("clip_low", self.mean(self.sums.clipped_low));
        push("clip_high", self.mean(self.sums.clipped_high));
        let displaced = self.mean(self.sums.displaced);
        push("displaced_tokens", displaced.filter(|_| self.sums.displaced > 0.0));
        push("rollout_logprob_diff", self.rollout_logprob_diff());
        push("rollout_logprob_diff_max", self.rollout_logprob_diff().map(|_| self.gap_most));
        push("dropped_updates", Some(self.dropped));
        values
    }
}

impl<'c> Learner<'c> {
    /// A learner that begins with `start`, or goes on from the run's last checkpoint.
    ///
    /// # Errors
    /// When the checkpoint cannot be read, or the device has no memory left.
    pub fn new(
        config: &'c GrpoConfig,
        start: &Model,
        folder: &RunFolder,
    ) -> Result<Self, TrainError> {
        let latest = folder.latest();
        let mut earlier = VecDeque::new();
        if let Some((_, path)) = &latest {
            for age in (1..=config.max_policy_lag).rev() {
                let path = path.join(checkpoint::earlier(age));
                // There are fewer at the beginning, or where the configuration asked for fewer.
                if path.is_file() {
                    let mut model = start.clone();
                    model.load_trainable(&path)?;
                    earlier.push_back(model);
                }
            }
        }
        let (step, path) = latest.unzip();
        let policy = ModelOptimizer::new(
            start.clone(),
            config.weight_decay,
            config.clip_norm,
            path.as_deref(),
        )?;
        let reference = start.clone();
        let step = step.unwrap_or(0);
        Ok(Self { config, policy, earlier, reference, rate_factor: 1.0, step })
    }

    /// `start` with an optimizer that has done nothing yet.
    ///
    /// # Errors
    /// Fails where the model does.
    pub fn fresh(config: &GrpoConfig, start: &Model) -> Result<ModelOptimizer, TrainError> {
        ModelOptimizer::new(start.clone(), config.weight_decay, config.clip_norm, None)
    }

    /// Writes the policy, the earlier ones that have episodes in flight, and the optimizer into
    /// `folder`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), TrainError> {
        for (age, model) in (1..).zip(self.earlier.iter().rev()) {
            model.save_trainable(&folder.join(checkpoint::earlier(age)))?;
        }
        self.policy.save(folder)
    }

    /// The policy as it was in the checkpoint in `folder`.
    ///
    /// # Errors
    /// When the file cannot be read, or is of another model.
    pub fn saved(&self, folder: &Path) -> Result<Model, TrainError> {
        let mut model = self.policy.model.clone();
        model.load_trainable(&folder.join(checkpoint::TRAINABLE))?;
        Ok(model)
    }

    /// The policy after `step` steps, or the oldest after it that is kept; and after how many steps
    /// it was that.
    pub fn policy_after(&self, step: u64) -> (u64, &Model) {
        let age = (self.step.saturating_sub(step) as usize).min(self.earlier.len());
        let model = match age {
            0 => &self.policy.model,
            age => &self.earlier[self.earlier.len() - age],
        };
        (self.step - age as u64, model)
    }

    /// One step: updates with all of `samples`, divided as configured.
    ///
    /// # Errors
    /// When the device fails, or too many updates in a row were not finite.
    pub fn step(&mut self, samples: &[Sample<'_>]) -> Result<StepFigures, TrainError> {
        let mut figures = StepFigures {
            learning_rate: self.rate_factor
                * self.config.schedule.rate(self.step, self.config.steps),
            ..StepFigures::default()
        };
        let updates = self.config.updates_per_step;
        let mut samples = samples.to_vec();
        // The trainer's own log-probabilities from before the first update, where they are needed
        // and one update would have changed them.
        let mut before = None;
        if updates > 1 {
            let seed = derive(self.config.seed, Purpose::Order, &[self.step]);
            samples.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
            if self.config.objective.importance_cap.is_some() {
                before = Some(self.log_probs(&self.policy.model, &traces(&samples))?);
            }
        }
        // An update makes new tensors, so this keeps those there are and copies nothing.
        self.earlier.push_back(self.policy.model.clone());
        while self.earlier.len() > self.config.max_policy_lag {
            self.earlier.pop_front();
        }
        let size = samples.len().div_ceil(updates).max(1);
        for (index, part) in samples.chunks(size).enumerate() {
            let before = before.as_ref().map(|all| &all[index * size..index * size + part.len()]);
            self.update(part, before, &mut figures)?;
        }
        self.step += 1;
        Ok(figures)
    }

    fn update(
        &mut self,
        samples: &[Sample<'_>],
        before: Option<&[Vec<f64>]>,
        figures: &mut StepFigures,
    ) -> Result<(), TrainError> {
        let objective = &self.config.objective;
        let size = UpdateSize {
            sequences: samples.len(),
            tokens: samples.iter().map(|sample| sample.trace.action_count()).sum(),
        };
        let is_first = figures.updates + figures.dropped == 0.0;
        self.policy.clear()?;
        let mut sums = figures.sums;
        for pack in Pack::all(&traces(samples), self.config.micro_batch_tokens) {
            let (batch, selection) = (&pack.batch, &pack.selection);
            let temperature = self.config.temperature;
            let (scores, tape) = self.policy.model.forward(batch, selection, temperature)?;
            let reference = match objective.kl_coef {
                0.0 => None,
                _ => Some(self.reference.score(batch, selection, temperature)?),
            };
            let mut d_log_probs = vec![0.0; selection.len()];
            let mut d_entropies = vec![0.0; selection.len()];
            for member in &pack.members {
                let sample = &samples[member.index];
                let own = member.log_probs(&scores);
                let rollout = rollout_log_probs(sample.trace);
                if is_first {
                    for (own, rollout) in own.iter().zip(&rollout) {
                        figures.gap += (own - rollout).abs();
                        figures.gap_most = figures.gap_most.max((own - rollout).abs());
                    }
                    figures.gap_tokens += rollout.len() as f64;
                }
                let old = match (objective.importance_cap, before) {
                    (None, _) => rollout.clone(),
                    (Some(_), Some(before)) => before[member.index].clone(),
                    (Some(_), None) => own.clone(),
                };
                let weights = objective.importance_cap.map(|cap| {
                    let weight = |(old, rollout): (&f64, &f64)| (old - rollout).exp().min(cap);
                    old.iter().zip(&rollout).map(weight).collect::<Vec<f64>>()
                });
                let reference = reference.as_ref().map(|scores| member.log_probs(scores));
                let tokens = SampledTokens {
                    log_probs: &own,
                    old: &old,
                    reference: reference.as_deref(),
                    weights: weights.as_deref(),
                    entropies: &member.entropies(&scores),
                    advantage: sample.advantage,
                };
                let mut token_gradients = TokenGradients::default();
                objective.add(&tokens, size, &mut token_gradients, &mut sums);
                member.add(&token_gradients.log_probs, &mut d_log_probs);
                member.add(&token_gradients.entropies, &mut d_entropies);
            }
            let entropies = (objective.entropy_coef != 0.0).then(|| narrow(&d_entropies));
            let log_probs = narrow(&d_log_probs);
            self.policy.backward(tape, &log_probs, entropies.as_deref())?;
        }
        match self.policy.update(figures.learning_rate, sums.loss)? {
            Some(norm) => {
                figures.sums = sums;
                figures.norm += norm;
                figures.updates += 1.0;
            }
            None => figures.dropped += 1.0,
        }
        Ok(())
    }

    /// How far the policy that sampled `samples` is from the one at the start, nats a token.
    ///
    /// # Errors
    /// When the device fails.
    pub fn divergence(&self, samples: &[&TokenTrace]) -> Result<Option<f64>, TrainError> {
        let samples = &samples[..samples.len().min(DIVERGENCE_SAMPLES)];
        let (mut sum, mut tokens) = (0.0, 0.0);
        for (trace, reference) in samples.iter().zip(self.log_probs(&self.reference, samples)?) {
            for (own, reference) in rollout_log_probs(trace).into_iter().zip(reference) {
                sum += KlEstimator::K3.estimate(own, reference).0;
                tokens += 1.0;
            }
        }
        Ok((tokens > 0.0).then(|| sum / tokens))
    }

    /// Log-probabilities of each trajectory's sampled tokens under `model`.
    fn log_probs(
        &self,
        model: &Model,
        samples: &[&TokenTrace],
    ) -> Result<Vec<Vec<f64>>, TrainError> {
        let mut all = vec![Vec::new(); samples.len()];
        for pack in Pack::all(samples, self.config.micro_batch_tokens) {
            let scores = model.score(&pack.batch, &pack.selection, self.config.temperature)?;
            for member in &pack.members {
                all[member.index] = member.log_probs(&scores);
            }
        }
        Ok(all)
    }
}

fn traces<'a>(samples: &[Sample<'a>]) -> Vec<&'a TokenTrace> {
    samples.iter().map(|sample| sample.trace).collect()
}

/// The log-probabilities that the sampled tokens were sampled with.
fn rollout_log_probs(trace: &TokenTrace) -> Vec<f64> {
    let sampled = trace.log_probs.iter().zip(&trace.action_mask).filter(|(_, sampled)| **sampled);
    sampled.map(|(log_prob, _)| f64::from(*log_prob)).collect()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}
