//! A model with its optimizer: gradients add up over micro-batches, then one clipped update.

use std::path::Path;

use super::adamw::{AdamW, AdamWConfig, AdamWError, clip};
use super::checkpoint;
use super::error::TrainError;
use crate::model::{Gradients, Model, Tape};

/// Updates in a row that may have no finite gradient.
const MAX_BAD_UPDATES: u32 = 5;

/// A model that is trained, and the state of its optimizer.
pub struct ModelOptimizer {
    /// The model.
    pub model: Model,
    adamw: AdamW,
    gradients: Gradients,
    clip_norm: f64,
    /// Updates in a row whose gradient was not finite.
    pub bad_updates: u32,
}

impl ModelOptimizer {
    /// For `model` as it is; with `checkpoint`, the folder of one, both go on from there.
    ///
    /// # Errors
    /// Fails where a checkpoint is damaged or of another model.
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
        Ok(Self { model, adamw, gradients, clip_norm, bad_updates: 0 })
    }

    /// Sets the gradients to zero.
    pub fn clear(&mut self) -> Result<(), TrainError> {
        Ok(self.gradients.clear()?)
    }

    /// Adds the gradient of a micro-batch, from those in its log-probabilities and entropies.
    pub fn backward(
        &mut self,
        tape: Tape,
        d_log_probs: &[f32],
        d_entropies: Option<&[f32]>,
    ) -> Result<(), TrainError> {
        Ok(self.model.backward(tape, d_log_probs, d_entropies, &mut self.gradients)?)
    }

    /// Updates the model with the gradients there are. Returns their norm before clipping, or
    /// `None` where it or `loss` was not finite, and the update was left out.
    ///
    /// # Errors
    /// Fails after too many such updates in a row.
    pub fn update(&mut self, rate: f64, loss: f64) -> Result<Option<f64>, TrainError> {
        let clipped = match loss.is_finite() {
            true => clip(&mut self.gradients, self.clip_norm),
            false => Err(AdamWError::NonFinite),
        };
        match clipped {
            Ok(clipped) => {
                self.adamw.step(self.model.trainable_mut(), &clipped, rate)?;
                self.bad_updates = 0;
                Ok(Some(clipped.norm))
            }
            Err(AdamWError::NonFinite) => {
                self.bad_updates += 1;
                match self.bad_updates {
                    MAX_BAD_UPDATES.. => Err(TrainError::Diverged(self.bad_updates)),
                    _ => Ok(None),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes weights and optimizer into the folder of a checkpoint.
    pub fn save(&self, folder: &Path) -> Result<(), TrainError> {
        self.model.save_trainable(&folder.join(checkpoint::TRAINABLE))?;
        Ok(self.adamw.save(&folder.join(checkpoint::OPTIMIZER))?)
    }
}
