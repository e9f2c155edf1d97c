//! The trainable model: per-token log-probabilities forward, their gradient backward.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::batch::{Batch, Selection, TokenScores};
use super::block::{Activations, Block, Context};
use super::error::ModelError;
use super::gradients::Gradients;
use super::lora::Adapter;
use super::ops::types::{Head, Linear, Norm, ScoreGradients};
use super::ops::{embedding, head, linear, rms_norm};
use super::rotary::RotaryTable;
use super::slots::{EMBED, HEAD, NORM};
use super::spec::Spec;
use super::weights::Weights;

/// A decoder-only transformer, with or without an adapter. Cloning is cheap: clones share their
/// tensors, and since tensors are replaced and never changed in place, a clone is a snapshot.
#[derive(Debug, Clone)]
pub struct Model {
    spec: Spec,
    weights: Weights,
    adapter: Option<Adapter>,
    recompute: bool,
    rotary: Arc<[RotaryTable]>,
}

/// The activations of a forward pass for its backward pass. They are large: drop them early.
pub struct Tape {
    ids: Vec<u32>,
    selection: Selection,
    temperature: f32,
    context: Context,
    /// Each layer's input, and its activations unless they are recomputed.
    layers: Vec<(Tensor, Option<Activations>)>,
    /// The selected rows after the last layer, before and after the last norm.
    selected: Tensor,
    normed: Tensor,
    scores: TokenScores,
    log_sums: Vec<f32>,
}

impl Model {
    /// From weights in memory.
    pub fn new(spec: Spec, weights: Weights) -> Self {
        let rotary = RotaryTable::all(&spec);
        Self { spec, weights, adapter: None, recompute: false, rotary }
    }

    /// From a folder with `config.json` and safetensors, or a `.gguf` file.
    ///
    /// # Errors
    /// When a file cannot be read, or describes a model that this crate would compute differently.
    pub fn load(path: &Path, dtype: DType, device: &Device) -> Result<Self, ModelError> {
        let spec = Spec::load(path)?;
        let weights = Weights::load(path, &spec, dtype, device)?;
        Ok(Self::new(spec, weights))
    }

    /// Writes `config.json` and `model.safetensors` into `folder`, with the adapter merged in.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), ModelError> {
        self.merged()?.to_dtype(self.weights.embed.dtype())?.save(folder, &self.spec)
    }

    /// The model's specification.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The weights, without the adapter.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The adapter.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// The same model with `adapter`; its own weights are frozen from then on.
    pub fn with_adapter(self, adapter: Adapter) -> Self {
        Self { adapter: Some(adapter), ..self }
    }

    /// The model without its adapter, sharing its weights: the reference in LoRA training.
    pub fn without_adapter(&self) -> Self {
        Self { adapter: None, ..self.clone() }
    }

    /// The weights with the adapter merged in. Those that it changes are at least f32.
    ///
    /// # Errors
    /// When the device fails.
    pub fn merged(&self) -> Result<Weights, ModelError> {
        match &self.adapter {
            Some(adapter) => adapter.merge(&self.weights),
            None => Ok(self.weights.clone()),
        }
    }

    /// Trades time for memory: stores only each layer's input, and recomputes the layer in the
    /// backward pass.
    pub fn set_recompute(&mut self, recompute: bool) {
        self.recompute = recompute;
    }

    /// Tensors the optimizer may change, by name, in a fixed order: all weights, or the adapter's.
    pub fn trainable(&self) -> Vec<(String, &Tensor)> {
        match &self.adapter {
            Some(adapter) => adapter.named(),
            None => self.weights.named(&self.spec),
        }
    }

    /// Mutable [`Model::trainable`]: a replacement must have the same shape and type.
    pub fn trainable_mut(&mut self) -> Vec<(String, &mut Tensor)> {
        match &mut self.adapter {
            Some(adapter) => adapter.named_mut(),
            None => self.weights.named_mut(&self.spec),
        }
    }

    /// Zero gradients for every trainable tensor.
    ///
    /// # Errors
    /// When the device has no memory left.
    pub fn gradients(&self) -> Result<Gradients, ModelError> {
        Gradients::zeros(&self.trainable())
    }

    /// Scores the selected rows, without a gradient. Logits are divided by `temperature`.
    ///
    /// # Errors
    /// When the batch does not fit the model, or the device fails.
    pub fn score(
        &self,
        batch: &Batch,
        selection: &Selection,
        temperature: f32,
    ) -> Result<TokenScores, ModelError> {
        self.check(batch, selection, temperature)?;
        let selected = embedding::forward(&self.hidden(batch)?, &selection.rows)?;
        let normed = rms_norm::forward(&selected, self.last_norm())?;
        Ok(head::forward(&self.head(&normed, selection, temperature))?.0)
    }

    /// Scores the selected rows and stores what [`Model::backward`] needs.
    ///
    /// # Errors
    /// When the batch does not fit the model, or the device fails.
    pub fn forward(
        &self,
        batch: &Batch,
        selection: &Selection,
        temperature: f32,
    ) -> Result<(TokenScores, Tape), ModelError> {
        self.check(batch, selection, temperature)?;
        let context = self.context(batch)?;
        let mut hidden = self.spec.embed(&self.weights.embed, &batch.ids)?;
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

    /// Adds to `gradients` the gradient of `Σ d_log_probs·log_probs + d_entropies·entropies`. The
    /// model must be the one that made the tape, unchanged.
    ///
    /// # Errors
    /// When the device fails.
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
            Some(_) => HEAD,
            None => EMBED,
        };
        let slot = gradients.slot(name);
        let d_normed = head::backward(&head, &tape.scores, &tape.log_sums, gradient, slot)?;
        let mut d_selected = tape.selected.zeros_like()?;
        let slot = gradients.slot(NORM);
        rms_norm::backward(&tape.selected, self.last_norm(), &d_normed, &mut d_selected, slot)?;

        let shape = (tape.ids.len(), self.spec.hidden_size);
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
        if let Some(slot) = gradients.slot(EMBED) {
            let d_embedded = self.spec.scale_embeddings(d_hidden)?;
            embedding::backward(&d_embedded, &tape.ids, slot)?;
        }
        Ok(())
    }

    /// Logits of every row, `(tokens, vocab)`, f32. For inspection: their memory is not bounded.
    ///
    /// # Errors
    /// When the batch does not fit the model, or the device fails.
    pub fn logits(&self, batch: &Batch) -> Result<Tensor, ModelError> {
        batch.check(self.spec.vocab_size, self.spec.max_position_embeddings)?;
        let normed = rms_norm::forward(&self.hidden(batch)?, self.last_norm())?;
        Ok(linear::forward(&normed, Linear::plain(self.weights.output()), None)?
            .to_dtype(DType::F32)?)
    }

    fn check(
        &self,
        batch: &Batch,
        selection: &Selection,
        temperature: f32,
    ) -> Result<(), ModelError> {
        batch.check(self.spec.vocab_size, self.spec.max_position_embeddings)?;
        selection.check(batch.len(), self.spec.vocab_size)?;
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Err(ModelError::Batch(format!("temperature `{temperature}` is not above 0")));
        }
        Ok(())
    }

    /// Every row after the last layer, before the last norm, `(tokens, hidden)`; keeps no
    /// activations.
    fn hidden(&self, batch: &Batch) -> Result<Tensor, ModelError> {
        let context = self.context(batch)?;
        let mut hidden = self.spec.embed(&self.weights.embed, &batch.ids)?;
        for index in 0..self.weights.layers.len() {
            hidden = self.block(index).forward(&hidden, &context)?.0;
        }
        Ok(hidden)
    }

    fn context(&self, batch: &Batch) -> Result<Context, ModelError> {
        let device = self.weights.embed.device();
        let positions = batch.positions();
        let rotations = self.rotary.iter().map(|table| table.rotation(&positions, device));
        Ok(Context {
            rotations: rotations.collect::<Result<_, _>>()?,
            layout: self.spec.layout(batch.trees()),
        })
    }

    fn block(&self, index: usize) -> Block<'_> {
        Block {
            index,
            spec: &self.spec,
            weights: &self.weights.layers[index],
            adapter: self.adapter.as_ref(),
        }
    }

    fn last_norm(&self) -> Norm<'_> {
        self.spec.norm(&self.weights.norm)
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
