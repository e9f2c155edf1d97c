//! A learner in this process: the model with its own backward pass and optimizer.

use std::path::Path;

use super::config::GrpoConfig;
use super::learner::{Learner, TraceScores};
use super::update::Update;
use crate::model::Model;
use crate::train::error::TrainError;
use crate::train::optimize::ModelOptimizer;
use crate::train::pack::{self, Pack};
use crate::trajectory::TokenTrace;

/// Trains in this process.
pub struct LocalLearner {
    policy: ModelOptimizer,
    micro_batch_tokens: usize,
    temperature: f32,
}

impl LocalLearner {
    /// Begins with `start`, or continues from the checkpoint in the folder `checkpoint`.
    ///
    /// # Errors
    /// When the checkpoint is damaged or of another model.
    pub fn new(
        config: &GrpoConfig,
        start: &Model,
        checkpoint: Option<&Path>,
    ) -> Result<Self, TrainError> {
        let policy =
            ModelOptimizer::new(start.clone(), config.weight_decay, config.clip_norm, checkpoint)?;
        let GrpoConfig { micro_batch_tokens, temperature, .. } = *config;
        Ok(Self { policy, micro_batch_tokens, temperature })
    }
}

impl Learner for LocalLearner {
    fn policy(&self) -> &Model {
        &self.policy.model
    }

    fn log_probs(&mut self, traces: &[&TokenTrace]) -> Result<Vec<Vec<f64>>, TrainError> {
        let model = &self.policy.model;
        Ok(pack::log_probs(model, traces, self.micro_batch_tokens, self.temperature)?)
    }

    fn update(&mut self, update: &mut Update<'_>) -> Result<Option<f64>, TrainError> {
        self.policy.clear()?;
        for pack in Pack::all(&update.traces(), self.micro_batch_tokens) {
            let (batch, selection) = (&pack.batch, &pack.selection);
            let (scores, tape) = self.policy.model.forward(batch, selection, self.temperature)?;
            let mut d_log_probs = vec![0.0; selection.len()];
            let mut d_entropies = vec![0.0; selection.len()];
            for member in &pack.members {
                let own = TraceScores {
                    log_probs: member.log_probs(&scores),
                    entropies: member.entropies(&scores),
                };
                let gradients = update.gradients(member.index, &own);
                member.add(&gradients.log_probs, &mut d_log_probs);
                member.add(&gradients.entropies, &mut d_entropies);
            }
            let entropies = update.rewards_entropy().then(|| narrow(&d_entropies));
            self.policy.backward(tape, &narrow(&d_log_probs), entropies.as_deref())?;
        }
        self.policy.update(update.learning_rate(), update.loss())
    }

    fn save(&mut self, folder: &Path) -> Result<(), TrainError> {
        self.policy.save(folder)
    }
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}
