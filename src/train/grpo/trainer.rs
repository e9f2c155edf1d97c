//! The steps of GRPO over a learner: the policies that there were, and the one that is learnt.

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
use super::update::{OtherScores, Update, rollout_log_probs};
use crate::model::Model;
use crate::seed::{Purpose, derive};
use crate::train::checkpoint;
use crate::train::error::TrainError;
use crate::train::optimize::BadUpdates;
use crate::train::pack;
use crate::train::run_folder::RunFolder;
use crate::trajectory::TokenTrace;

/// Trajectories that the divergence from the start is measured on.
const DIVERGENCE_SAMPLES: usize = 64;

/// Trains a policy step by step.
pub struct Trainer<'c> {
    config: &'c GrpoConfig,
    learner: Box<dyn Learner>,
    /// The policy before each of the last `max_policy_lag` steps, the oldest first: the episodes of
    /// the next steps are theirs.
    earlier: VecDeque<Model>,
    /// The policy as it was when the run began, with the adapter that it began with.
    reference: Model,
    /// Updates in a row that were dropped.
    pub bad_updates: BadUpdates,
    /// What the learning rate of the schedule is multiplied by.
    pub rate_factor: f64,
    /// Steps done.
    pub step: u64,
}

impl<'c> Trainer<'c> {
    /// Trains in this process, from `start` or from the run's last checkpoint.
    ///
    /// # Errors
    /// Fails where a checkpoint is damaged or of another model.
    pub fn local(
        config: &'c GrpoConfig,
        start: &Model,
        folder: &RunFolder,
    ) -> Result<Self, TrainError> {
        let checkpoint = folder.latest().map(|(_, path)| path);
        let learner = LocalLearner::new(config, start, checkpoint.as_deref())?;
        Self::new(config, Box::new(learner), start, folder)
    }

    /// Goes on with what `learner` has, which began with `start` or with the run's last checkpoint.
    ///
    /// # Errors
    /// Fails where a checkpoint is damaged or of another model.
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
                // There are fewer at the beginning, or where the configuration asked for fewer.
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

    /// Writes the policy, the earlier ones that have episodes in flight, and the optimizer into
    /// `folder`.
    ///
    /// # Errors
    /// Fails where something cannot be written.
    pub fn save(&mut self, folder: &Path) -> Result<(), TrainError> {
        for (age, model) in (1..).zip(self.earlier.iter().rev()) {
            model.save_trainable(&folder.join(checkpoint::earlier(age)))?;
        }
        self.learner.save(folder)
    }

    /// The policy as it is.
    pub fn policy(&self) -> &Model {
        self.learner.policy()
    }

    /// The policy as it was in the checkpoint in `folder`.
    ///
    /// # Errors
    /// Fails where the checkpoint is damaged or of another model.
    pub fn saved(&self, folder: &Path) -> Result<Model, TrainError> {
        let mut model = self.policy().clone();
        model.load_trainable(&folder.join(checkpoint::TRAINABLE))?;
        Ok(model)
    }

    /// The policy after `step` steps, or the oldest after it that is kept; and after how many steps
    /// it was that.
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
    /// Fails where the learner does, or after too many updates in a row that had to be dropped.
    pub fn step(&mut self, samples: &[Sample<'_>]) -> Result<StepFigures, TrainError> {
        let mut figures = StepFigures {
            learning_rate: self.rate_factor
                * self.config.schedule.rate(self.step, self.config.steps),
            ..StepFigures::default()
        };
        let updates = self.config.updates_per_step;
        let mut samples = samples.to_vec();
        // The learner's own log-probabilities from before the first update, where they are needed
        // and one update would have changed them.
        let mut before = None;
        if updates > 1 {
            let seed = derive(self.config.seed, Purpose::Order, &[self.step]);
            samples.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
            if self.config.objective.importance_cap.is_some() {
                let traces: Vec<_> = samples.iter().map(|sample| sample.trace).collect();
                before = Some(self.learner.log_probs(&traces)?);
            }
        }
        // An update makes new tensors, so this keeps those there are and copies nothing.
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

    /// How far the policy that sampled `samples` is from the one at the start, nats a token.
    ///
    /// # Errors
    /// Fails where the model does.
    pub fn divergence(&self, samples: &[&TokenTrace]) -> Result<Option<f64>, TrainError> {
        let samples = &samples[..samples.len().min(DIVERGENCE_SAMPLES)];
        let (mut sum, mut tokens) = (0.0, 0.0);
        for (trace, reference) in samples.iter().zip(self.reference_log_probs(samples)?) {
            for (own, reference) in rollout_log_probs(trace).into_iter().zip(reference) {
                sum += KlEstimator::K3.estimate(own, reference).0;
                tokens += 1.0;
            }
        }
        Ok((tokens > 0.0).then(|| sum / tokens))
    }

    /// Log-probabilities of each trajectory's sampled tokens under the reference, which is here
    /// wherever the learner is.
    fn reference_log_probs(&self, traces: &[&TokenTrace]) -> Result<Vec<Vec<f64>>, TrainError> {
        let GrpoConfig { micro_batch_tokens, temperature, .. } = *self.config;
        Ok(pack::log_probs(&self.reference, traces, micro_batch_tokens, temperature)?)
    }
}
