//! The gate of the feed-forward layer: `silu(gate) · up`, with `silu(x) = x·σ(x)`.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::simd::{exp, fma, multiversion};
use super::{host, portable};

/// Values a task works on.
const CHUNK: usize = 16 * 1024;

/// `gate` and `up` have one shape.
pub(crate) fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if !host::is_host(gate) {
        return portable::swiglu(gate, up);
    }
    let mut y = vec![0.0; gate.elem_count()];
    let (g, u) = (host::values(gate)?, host::values(up)?);
    y.par_chunks_mut(CHUNK)
        .zip(g.par_chunks(CHUNK))
        .zip(u.par_chunks(CHUNK))
        .for_each(|((y, gate), up)| forward_chunk(gate, up, y));
    host::tensor(y, gate.shape())
}

/// The output once more, and the gradients of `gate` and `up`.
pub(crate) struct Backward {
    pub y: Tensor,
    pub d_gate: Tensor,
    pub d_up: Tensor,
}

/// Gradients for `d_y`; the output is recomputed on the way rather than kept.
pub(crate) fn backward(gate: &Tensor, up: &Tensor, d_y: &Tensor) -> Result<Backward> {
    if !host::is_host(gate) {
        return portable::swiglu_backward(gate, up, d_y);
    }
    let n = gate.elem_count();
    let (mut y, mut d_gate, mut d_up) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
    let (g, u, d) = (host::values(gate)?, host::values(up)?, host::values(d_y)?);
    y.par_chunks_mut(CHUNK)
        .zip(d_gate.par_chunks_mut(CHUNK).zip(d_up.par_chunks_mut(CHUNK)))
        .zip(g.par_chunks(CHUNK).zip(u.par_chunks(CHUNK)).zip(d.par_chunks(CHUNK)))
        .for_each(|((y, (d_gate, d_up)), ((gate, up), d_y))| {
            backward_chunk(gate, up, d_y, y, d_gate, d_up);
        });
    Ok(Backward {
        y: host::tensor(y, gate.shape())?,
        d_gate: host::tensor(d_gate, gate.shape())?,
        d_up: host::tensor(d_up, gate.shape())?,
    })
}

multiversion! {
    fn forward_chunk(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
            *y = g / (1.0 + exp::<FMA>(-g)) * u;
        }
    }
}

multiversion! {
    // silu′ = σ·(1 + g·(1 − σ)).
    fn backward_chunk(gate: &[f32], up: &[f32], d_y: &[f32], y: &mut [f32], d_gate: &mut [f32], d_up: &mut [f32]) {
        let n = gate.len();
        let (up, d_y) = (&up[..n], &d_y[..n]);
        let (y, d_gate, d_up) = (&mut y[..n], &mut d_gate[..n], &mut d_up[..n]);
        for i in 0..n {
            let sigmoid = 1.0 / (1.0 + exp::<FMA>(-gate[i]));
            let silu = gate[i] * sigmoid;
            y[i] = silu * up[i];
            d_up[i] = d_y[i] * silu;
            d_gate[i] = d_y[i] * up[i] * fma::<FMA>(silu, 1.0 - sigmoid, sigmoid);
        }
    }
}
