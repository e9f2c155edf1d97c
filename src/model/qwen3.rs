//! The trainable Qwen3: per-token log-probabilities forward, their gradient backward.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::batch::{Batch, Selection, TokenScores};
use super::config::ModelConfig;
use super::error::ModelError;
use super::gradients::Gradients;
use super::weights::Weights;

/// A Qwen3. Cloning is cheap: clones share their tensors.
///
/// Tensors are replaced, never changed in place, so a clone is a snapshot.
#[derive(Debug, Clone)]
pub struct Model {
    config: ModelConfig,
    weights: Weights,
    recompute: bool,
}

/// What a forward pass leaves for its backward pass.
#[derive(Debug)]
pub struct Tape {}

impl Model {
    /// From weights in memory.
    pub fn new(config: ModelConfig, weights: Weights) -> Self {
        Self { config, weights, recompute: false }
    }

    /// From a folder with `config.json` and safetensors.
    pub fn load(folder: &Path, dtype: DType, device: &Device) -> Result<Self, ModelError> {
        let config = ModelConfig::load(folder)?;
        let weights = Weights::load(folder, &config, dtype, device)?;
        Ok(Self::new(config, weights))
    }

    /// Writes `config.json` and `model.safetensors` into `folder`, with the adapter merged in.
    pub fn save(&self, folder: &Path) -> Result<(), ModelError> {
        todo!("{folder:?}")
    }

    /// The shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The weights, without the adapter.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Trades time for memory: keep each layer's input only, and run the layer again on the way back.
    pub fn set_recompute(&mut self, recompute: bool) {
        self.recompute = recompute;
    }

    /// Tensors the optimizer may change, by name, in a fixed order: all weights, or the adapter's.
    pub fn trainable(&self) -> Vec<(String, &Tensor)> {
        self.weights.named()
    }

    /// Calls `visit` with every trainable tensor, in the order of [`Model::trainable`]; what it
    /// leaves in place is the new value.
    pub fn visit_trainable<E>(
        &mut self,
        visit: impl FnMut(&str, &mut Tensor) -> Result<(), E>,
    ) -> Result<(), E> {
        let _ = visit;
        todo!()
    }

    /// Zero gradients for every trainable tensor.
    pub fn gradients(&self) -> Result<Gradients, ModelError> {
        Gradients::zeros(&self.trainable())
    }

    /// Scores the selected rows, without a gradient. Logits are divided by `temperature`.
    pub fn score(
        &self,
        batch: &Batch,
        selection: &Selection,
        temperature: f32,
    ) -> Result<TokenScores, ModelError> {
        todo!("{batch:?} {selection:?} {temperature}")
    }

    /// Scores the selected rows and keeps what [`Model::backward`] needs.
    pub fn forward(
        &self,
        batch: &Batch,
        selection: &Selection,
        temperature: f32,
    ) -> Result<(TokenScores, Tape), ModelError> {
        todo!("{batch:?} {selection:?} {temperature}")
    }

    /// Adds into `gradients` the gradient of `Σ d_log_probs·log_probs + d_entropies·entropies`.
    pub fn backward(
        &self,
        tape: Tape,
        d_log_probs: &[f32],
        d_entropies: Option<&[f32]>,
        gradients: &mut Gradients,
    ) -> Result<(), ModelError> {
        todo!("{tape:?} {d_log_probs:?} {d_entropies:?} {gradients:?}")
    }

    /// Logits of every row, `(tokens, vocab)`, f32.
    pub fn logits(&self, batch: &Batch) -> Result<Tensor, ModelError> {
        todo!("{batch:?}")
    }
}
