//! One layer forward and backward, and its projections with their adapters.

use candle_core::{Result, Tensor};

use super::config::ModelConfig;
use super::gradients::Gradients;
use super::lora::Adapter;
use super::ops::types::{Attended, AttentionInputs, Layout, Norm, Rotation};
use super::ops::{attention, linear, rms_norm, rope, swiglu};
use super::weights::{LayerWeights, Projection};

/// What the rows of a batch are: the same for every layer.
#[derive(Debug)]
pub(super) struct Context {
    pub rotation: Rotation,
    pub layout: Layout,
}

/// One layer of a model.
pub(super) struct Block<'a> {
    pub index: usize,
    pub config: &'a ModelConfig,
    pub weights: &'a LayerWeights,
    pub adapter: Option<&'a Adapter>,
}

/// Queries, keys and values of a layer's rows, `(rows, heads × head_dim)` each.
pub(super) struct Projected {
    /// Queries and keys before their norm.
    pub raw_q: Tensor,
    pub raw_k: Tensor,
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
}

/// What the feed-forward part leaves for its backward pass.
pub(super) struct MlpActivations {
    /// The residual stream between attention and feed-forward.
    pub middle: Tensor,
    pub gate: Tensor,
    pub up: Tensor,
}

/// What backward needs of forward besides the layer's input.
pub(super) struct Activations {
    /// Queries and keys before their norm.
    raw_q: Tensor,
    raw_k: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Attended,
    /// The residual stream between attention and feed-forward.
    middle: Tensor,
    gate: Tensor,
    up: Tensor,
}

impl Block<'_> {
    fn norm<'a>(&self, weight: &'a Tensor) -> Norm<'a> {
        Norm { weight, eps: self.config.rms_norm_eps as f32 }
    }

    /// `x` `(rows, hidden)` → the layer's output in the same shape.
    pub fn forward(&self, x: &Tensor, context: &Context) -> Result<(Tensor, Activations)> {
        let Projected { raw_q, raw_k, q, k, v } = self.project_heads(x, &context.rotation)?;
        let attended =
            attention::forward(&AttentionInputs { q: &q, k: &k, v: &v }, &context.layout)?;
        let (y, MlpActivations { middle, gate, up }) = self.finish(x, &attended.y)?;
        Ok((y, Activations { raw_q, raw_k, q, k, v, attended, middle, gate, up }))
    }

    /// What goes into attention.
    pub fn project_heads(&self, x: &Tensor, rotation: &Rotation) -> Result<Projected> {
        let normed = rms_norm::forward(x, self.norm(&self.weights.input_norm))?;
        let raw_q = self.project(Projection::Query, &normed, None)?;
        let raw_k = self.project(Projection::Key, &normed, None)?;
        let v = self.project(Projection::Value, &normed, None)?;
        let q = rope::forward(&raw_q, self.norm(&self.weights.q_norm), rotation)?;
        let k = rope::forward(&raw_k, self.norm(&self.weights.k_norm), rotation)?;
        Ok(Projected { raw_q, raw_k, q, k, v })
    }

    /// Adds what was `attended` to the residual stream `x`, and then the feed-forward part.
    pub fn finish(&self, x: &Tensor, attended: &Tensor) -> Result<(Tensor, MlpActivations)> {
        let middle = self.project(Projection::Output, attended, Some(x))?;
        let normed = rms_norm::forward(&middle, self.norm(&self.weights.post_norm))?;
        let gate = self.project(Projection::Gate, &normed, None)?;
        let up = self.project(Projection::Up, &normed, None)?;
        let active = swiglu::forward(&gate, &up)?;
        let y = self.project(Projection::Down, &active, Some(&middle))?;
        Ok((y, MlpActivations { middle, gate, up }))
    }

    /// The gradient of `x`, made in the memory of `d_y`, which must not be shared.
    pub fn backward(
        &self,
        x: &Tensor,
        saved: Activations,
        d_y: Tensor,
        context: &Context,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let Activations { raw_q, raw_k, q, k, v, attended, middle, gate, up } = saved;
        let mut stream = d_y;

        let d_active = self.backward_input(&[(Projection::Down, &stream)])?;
        let mlp = swiglu::backward(gate, up, d_active)?;
        self.backward_weight(Projection::Down, &stream, &mlp.y, gradients)?;
        let d_normed =
            self.backward_input(&[(Projection::Gate, &mlp.d_gate), (Projection::Up, &mlp.d_up)])?;
        let normed = rms_norm::forward(&middle, self.norm(&self.weights.post_norm))?;
        self.backward_weight(Projection::Gate, &mlp.d_gate, &normed, gradients)?;
        self.backward_weight(Projection::Up, &mlp.d_up, &normed, gradients)?;
        let slot = gradients.slot(&self.name("post_attention_layernorm"));
        let norm = self.norm(&self.weights.post_norm);
        rms_norm::backward(&middle, norm, &d_normed, &mut stream, slot)?;

        let d_attended = self.backward_input(&[(Projection::Output, &stream)])?;
        self.backward_weight(Projection::Output, &stream, &attended.y, gradients)?;
        let inputs = AttentionInputs { q: &q, k: &k, v: &v };
        let d = attention::backward(&inputs, &context.layout, &attended, &d_attended)?;
        let slot = gradients.slot(&self.name("self_attn.q_norm"));
        let norm = self.norm(&self.weights.q_norm);
        let d_q = rope::backward(&raw_q, norm, &context.rotation, d.d_q, slot)?;
        let slot = gradients.slot(&self.name("self_attn.k_norm"));
        let norm = self.norm(&self.weights.k_norm);
        let d_k = rope::backward(&raw_k, norm, &context.rotation, d.d_k, slot)?;

        let parts =
            [(Projection::Query, &d_q), (Projection::Key, &d_k), (Projection::Value, &d.d_v)];
        let d_normed = self.backward_input(&parts)?;
        let normed = rms_norm::forward(x, self.norm(&self.weights.input_norm))?;
        for (projection, d_y) in parts {
            self.backward_weight(projection, d_y, &normed, gradients)?;
        }
        let slot = gradients.slot(&self.name("input_layernorm"));
        let norm = self.norm(&self.weights.input_norm);
        rms_norm::backward(x, norm, &d_normed, &mut stream, slot)?;
        Ok(stream)
    }

    fn name(&self, module: &str) -> String {
        format!("model.layers.{}.{module}.weight", self.index)
    }

    fn project(&self, which: Projection, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let y = linear::forward(x, self.weights.projection(which), residual)?;
        let Some(pair) = self.adapter.and_then(|adapter| adapter.pair(self.index, which)) else {
            return Ok(y);
        };
        linear::forward(&pair.down(x)?, &pair.b, Some(&y))
    }

    /// The gradient of the input that `parts` share.
    fn backward_input(&self, parts: &[(Projection, &Tensor)]) -> Result<Tensor> {
        let mut d_x = None;
        for &(which, d_y) in parts {
            linear::backward_input(d_y, self.weights.projection(which), &mut d_x)?;
            if let Some(pair) = self.adapter.and_then(|adapter| adapter.pair(self.index, which)) {
                linear::backward_input(&pair.d_down(d_y)?, &pair.a, &mut d_x)?;
            }
        }
        match d_x {
            Some(d_x) => Ok(d_x),
            None => candle_core::bail!("a gradient needs at least one part"),
        }
    }

    fn backward_weight(
        &self,
        which: Projection,
        d_y: &Tensor,
        x: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<()> {
        if let Some(slot) = gradients.slot(&self.name(which.module())) {
            linear::backward_weight(d_y, x, slot)?;
        }
        if let Some(pair) = self.adapter.and_then(|adapter| adapter.pair(self.index, which)) {
            if let Some(slot) = gradients.slot(&Adapter::name(self.index, which, 'A')) {
                linear::backward_weight(&pair.d_down(d_y)?, x, slot)?;
            }
            if let Some(slot) = gradients.slot(&Adapter::name(self.index, which, 'B')) {
                linear::backward_weight(d_y, &pair.down(x)?, slot)?;
            }
        }
        Ok(())
    }
}
