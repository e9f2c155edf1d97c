//! The trainable Qwen3: per-token log-probabilities forward, their gradient backward.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::batch::{Batch, Selection, TokenScores};
use super::block::{Activations, Block, Context};
use super::config::ModelConfig;
use super::error::ModelError;
use super::gradients::Gradients;
use super::lora::Adapter;
use super::ops::types::{Head, Layout, Norm, Rotation, ScoreGradients};
use super::ops::{embedding, head, linear, rms_norm};
use super::weights::Weights;

/// A Qwen3, with or without an adapter. Cloning is cheap: clones share their tensors, and since tensors
/// are replaced and never changed in place, a clone is a snapshot.
#[derive(Debug, Clone)]
pub struct Model {
    config: ModelConfig,
    weights: Weights,
    adapter: Option<Adapter>,
    recompute: bool,
}

/// What a forward pass leaves for its backward pass. It holds the activations: drop it early.
pub struct Tape {
    ids: Vec<u32>,
    selection: Selection,
    temperature: f32,
    context: Context,
    /// Each layer's input, and what else it keeps unless it recomputes.
    layers: Vec<(Tensor, Option<Activations>)>,
    /// The selected rows after the last layer, before and after the last norm.
    selected: Tensor,
    normed: Tensor,
    scores: TokenScores,
    log_sums: Vec<f32>,
}

impl Model {
    /// From weights in memory.
    pub fn new(config: ModelConfig, weights: Weights) -> Self {
        Self { config, weights, adapter: None, recompute: false }
    }

    /// From a folder with `config.json` and safetensors.
    pub fn load(folder: &Path, dtype: DType, device: &Device) -> Result<Self, ModelError> {
        let config = ModelConfig::load(folder)?;
        let weights = Weights::load(folder, &config, dtype, device)?;
        Ok(Self::new(config, weights))
    }

    /// Writes `config.json` and `model.safetensors` into `folder`, with the adapter merged in.
    pub fn save(&self, folder: &Path) -> Result<(), ModelError> {
        self.merged()?.to_dtype(self.weights.embed.dtype())?.save(folder, &self.config)
    }

    /// The shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The weights, without the adapter.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The adapter.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// The same model with `adapter`; its own weights are frozen from now on.
    pub fn with_adapter(self, adapter: Adapter) -> Self {
        Self { adapter: Some(adapter), ..self }
    }

    /// The model below its adapter, sharing its weights: the reference of a LoRA training.
    pub fn without_adapter(&self) -> Self {
        Self { adapter: None, ..self.clone() }
    }

    /// The weights with the adapter merged in, those that it changes in f32 at least.
    pub fn merged(&self) -> Result<Weights, ModelError> {
        match &self.adapter {
            Some(adapter) => adapter.merge(&self.weights),
            None => Ok(self.weights.clone()),
        }
    }

    /// Trades time for memory: keep each layer's input only, and run the layer again on the way back.
    pub fn set_recompute(&mut self, recompute: bool) {
        self.recompute = recompute;
    }

    /// Tensors the optimizer may change, by name, in a fixed order: all weights, or the adapter's.
    pub fn trainable(&self) -> Vec<(String, &Tensor)> {
        match &self.adapter {
            Some(adapter) => adapter.named(),
            None => self.weights.named(),
        }
    }

    /// As [`Model::trainable`], to replace: what is put in place must have the same shape and type.
    pub fn trainable_mut(&mut self) -> Vec<(String, &mut Tensor)> {
        match &mut self.adapter {
            Some(adapter) => adapter.named_mut(),
            None => self.weights.named_mut(),
        }
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
        self.check(batch, selection, temperature)?;
        let context = self.context(batch)?;
        let mut hidden = embedding::forward(&self.weights.embed, &batch.ids)?;
        for index in 0..self.weights.layers.len() {
            hidden = self.block(index).forward(&hidden, &context)?.0;
        }
        let selected = embedding::forward(&hidden, &selection.rows)?;
        let normed = rms_norm::forward(&selected, self.last_norm())?;
        Ok(head::forward(&self.head(&normed, selection, temperature))?.0)
    }

    /// Scores the selected rows and keeps what [`Model::backward`] needs.
    pub fn forward(
        &self,
        batch: &Batch,
        selection: &Selection,
        temperature: f32,
    ) -> Result<(TokenScores, Tape), ModelError> {
        self.check(batch, selection, temperature)?;
        let context = self.context(batch)?;
        let mut hidden = embedding::forward(&self.weights.embed, &batch.ids)?;
        let mut layers = Vec::with_capacity(self.weights.layers.len());
        for index in 0..self.weights.layers.len() {
            let (output, saved) = self.block(index).forward(&hidden, &context)?;
            layers.push((hidden, (!self.recompute).then_some(saved)));
            hidden = output;
        }
        let selected = embedding::forward(&hidden, &selection.rows)?;
        let normed = rms_norm::forward(&selected, self.last_norm())?;
        let (scores, log_sums) = head::forward(&self.head(&normed, selection, temperature))?;
        let tape = Tape {
            ids: batch.ids.clone(),
            selection: selection.clone(),
            temperature,
            context,
            layers,
            selected,
            normed,
            scores: scores.clone(),
            log_sums,
        };
        Ok((scores, tape))
    }

    /// Adds into `gradients` the gradient of `Σ d_log_probs·log_probs + d_entropies·entropies`. The
    /// model must be the one that made the tape, unchanged since.
    pub fn backward(
        &self,
        tape: Tape,
        d_log_probs: &[f32],
        d_entropies: Option<&[f32]>,
        gradients: &mut Gradients,
    ) -> Result<(), ModelError> {
        let rows = tape.selection.len();
        if d_log_probs.len() != rows || d_entropies.is_some_and(|all| all.len() != rows) {
            return Err(ModelError::Batch(format!("{rows} scores need {rows} gradients")));
        }
        let head = self.head(&tape.normed, &tape.selection, tape.temperature);
        let gradient = ScoreGradients { log_probs: d_log_probs, entropies: d_entropies };
        let name = match self.weights.lm_head {
            Some(_) => "lm_head.weight",
            None => "model.embed_tokens.weight",
        };
        let slot = gradients.slot(name);
        let d_normed = head::backward(&head, &tape.scores, &tape.log_sums, gradient, slot)?;
        let mut d_selected = tape.selected.zeros_like()?;
        let slot = gradients.slot("model.norm.weight");
        rms_norm::backward(&tape.selected, self.last_norm(), &d_normed, &mut d_selected, slot)?;

        let shape = (tape.ids.len(), self.config.hidden_size);
        let mut d_hidden = Tensor::zeros(shape, d_selected.dtype(), d_selected.device())?;
        embedding::backward(&d_selected, &tape.selection.rows, &mut d_hidden)?;
        for (index, (input, saved)) in tape.layers.into_iter().enumerate().rev() {
            let block = self.block(index);
            let saved = match saved {
                Some(saved) => saved,
                None => block.forward(&input, &tape.context)?.1,
            };
            d_hidden = block.backward(&input, saved, d_hidden, &tape.context, gradients)?;
        }
        if let Some(slot) = gradients.slot("model.embed_tokens.weight") {
            embedding::backward(&d_hidden, &tape.ids, slot)?;
        }
        Ok(())
    }

    /// Logits of every row, `(tokens, vocab)`, f32. For inspection: nothing here bounds their memory.
    pub fn logits(&self, batch: &Batch) -> Result<Tensor, ModelError> {
        batch.check(self.config.vocab_size, self.config.max_position_embeddings)?;
        let context = self.context(batch)?;
        let mut hidden = embedding::forward(&self.weights.embed, &batch.ids)?;
        for index in 0..self.weights.layers.len() {
            hidden = self.block(index).forward(&hidden, &context)?.0;
        }
        let normed = rms_norm::forward(&hidden, self.last_norm())?;
        Ok(linear::forward(&normed, self.weights.output(), None)?.to_dtype(DType::F32)?)
    }

    fn check(
        &self,
        batch: &Batch,
        selection: &Selection,
        temperature: f32,
    ) -> Result<(), ModelError> {
        batch.check(self.config.vocab_size, self.config.max_position_embeddings)?;
        selection.check(batch.len(), self.config.vocab_size)?;
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(ModelError::Batch(format!("temperature `{temperature}` is not above 0")));
        }
        Ok(())
    }

    fn context(&self, batch: &Batch) -> Result<Context, ModelError> {
        let config = &self.config;
        let device = self.weights.embed.device();
        let positions = batch.positions();
        Ok(Context {
            rotation: Rotation::new(&positions, config.head_dim, config.rope_theta, device)?,
            layout: Layout {
                trees: batch.trees(),
                heads: config.num_attention_heads,
                kv_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
            },
        })
    }

    fn block(&self, index: usize) -> Block<'_> {
        Block {
            index,
            config: &self.config,
            weights: &self.weights.layers[index],
            adapter: self.adapter.as_ref(),
        }
    }

    fn last_norm(&self) -> Norm<'_> {
        Norm { weight: &self.weights.norm, eps: self.config.rms_norm_eps as f32 }
    }

    fn head<'a>(
        &'a self,
        normed: &'a Tensor,
        selection: &'a Selection,
        temperature: f32,
    ) -> Head<'a> {
        Head {
            hidden: normed,
            weight: self.weights.output(),
            targets: &selection.targets,
            temperature,
        }
    }
}
