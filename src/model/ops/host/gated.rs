//! The gate of the feed-forward layer in host memory.

use std::mem::MaybeUninit;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::simd::{exp, fma, multiversion};
use crate::model::ops::host;
use crate::model::ops::types::GatedGradient;
use crate::model::spec::Gate;

/// Values a task works on.
const CHUNK: usize = 16 * 1024;

/// `gate` and `up` have one shape.
pub(crate) fn forward(gate: &Tensor, up: &Tensor, kind: Gate) -> Result<Tensor> {
    let (g, u) = (host::values(gate)?, host::values(up)?);
    let (a, b) = polynomial(kind);
    // SAFETY: the chunks cover all values, and each is written.
    let y = unsafe {
        host::build(g.len(), |y| {
            y.par_chunks_mut(CHUNK)
                .zip(g.par_chunks(CHUNK))
                .zip(u.par_chunks(CHUNK))
                .for_each(|((y, gate), up)| forward_chunk(gate, up, a, b, y));
        })
    };
    host::tensor(y, gate.shape())
}

/// Gradients for `d_y`, and the output, which is recomputed rather than stored. They are computed
/// in the memory of the arguments, which must not be shared.
pub(crate) fn backward(gate: Tensor, up: Tensor, d_y: Tensor, kind: Gate) -> Result<GatedGradient> {
    let (a, b) = polynomial(kind);
    host::update(&gate, |gate| {
        host::update(&up, |up| {
            host::update(&d_y, |d_y| {
                gate.par_chunks_mut(CHUNK)
                    .zip(up.par_chunks_mut(CHUNK))
                    .zip(d_y.par_chunks_mut(CHUNK))
                    .for_each(|((gate, up), d_y)| backward_chunk(gate, up, a, b, d_y));
            })
        })
    })???;
    Ok(GatedGradient { y: d_y, d_gate: gate, d_up: up })
}

fn polynomial(kind: Gate) -> (f32, f32) {
    let (a, b) = kind.polynomial();
    (a as f32, b as f32)
}

multiversion! {
    fn forward_chunk(gate: &[f32], up: &[f32], a: f32, b: f32, y: &mut [MaybeUninit<f32>]) {
        for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
            let z = g * fma::<FMA>(b, g * g, a);
            y.write(g / (1.0 + exp::<FMA>(-z)) * u);
        }
    }
}

multiversion! {
    // f′ = σ + f·(1 − σ)·z′. Each argument is replaced: by d_gate, d_up and the output.
    fn backward_chunk(gate: &mut [f32], up: &mut [f32], a: f32, b: f32, d_y: &mut [f32]) {
        for ((gate, up), d_y) in gate.iter_mut().zip(up).zip(d_y) {
            let square = *gate * *gate;
            let sigmoid = 1.0 / (1.0 + exp::<FMA>(-(*gate * fma::<FMA>(b, square, a))));
            let active = *gate * sigmoid;
            let slope = fma::<FMA>(3.0 * b, square, a);
            *gate = *d_y * *up * fma::<FMA>(active * slope, 1.0 - sigmoid, sigmoid);
            let y = active * *up;
            *up = *d_y * active;
            *d_y = y;
        }
    }
}
