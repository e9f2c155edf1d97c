//! A Qwen3's weights as the decoder reads them.

use candle_core::{DType, Device, Tensor};

use super::kernels::Isa;
use super::kernels::matmul::Packed;
use crate::model::config::ModelConfig;
use crate::model::error::ModelError;
use crate::model::weights::{LayerWeights, Weights};

/// One layer: norms as they are, projections that read the same input packed as one.
#[derive(Debug)]
pub(super) struct PackedLayer {
    pub input_norm: Vec<f32>,
    pub qkv: Packed,
    pub q_norm: Vec<f32>,
    pub k_norm: Vec<f32>,
    pub o: Packed,
    pub post_norm: Vec<f32>,
    pub gate_up: Packed,
    pub down: Packed,
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
    pub fn new(isa: Isa, config: &ModelConfig, weights: &Weights) -> Result<Self, ModelError> {
        let embed = floats(&weights.embed)?;
        let head = match &weights.lm_head {
            Some(head) => Packed::new(isa, config.hidden_size, &[&floats(head)?]),
            None => Packed::new(isa, config.hidden_size, &[&embed]),
        };
        let layers = weights.layers.iter().map(|layer| pack_layer(isa, config, layer));
        Ok(Self {
            layers: layers.collect::<Result<_, _>>()?,
            norm: floats(&weights.norm)?,
            embed,
            head,
        })
    }
}

fn pack_layer(
    isa: Isa,
    config: &ModelConfig,
    layer: &LayerWeights,
) -> Result<PackedLayer, ModelError> {
    let pack = |depth: usize, tensors: &[&Tensor]| -> Result<Packed, ModelError> {
        let matrices = tensors.iter().map(|t| floats(t)).collect::<Result<Vec<_>, _>>()?;
        let matrices: Vec<&[f32]> = matrices.iter().map(Vec::as_slice).collect();
        Ok(Packed::new(isa, depth, &matrices))
    };
    let hidden = config.hidden_size;
    Ok(PackedLayer {
        input_norm: floats(&layer.input_norm)?,
        qkv: pack(hidden, &[&layer.q_proj, &layer.k_proj, &layer.v_proj])?,
        q_norm: floats(&layer.q_norm)?,
        k_norm: floats(&layer.k_norm)?,
        o: pack(config.num_attention_heads * config.head_dim, &[&layer.o_proj])?,
        post_norm: floats(&layer.post_norm)?,
        gate_up: pack(hidden, &[&layer.gate_proj, &layer.up_proj])?,
        down: pack(config.intermediate_size, &[&layer.down_proj])?,
    })
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>, ModelError> {
    let tensor = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    Ok(tensor.flatten_all()?.to_vec1()?)
}
