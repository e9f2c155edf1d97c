//! The gate of the feed-forward layer: `silu(gate) · up`, with `silu(x) = x·σ(x)`.

use std::mem::MaybeUninit;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::simd::{exp, fma, multiversion};
use crate::model::ops::host;
use crate::model::ops::types::GatedGradient;

/// Values a task works on.
const CHUNK: usize = 16 * 1024;

/// `gate` and `up` have one shape.
pub(crate) fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (g, u) = (host::values(gate)?, host::values(up)?);
    // Safety: the chunks cover all values, and each is written.
    let y = unsafe {
        host::build(g.len(), |y| {
            y.par_chunks_mut(CHUNK)
                .zip(g.par_chunks(CHUNK))
                .zip(u.par_chunks(CHUNK))
                .for_each(|((y, gate), up)| forward_chunk(gate, up, y));
        })
    };
    host::tensor(y, gate.shape())
}

/// Gradients for `d_y`, and the output, which is recomputed rather than kept. They are made in the memory
/// of the arguments, which nobody else may hold.
pub(crate) fn backward(gate: Tensor, up: Tensor, d_y: Tensor) -> Result<GatedGradient> {
    host::update(&gate, |gate| {
        host::update(&up, |up| {
            host::update(&d_y, |d_y| {
                gate.par_chunks_mut(CHUNK)
                    .zip(up.par_chunks_mut(CHUNK))
                    .zip(d_y.par_chunks_mut(CHUNK))
                    .for_each(|((gate, up), d_y)| backward_chunk(gate, up, d_y));
            })
        })
    })???;
    Ok(GatedGradient { y: d_y, d_gate: gate, d_up: up })
}

multiversion! {
    fn forward_chunk(gate: &[f32], up: &[f32], y: &mut [MaybeUninit<f32>]) {
        for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
            y.write(g / (1.0 + exp::<FMA>(-g)) * u);
        }
    }
}

multiversion! {
    // silu′ = σ·(1 + g·(1 − σ)). Each argument is replaced: by d_gate, d_up and the output.
    fn backward_chunk(gate: &mut [f32], up: &mut [f32], d_y: &mut [f32]) {
        for ((gate, up), d_y) in gate.iter_mut().zip(up).zip(d_y) {
            let sigmoid = 1.0 / (1.0 + exp::<FMA>(-*gate));
            let silu = *gate * sigmoid;
            *gate = *d_y * *up * fma::<FMA>(silu, 1.0 - sigmoid, sigmoid);
            let y = silu * *up;
            *up = *d_y * silu;
            *d_y = y;
        }
    }
}
