//! The steps of GRPO over a learner: the learning policy, and earlier ones.

use std::collections::VecDeque;
use std::path::Path;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::collect::Sample;
use super::config::GrpoConfig;
use super::figures::StepFigures;
use super::learner::Learner;
use super::local::LocalLearner;
use super::objective::KlEstimator;
use super::update::{OtherScores, Update};
use crate::model::Model;
use crate::seed::{Purpose, derive};
use crate::train::checkpoint;
use crate::train::error::TrainError;
use crate::train::optimize::BadUpdates;
use crate::train::pack;
use crate::train::run_folder::RunFolder;
use crate::trajectory::TokenTrace;

/// Trajectories on which the divergence from the start is measured.
const DIVERGENCE_SAMPLES: usize = 64;

/// Trains a policy step by step.
pub struct Trainer<'c> {
    config: &'c GrpoConfig,
    learner: Box<dyn Learner>,
    /// The policy before each of the last `max_policy_lag` steps, oldest first, for the episodes of
    /// the next steps.
    earlier: VecDeque<Model>,
    /// The policy at the start of the run, with its initial adapter.
    reference: Model,
    /// Consecutive updates that were dropped.
    pub bad_updates: BadUpdates,
    /// A factor on the learning rate of the schedule.
    pub rate_factor: f64,
    /// Steps done.
    pub step: u64,
}

impl<'c> Trainer<'c> {
    /// Trains in this process, from `start` or from the run's last checkpoint.
    ///
    /// # Errors
    /// When a checkpoint is damaged or of another model.
    pub fn local(
        config: &'c GrpoConfig,
        start: &Model,
        folder: &RunFolder,
    ) -> Result<Self, TrainError> {
        let checkpoint = folder.latest().map(|(_, path)| path);
        let learner = LocalLearner::new(config, start, checkpoint.as_deref())?;
        Self::new(config, Box::new(learner), start, folder)
    }

    /// Continues with the state of `learner`, which began with `start` or the run's last
    /// checkpoint.
    ///
    /// # Errors
    /// When a checkpoint is damaged or of another model.
    pub fn new(
        config: &'c GrpoConfig,
        learner: Box<dyn Learner>,
        start: &Model,
        folder: &RunFolder,
    ) -> Result<Self, TrainError> {
        let latest = folder.latest();
        let mut earlier = VecDeque::new();
        if let Some((_, path)) = &latest {
            for age in (1..=config.max_policy_lag).rev() {
                let path = path.join(checkpoint::earlier(age));
                // There are fewer in the first steps, or if the configuration had a lower lag.
                if path.is_file() {
                    let mut model = learner.policy().clone();
                    model.load_trainable(&path)?;
                    earlier.push_back(model);
                }
            }
        }
        Ok(Self {
            config,
            learner,
            earlier,
            reference: start.clone(),
            bad_updates: BadUpdates::default(),
            rate_factor: 1.0,
            step: latest.map_or(0, |(step, _)| step),
        })
    }

    /// Writes the policy, earlier ones with episodes in flight, and the optimizer into `folder`.
    ///
    /// # Errors
    /// When something cannot be written.
    pub fn save(&mut self, folder: &Path) -> Result<(), TrainError> {
        for (age, model) in (1..).zip(self.earlier.iter().rev()) {
            model.save_trainable(&folder.join(checkpoint::earlier(age)))?;
        }
        self.learner.save(folder)
    }

    /// The current policy.
    pub fn policy(&self) -> &Model {
        self.learner.policy()
    }

    /// The policy in the checkpoint in `folder`.
    ///
    /// # Errors
    /// When the checkpoint is damaged or of another model.
    pub fn saved(&self, folder: &Path) -> Result<Model, TrainError> {
        let mut model = self.policy().clone();
        model.load_trainable(&folder.join(checkpoint::TRAINABLE))?;
        Ok(model)
    }

    /// The policy after `step` steps, or the oldest later one that is available; with its step.
    pub fn policy_after(&self, step: u64) -> (u64, &Model) {
        let age = (self.step.saturating_sub(step) as usize).min(self.earlier.len());
        let model = match age {
            0 => self.policy(),
            age => &self.earlier[self.earlier.len() - age],
        };
        (self.step - age as u64, model)
    }

    /// One step: updates with all of `samples`, divided as configured.
    ///
    /// # Errors
    /// When the learner fails, or after too many consecutive updates that were dropped.
    pub fn step(&mut self, samples: &[Sample<'_>]) -> Result<StepFigures, TrainError> {
        let mut figures = StepFigures {
            learning_rate: self.rate_factor
                * self.config.schedule.rate(self.step, self.config.steps),
            ..StepFigures::default()
        };
        let updates = self.config.updates_per_step;
        let mut samples = samples.to_vec();
        // The learner's own log-probabilities before the first update, if they are needed and an
        // update would change them.
        let mut before = None;
        if updates > 1 {
            let seed = derive(self.config.seed, Purpose::Order, &[self.step]);
            samples.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
            if self.config.objective.importance_cap.is_some() {
                let traces: Vec<_> = samples.iter().map(|sample| sample.trace).collect();
                before = Some(self.learner.log_probs(&traces)?);
            }
        }
        // An update makes new tensors, so this shares the current ones and copies nothing.
        self.earlier.push_back(self.policy().clone());
        while self.earlier.len() > self.config.max_policy_lag {
            self.earlier.pop_front();
        }
        let size = samples.len().div_ceil(updates).max(1);
        for (index, part) in samples.chunks(size).enumerate() {
            let before = before.as_ref().map(|all| &all[index * size..index * size + part.len()]);
            let reference = match self.config.objective.kl_coef {
                0.0 => None,
                _ => Some(self.reference_log_probs(
                    &part.iter().map(|sample| sample.trace).collect::<Vec<_>>(),
                )?),
            };
            let others = OtherScores { before, reference: reference.as_deref() };
            let mut update = Update::new(self.config, part, others, &mut figures);
            let norm = self.learner.update(&mut update)?;
            update.finish(norm);
            self.bad_updates.count(norm.is_none())?;
        }
        self.step += 1;
        Ok(figures)
    }

    /// The divergence of the policy that sampled `samples` from the initial one, nats per token.
    ///
    /// # Errors
    /// When the model fails.
    pub fn divergence(&self, samples: &[&TokenTrace]) -> Result<Option<f64>, TrainError> {
        let samples = &samples[..samples.len().min(DIVERGENCE_SAMPLES)];
        let (mut sum, mut tokens) = (0.0, 0.0);
        for (trace, reference) in samples.iter().zip(self.reference_log_probs(samples)?) {
            for (own, reference) in trace.action_log_probs().zip(reference) {
                sum += KlEstimator::K3.estimate(own, reference).0;
                tokens += 1.0;
            }
        }
        Ok((tokens > 0.0).then(|| sum / tokens))
    }

    /// Log-probabilities of each trajectory's sampled tokens under the reference, which is always
    /// local.
    fn reference_log_probs(&self, traces: &[&TokenTrace]) -> Result<Vec<Vec<f64>>, TrainError> {
        let GrpoConfig { micro_batch_tokens, temperature, .. } = *self.config;
        Ok(pack::log_probs(&self.reference, traces, micro_batch_tokens, temperature)?)
    }
}
