//! A model with its optimizer: gradients accumulate over micro-batches, followed by one clipped
//! update.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::adamw::{AdamW, AdamWConfig, AdamWError, clip};
use super::checkpoint;
use super::error::TrainError;
use crate::model::{Gradients, Model, Tape};

/// Consecutive updates that may have no finite gradient.
const MAX_BAD_UPDATES: u32 = 5;

/// A model that is trained, and the state of its optimizer.
pub struct ModelOptimizer {
    /// The model.
    pub model: Model,
    adamw: AdamW,
    gradients: Gradients,
    clip_norm: f64,
}

/// Consecutive updates that were skipped because their gradient was not finite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BadUpdates(u32);

impl BadUpdates {
    /// Counts an update.
    ///
    /// # Errors
    /// Fails after too many consecutive bad ones.
    pub fn count(&mut self, is_bad: bool) -> Result<(), TrainError> {
        self.0 = if is_bad { self.0 + 1 } else { 0 };
        match self.0 {
            MAX_BAD_UPDATES.. => Err(TrainError::Diverged(self.0)),
            _ => Ok(()),
        }
    }
}

impl ModelOptimizer {
    /// With the current weights of `model`; with `checkpoint`, a folder, both continue from there.
    ///
    /// # Errors
    /// When a checkpoint is damaged or of another model.
    pub fn new(
        mut model: Model,
        weight_decay: f64,
        clip_norm: f64,
        checkpoint: Option<&Path>,
    ) -> Result<Self, TrainError> {
        let config = AdamWConfig { weight_decay, ..AdamWConfig::default() };
        let adamw = match checkpoint {
            None => AdamW::new(config, &model.trainable())?,
            Some(folder) => {
                model.load_trainable(&folder.join(checkpoint::TRAINABLE))?;
                AdamW::load(config, &model.trainable(), &folder.join(checkpoint::OPTIMIZER))?
            }
        };
        let gradients = model.gradients()?;
        Ok(Self { model, adamw, gradients, clip_norm })
    }

    /// Sets the gradients to zero.
    pub fn clear(&mut self) -> Result<(), TrainError> {
        Ok(self.gradients.clear()?)
    }

    /// Adds the gradient of a micro-batch, given the gradients of its log-probabilities and
    /// entropies.
    pub fn backward(
        &mut self,
        tape: Tape,
        d_log_probs: &[f32],
        d_entropies: Option<&[f32]>,
    ) -> Result<(), TrainError> {
        Ok(self.model.backward(tape, d_log_probs, d_entropies, &mut self.gradients)?)
    }

    /// Updates the model with the accumulated gradients. Returns their norm before clipping, or
    /// `None` if it or `loss` was not finite and the update was skipped.
    ///
    /// # Errors
    /// When the optimizer fails.
    pub fn update(&mut self, rate: f64, loss: f64) -> Result<Option<f64>, TrainError> {
        let clipped = match loss.is_finite() {
            true => clip(&mut self.gradients, self.clip_norm),
            false => Err(AdamWError::NonFinite),
        };
        match clipped {
            Ok(clipped) => {
                self.adamw.step(self.model.trainable_mut(), &clipped, rate)?;
                Ok(Some(clipped.norm))
            }
            Err(AdamWError::NonFinite) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes weights and optimizer into the folder of a checkpoint.
    pub fn save(&self, folder: &Path) -> Result<(), TrainError> {
        self.model.save_trainable(&folder.join(checkpoint::TRAINABLE))?;
        Ok(self.adamw.save(&folder.join(checkpoint::OPTIMIZER))?)
    }
}
