//! The part of a model in a checkpoint: the tensors that training changes.

use std::path::Path;

use super::decoder_lm::Model;
use super::error::ModelError;
use super::files;
use crate::hint::Reason;

impl Model {
    /// Writes the trainable tensors under their names, in their own type.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save_trainable(&self, path: &Path) -> Result<(), ModelError> {
        files::save_tensors(path, &self.trainable())
    }

    /// Loads what [`Model::save_trainable`] wrote for a model of the same shape.
    ///
    /// # Errors
    /// When the file cannot be read, or a tensor is missing or of another shape or type.
    pub fn load_trainable(&mut self, path: &Path) -> Result<(), ModelError> {
        let invalid =
            |reason: Reason| ModelError::Invalid { path: path.display().to_string(), reason };
        let device = self.weights().embed.device().clone();
        let mut saved = files::load_tensors(path, &device)?;
        for (name, tensor) in self.trainable_mut() {
            let found =
                saved.remove(&name).ok_or_else(|| invalid(format!("has no `{name}`").into()))?;
            if found.shape() != tensor.shape() {
                return Err(invalid(format!("`{name}` is of another shape").into()));
            }
            if found.dtype() != tensor.dtype() {
                let (saved, wanted) = (found.dtype().as_str(), tensor.dtype().as_str());
                return Err(invalid(reason!(
                    "`{name}` is {saved}, not {wanted}";
                    hint: "continue in the type that the run began with, `dtype = \"{saved}\"`"
                )));
            }
            *tensor = found;
        }
        Ok(())
    }
}
