//! Root-mean-square normalisation of rows: `y = x / √(mean(x²) + ε) · w`.

use std::mem::MaybeUninit;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::ROWS;
use super::simd::{dot, dot3, fma, multiversion};
use crate::model::ops::host;
use crate::model::ops::types::Norm;

/// The factor on normalised values.
pub(crate) fn factors(norm: Norm) -> Result<Vec<f32>> {
    Ok(host::values(norm.weight)?.iter().map(|weight| weight + norm.offset).collect())
}

/// `x` `(rows, width)`.
pub(crate) fn forward(x: &Tensor, norm: Norm) -> Result<Tensor> {
    let (weight, eps) = (factors(norm)?, norm.eps);
    let (width, values) = (weight.len(), host::values(x)?);
    let (values, weight) = (&values[..], &weight[..]);
    // SAFETY: the chunks cover all rows, and each row is written.
    let y = unsafe {
        host::build(values.len(), |y| {
            y.par_chunks_mut(ROWS * width)
                .zip(values.par_chunks(ROWS * width))
                .for_each(|(y, x)| forward_rows(x, weight, eps, y));
        })
    };
    host::tensor(y, x.shape())
}

/// Adds the gradient of `x` into `d_x`, and of `weight` into `d_weight` unless it is frozen.
pub(crate) fn backward(
    x: &Tensor,
    norm: Norm,
    d_y: &Tensor,
    d_x: &mut Tensor,
    d_weight: Option<&mut Tensor>,
) -> Result<()> {
    let (weight, eps) = (factors(norm)?, norm.eps);
    let width = weight.len();
    let (x, d_y) = (host::values(x)?, host::values(d_y)?);
    let (x, weight, d_y) = (&x[..], &weight[..], &d_y[..]);
    let mut partial = vec![0.0; width * x.len().div_ceil(ROWS * width)];
    host::update(d_x, |d_x| {
        d_x.par_chunks_mut(ROWS * width)
            .zip(x.par_chunks(ROWS * width))
            .zip(d_y.par_chunks(ROWS * width))
            .zip(partial.par_chunks_mut(width))
            .for_each(|(((d_x, x), d_y), d_weight)| {
                backward_rows(x, weight, eps, d_y, d_x, d_weight);
            });
    })?;
    host::add_partial(d_weight, &partial)
}

multiversion! {
    fn forward_rows(x: &[f32], weight: &[f32], eps: f32, y: &mut [MaybeUninit<f32>]) {
        let width = weight.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let scale = 1.0 / (dot::<FMA>(x, x) / width as f32 + eps).sqrt();
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                y.write(x * scale * w);
            }
        }
    }
}

multiversion! {
    // With s = 1/√(mean(x²)+ε): dx = s·(w·dy) − x · s³/width · Σ x·w·dy, and dw = Σ dy·x·s.
    fn backward_rows(x: &[f32], weight: &[f32], eps: f32, d_y: &[f32], d_x: &mut [f32], d_weight: &mut [f32]) {
        let width = weight.len();
        let d_weight = &mut d_weight[..width];
        for ((x, d_y), d_x) in
            x.chunks_exact(width).zip(d_y.chunks_exact(width)).zip(d_x.chunks_exact_mut(width))
        {
            let scale = 1.0 / (dot::<FMA>(x, x) / width as f32 + eps).sqrt();
            let inner = dot3::<FMA>(x, weight, d_y);
            let pull = -scale * scale * scale / width as f32 * inner;
            for i in 0..width {
                d_x[i] += fma::<FMA>(scale * weight[i], d_y[i], pull * x[i]);
                d_weight[i] = fma::<FMA>(d_y[i] * scale, x[i], d_weight[i]);
            }
        }
    }
}
