//! A model's weights as the decoder reads them.

use candle_core::{DType, Device, Tensor};

use super::kernels::Isa;
use super::kernels::matmul::Packed;
use super::kernels::simd::LANES;
use crate::model::error::ModelError;
use crate::model::slots::Slot;
use crate::model::spec::Spec;
use crate::model::weights::{LayerWeights, Weights};

/// One layer: norms as they multiply, projections that read the same input packed as one.
#[derive(Debug)]
pub(super) struct PackedLayer {
    pub input_norm: Vec<f32>,
    pub qkv: Packed,
    /// Of all columns of `qkv`.
    pub qkv_bias: Option<Vec<f32>>,
    pub q_norm: Option<Vec<f32>>,
    pub k_norm: Option<Vec<f32>>,
    pub attention: Joined,
    pub mlp_norm: Vec<f32>,
    pub gate_up: Packed,
    pub mlp: Joined,
}

/// A projection into the residual stream.
#[derive(Debug)]
pub(super) struct Joined {
    pub weight: Packed,
    pub bias: Option<Vec<f32>>,
    /// Of what is projected, before it joins the stream.
    pub norm: Option<Vec<f32>>,
}

/// A copy of all weights, in f32 on the CPU whatever they were.
#[derive(Debug)]
pub(super) struct PackedWeights {
    /// `(vocab, hidden)`
    pub embed: Vec<f32>,
    pub layers: Vec<PackedLayer>,
    pub norm: Vec<f32>,
    pub head: Packed,
}

impl PackedWeights {
    pub fn new(isa: Isa, spec: &Spec, weights: &Weights) -> Result<Self, ModelError> {
        let embed = floats(&weights.embed)?;
        let head = match &weights.lm_head {
            Some(head) => Packed::new(isa, spec.hidden_size, &[&floats(head)?]),
            None => Packed::new(isa, spec.hidden_size, &[&embed]),
        };
        let layers = weights.layers.iter().map(|weights| Layer { isa, spec, weights }.pack());
        Ok(Self {
            layers: layers.collect::<Result<_, _>>()?,
            norm: norm(spec, &weights.norm)?,
            embed,
            head,
        })
    }
}

/// A layer to be packed.
struct Layer<'a> {
    isa: Isa,
    spec: &'a Spec,
    weights: &'a LayerWeights,
}

impl Layer<'_> {
    fn pack(&self) -> Result<PackedLayer, ModelError> {
        let Spec { hidden_size, intermediate_size, .. } = *self.spec;
        let biases = [Slot::QueryBias, Slot::KeyBias, Slot::ValueBias];
        Ok(PackedLayer {
            input_norm: norm(self.spec, self.weights.need(Slot::InputNorm)?)?,
            qkv: self.matrices(hidden_size, &[Slot::Query, Slot::Key, Slot::Value])?,
            qkv_bias: match self.spec.qkv_bias {
                true => Some(self.aligned(&biases)?),
                false => None,
            },
            q_norm: self.norm(Slot::QueryNorm)?,
            k_norm: self.norm(Slot::KeyNorm)?,
            attention: Joined {
                weight: self.matrices(self.spec.query_width(), &[Slot::Output])?,
                bias: self.weights.get(Slot::OutputBias).map(floats).transpose()?,
                norm: self.norm(Slot::PostAttentionNorm)?,
            },
            mlp_norm: norm(self.spec, self.weights.need(Slot::MlpNorm)?)?,
            gate_up: self.matrices(hidden_size, &[Slot::Gate, Slot::Up])?,
            mlp: Joined {
                weight: self.matrices(intermediate_size, &[Slot::Down])?,
                bias: None,
                norm: self.norm(Slot::PostMlpNorm)?,
            },
        })
    }

    fn matrices(&self, depth: usize, slots: &[Slot]) -> Result<Packed, ModelError> {
        let matrices = slots.iter().map(|&slot| floats(self.weights.need(slot)?));
        let matrices = matrices.collect::<Result<Vec<_>, _>>()?;
        let matrices: Vec<&[f32]> = matrices.iter().map(Vec::as_slice).collect();
        Ok(Packed::new(self.isa, depth, &matrices))
    }

    /// Vectors one after another, each from a multiple of sixteen on, as the columns of a product are.
    fn aligned(&self, slots: &[Slot]) -> Result<Vec<f32>, ModelError> {
        let mut all = Vec::new();
        for &slot in slots {
            all.resize(all.len().next_multiple_of(LANES), 0.0);
            all.extend(floats(self.weights.need(slot)?)?);
        }
        Ok(all)
    }

    fn norm(&self, slot: Slot) -> Result<Option<Vec<f32>>, ModelError> {
        self.weights.get(slot).map(|weight| norm(self.spec, weight)).transpose()
    }
}

/// What normalised values are multiplied by.
fn norm(spec: &Spec, weight: &Tensor) -> Result<Vec<f32>, ModelError> {
    Ok(floats(weight)?.into_iter().map(|weight| weight + spec.norm_offset).collect())
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>, ModelError> {
    let tensor = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    Ok(tensor.flatten_all()?.to_vec1()?)
}
