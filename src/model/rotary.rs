//! Cosines and sines of rotary embeddings, computed on demand.

use std::sync::{Arc, OnceLock};

use candle_core::{Device, Result, Tensor};

use super::ops::types::Rotation;
use super::spec::{Rope, Spec};

/// Positions that are computed together.
const CHUNK: usize = 256;

/// The angles of one rotary embedding at every position of a context.
#[derive(Debug)]
pub(crate) struct RotaryTable {
    frequencies: Vec<f32>,
    factor: f32,
    /// `(CHUNK, 2, head_dim / 2)` each: cosines, then sines.
    chunks: Vec<OnceLock<Box<[f32]>>>,
}

impl RotaryTable {
    /// For each of the model's rotary embeddings.
    pub fn all(spec: &Spec) -> Arc<[Self]> {
        let table = |rope| Self::new(rope, spec.head_dim, spec.max_position_embeddings);
        spec.ropes.iter().map(table).collect()
    }

    pub fn new(rope: &Rope, head_dim: usize, context: usize) -> Self {
        Self {
            frequencies: rope.frequencies(head_dim),
            factor: rope.attention_factor(),
            chunks: (0..context.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Cosines, then sines, at a position below the context: `(2, head_dim / 2)`.
    pub fn angles(&self, position: usize) -> &[f32] {
        let (index, width) = (position / CHUNK, 2 * self.frequencies.len());
        let chunk = self.chunks[index].get_or_init(|| {
            let mut chunk = Vec::with_capacity(CHUNK * width);
            for position in index * CHUNK..(index + 1) * CHUNK {
                // Rounded to f32 where transformers does: frequencies, then angles.
                let angles = self.frequencies.iter().map(|f| position as f32 * f);
                chunk.extend(angles.clone().map(|angle| angle.cos() * self.factor));
                chunk.extend(angles.map(|angle| angle.sin() * self.factor));
            }
            chunk.into_boxed_slice()
        });
        &chunk[position % CHUNK * width..][..width]
    }

    /// Of rows at these positions, each below the context.
    pub fn rotation(&self, positions: &[u32], device: &Device) -> Result<Rotation> {
        let (rows, half) = (positions.len(), self.frequencies.len());
        let (mut cos, mut sin) = (Vec::with_capacity(rows * half), Vec::with_capacity(rows * half));
        for &position in positions {
            let (cosines, sines) = self.angles(position as usize).split_at(half);
            cos.extend_from_slice(cosines);
            sin.extend_from_slice(sines);
        }
        Ok(Rotation {
            cos: Tensor::from_vec(cos, (rows, half), device)?,
            sin: Tensor::from_vec(sin, (rows, half), device)?,
        })
    }
}
