//! Low-rank adapters as the decoder adds them: beside the base, which stays as it is.

use candle_core::{DType, Device, Tensor};

use super::kernels::Isa;
use super::kernels::low_rank::LowRank;
use super::kernels::simd::{LANES, Line};
use crate::model::error::ModelError;
use crate::model::lora::Adapter;
use crate::model::slots::Projection;
use crate::model::spec::Spec;

/// The pairs of all layers, on the CPU in f32.
#[derive(Debug)]
pub(super) struct PackedAdapter {
    pub layers: Vec<AdaptedLayer>,
}

/// What is added to each product of a layer: one pair for each adapted projection in it.
#[derive(Debug)]
pub(super) struct AdaptedLayer {
    pub qkv: Vec<PackedPair>,
    pub attention: Vec<PackedPair>,
    pub gate_up: Vec<PackedPair>,
    pub mlp: Vec<PackedPair>,
}

/// One projection's pair.
#[derive(Debug)]
pub(super) struct PackedPair {
    rank: usize,
    /// `(rank, in)`
    a: Vec<f32>,
    /// `(out / 16, rank)` lines; outputs beyond the last are 0.
    b: Vec<Line>,
    scale: f32,
    /// The first column of the projection in the product.
    at: usize,
}

impl PackedAdapter {
    /// # Errors
    /// When a tensor cannot be copied to the CPU.
    pub fn new(spec: &Spec, adapter: &Adapter) -> Result<Self, ModelError> {
        let layers = (0..spec.layers.len()).map(|index| {
            let product = |parts: &[Projection]| {
                let (mut pairs, mut at) = (Vec::new(), 0);
                for &which in parts {
                    if let Some(delta) = adapter.delta(index, which) {
                        let (a, b) = (floats(&delta.a)?, floats(&delta.b)?);
                        let rank = delta.a.dim(0)?;
                        let (b, scale) = (panels(&b, rank), delta.scale as f32);
                        pairs.push(PackedPair { rank, a, b, scale, at });
                    }
                    // As the columns of a product are.
                    at += which.shape(spec).0.next_multiple_of(LANES);
                }
                Ok::<_, ModelError>(pairs)
            };
            Ok(AdaptedLayer {
                qkv: product(&[Projection::Query, Projection::Key, Projection::Value])?,
                attention: product(&[Projection::Output])?,
                gate_up: product(&[Projection::Gate, Projection::Up])?,
                mlp: product(&[Projection::Down])?,
            })
        });
        Ok(Self { layers: layers.collect::<Result<_, ModelError>>()? })
    }
}

impl PackedPair {
    /// Adds to a row of the product what follows from its input `x`; `low` is working memory.
    pub fn add(&self, isa: Isa, x: &[f32], out: &mut [f32], low: &mut Vec<f32>) {
        low.resize(self.rank, 0.0);
        let columns = self.b.len() / self.rank * LANES;
        isa.run(LowRank {
            x,
            a: &self.a,
            b: &self.b,
            scale: self.scale,
            low,
            out: &mut out[self.at..][..columns],
        });
    }
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>, ModelError> {
    let tensor = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    Ok(tensor.flatten_all()?.to_vec1()?)
}

/// `(out, rank)` in panels of sixteen outputs.
fn panels(b: &[f32], rank: usize) -> Vec<Line> {
    let mut lines = vec![Line::ZERO; (b.len() / rank).div_ceil(LANES) * rank];
    for (out, row) in b.chunks_exact(rank).enumerate() {
        let panel = &mut lines[out / LANES * rank..][..rank];
        for (line, &value) in panel.iter_mut().zip(row) {
            line.0[out % LANES] = value;
        }
    }
    lines
}
