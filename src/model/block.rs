//! One layer forward and backward, with the options that its [`Spec`] has.

use candle_core::{Result, Tensor};

use super::gradients::Gradients;
use super::lora::Adapter;
use super::ops::types::{Attended, AttentionInputs, Layout, Linear, Norm, Rotation};
use super::ops::{attention, bias, gated, linear, rms_norm, rope};
use super::slots::{Projection, Slot};
use super::spec::Spec;
use super::weights::LayerWeights;

/// The structure of a batch's rows: the same for every layer.
#[derive(Debug)]
pub(super) struct Context {
    /// One for each of [`Spec::ropes`].
    pub rotations: Vec<Rotation>,
    pub layout: Layout,
}

/// One layer of a model.
pub(super) struct Block<'a> {
    pub index: usize,
    pub spec: &'a Spec,
    pub weights: &'a LayerWeights,
    pub adapter: Option<&'a Adapter>,
}

/// Queries, keys and values of a layer's rows, `(rows, heads × head_dim)` each.
pub(super) struct Projected {
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    /// Queries and keys before their norm, where they have one.
    raw: Option<(Tensor, Tensor)>,
}

/// The feed-forward activations that its backward pass needs.
pub(super) struct MlpActivations {
    /// The residual stream between attention and feed-forward.
    middle: Tensor,
    gate: Tensor,
    up: Tensor,
    /// The outputs of attention and feed-forward, before their post-norms, if there are any.
    attention_out: Option<Tensor>,
    mlp_out: Option<Tensor>,
}

/// The activations that backward needs besides the layer's input.
pub(super) struct Activations {
    heads: Projected,
    attended: Attended,
    mlp: MlpActivations,
}

/// A projection with the gradient of its output, `(rows, out)`.
type OutputGradient<'a> = (Projection, &'a Tensor);

impl Block<'_> {
    /// `x` `(rows, hidden)` → the layer's output in the same shape.
    pub fn forward(&self, x: &Tensor, context: &Context) -> Result<(Tensor, Activations)> {
        let heads = self.project_heads(x, &context.rotations)?;
        let attended = attention::forward(&self.inputs(&heads), &context.layout)?;
        let (y, mlp) = self.finish(x, &attended.y)?;
        Ok((y, Activations { heads, attended, mlp }))
    }

    /// The inputs of attention.
    pub fn project_heads(&self, x: &Tensor, rotations: &[Rotation]) -> Result<Projected> {
        let normed = rms_norm::forward(x, self.norm(Slot::InputNorm)?)?;
        let raw_q = self.project(Projection::Query, &normed, None)?;
        let raw_k = self.project(Projection::Key, &normed, None)?;
        let v = self.project(Projection::Value, &normed, None)?;
        let (q_norm, k_norm) = (self.norm_if(Slot::QueryNorm), self.norm_if(Slot::KeyNorm));
        let rotation = &rotations[self.spec.layers[self.index].rope];
        let q = rope::forward(&raw_q, q_norm, rotation)?;
        let k = rope::forward(&raw_k, k_norm, rotation)?;
        Ok(Projected { q, k, v, raw: self.spec.qk_norm.then_some((raw_q, raw_k)) })
    }

    /// Adds `attended` to the residual stream `x`, and then the feed-forward part.
    pub fn finish(&self, x: &Tensor, attended: &Tensor) -> Result<(Tensor, MlpActivations)> {
        let (middle, attention_out) =
            self.join(x, Projection::Output, attended, Slot::PostAttentionNorm)?;
        let normed = rms_norm::forward(&middle, self.norm(Slot::MlpNorm)?)?;
        let gate = self.project(Projection::Gate, &normed, None)?;
        let up = self.project(Projection::Up, &normed, None)?;
        let active = gated::forward(&gate, &up, self.spec.gate)?;
        let (y, mlp_out) = self.join(&middle, Projection::Down, &active, Slot::PostMlpNorm)?;
        Ok((y, MlpActivations { middle, gate, up, attention_out, mlp_out }))
    }

    /// The gradient of `x`, computed in the memory of `d_y`, which must not be shared.
    pub fn backward(
        &self,
        x: &Tensor,
        saved: Activations,
        d_y: Tensor,
        context: &Context,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let Activations { heads, attended, mlp } = saved;
        let MlpActivations { middle, gate, up, attention_out, mlp_out } = mlp;
        let mut stream = d_y;

        let d_out = self.backward_join(&stream, mlp_out, Slot::PostMlpNorm, gradients)?;
        let parts = [(Projection::Down, &d_out)];
        let d_active = self.backward_input(&parts)?;
        let mlp = gated::backward(gate, up, d_active, self.spec.gate)?;
        self.backward_weights(&parts, &mlp.y, gradients)?;
        drop(d_out);
        let parts = [(Projection::Gate, &mlp.d_gate), (Projection::Up, &mlp.d_up)];
        let d_normed = self.backward_input(&parts)?;
        let norm = self.norm(Slot::MlpNorm)?;
        let normed = rms_norm::forward(&middle, norm)?;
        self.backward_weights(&parts, &normed, gradients)?;
        let slot = gradients.slot(&self.name(Slot::MlpNorm));
        rms_norm::backward(&middle, norm, &d_normed, &mut stream, slot)?;

        let d_out =
            self.backward_join(&stream, attention_out, Slot::PostAttentionNorm, gradients)?;
        let parts = [(Projection::Output, &d_out)];
        let d_attended = self.backward_input(&parts)?;
        self.backward_weights(&parts, &attended.y, gradients)?;
        drop(d_out);
        let d = attention::backward(&self.inputs(&heads), &context.layout, &attended, &d_attended)?;
        let rotation = &context.rotations[self.spec.layers[self.index].rope];
        let (raw_q, raw_k) = heads.raw.unzip();
        let slot = gradients.slot(&self.name(Slot::QueryNorm));
        let norm = raw_q.as_ref().zip(self.norm_if(Slot::QueryNorm));
        let d_q = rope::backward(norm, rotation, d.d_q, slot)?;
        let slot = gradients.slot(&self.name(Slot::KeyNorm));
        let norm = raw_k.as_ref().zip(self.norm_if(Slot::KeyNorm));
        let d_k = rope::backward(norm, rotation, d.d_k, slot)?;

        let parts =
            [(Projection::Query, &d_q), (Projection::Key, &d_k), (Projection::Value, &d.d_v)];
        let d_normed = self.backward_input(&parts)?;
        let norm = self.norm(Slot::InputNorm)?;
        let normed = rms_norm::forward(x, norm)?;
        self.backward_weights(&parts, &normed, gradients)?;
        let slot = gradients.slot(&self.name(Slot::InputNorm));
        rms_norm::backward(x, norm, &d_normed, &mut stream, slot)?;
        Ok(stream)
    }

    fn name(&self, slot: Slot) -> String {
        slot.name(self.spec, self.index)
    }

    fn norm(&self, slot: Slot) -> Result<Norm<'_>> {
        Ok(self.spec.norm(self.weights.need(slot)?))
    }

    fn norm_if(&self, slot: Slot) -> Option<Norm<'_>> {
        self.weights.get(slot).map(|weight| self.spec.norm(weight))
    }

    fn inputs<'a>(&self, heads: &'a Projected) -> AttentionInputs<'a> {
        let window = self.spec.layers[self.index].window;
        AttentionInputs { q: &heads.q, k: &heads.k, v: &heads.v, window }
    }

    fn project(&self, which: Projection, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let y = linear::forward(x, self.linear(which)?, residual)?;
        match which.bias().and_then(|slot| self.weights.get(slot)) {
            Some(weight) => bias::forward(y, weight),
            None => Ok(y),
        }
    }

    fn linear(&self, which: Projection) -> Result<Linear<'_>> {
        let delta = self.adapter.and_then(|adapter| adapter.delta(self.index, which));
        Ok(Linear { weight: self.weights.need(which.slot())?, delta })
    }

    /// The residual stream `x` plus a projection of `input`, normalised first if the layer has a
    /// post-norm. Also returns the projection before that norm.
    fn join(
        &self,
        x: &Tensor,
        which: Projection,
        input: &Tensor,
        norm: Slot,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let Some(norm) = self.norm_if(norm) else {
            return Ok((self.project(which, input, Some(x))?, None));
        };
        let made = self.project(which, input, None)?;
        Ok(((x + rms_norm::forward(&made, norm)?)?, Some(made)))
    }

    /// The gradient of the projection that was added. Without a norm it is the stream's gradient,
    /// whose memory it shares.
    fn backward_join(
        &self,
        stream: &Tensor,
        made: Option<Tensor>,
        slot: Slot,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let Some((made, norm)) = made.zip(self.norm_if(slot)) else { return Ok(stream.clone()) };
        let mut d_made = made.zeros_like()?;
        let weight = gradients.slot(&self.name(slot));
        rms_norm::backward(&made, norm, stream, &mut d_made, weight)?;
        Ok(d_made)
    }

    /// The gradient of the common input of `parts`.
    fn backward_input(&self, parts: &[OutputGradient]) -> Result<Tensor> {
        let mut d_x = None;
        for &(which, d_y) in parts {
            d_x = Some(linear::backward_input(d_y, self.linear(which)?, d_x)?);
        }
        match d_x {
            Some(d_x) => Ok(d_x),
            None => candle_core::bail!("a gradient needs at least one part"),
        }
    }

    /// Adds the gradients of the projections' weights, biases and adapters, if they are trained. `x`
    /// is their common input.
    fn backward_weights(
        &self,
        parts: &[OutputGradient],
        x: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<()> {
        for &(which, d_y) in parts {
            if let Some(slot) = gradients.slot(&self.name(which.slot())) {
                linear::backward_weight(d_y, x, slot)?;
            }
            if let Some(slot) = which.bias().and_then(|slot| gradients.slot(&self.name(slot))) {
                bias::backward(d_y, slot)?;
            }
            let Some(delta) = self.linear(which)?.delta else { continue };
            if let Some(slot) = gradients.slot(&Adapter::name(self.index, which, 'A')) {
                linear::backward_a(d_y, x, delta, slot)?;
            }
            if let Some(slot) = gradients.slot(&Adapter::name(self.index, which, 'B')) {
                linear::backward_b(d_y, x, delta, slot)?;
            }
        }
        Ok(())
    }
}
