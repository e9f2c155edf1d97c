//! The rotary embedding in host memory, after a norm of each head where there is one.

use std::mem::MaybeUninit;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::ROWS;
use super::rms_norm::factors;
use super::simd::{dot, dot3, fma, multiversion};
use crate::model::ops::host;
use crate::model::ops::types::{Norm, Rotation};

/// `x` `(rows, heads × head_dim)`; a norm is of width `head_dim`.
pub(crate) fn forward(x: &Tensor, norm: Option<Norm>, rotation: &Rotation) -> Result<Tensor> {
    let weight = norm.map(factors).transpose()?;
    let norm = weight.as_deref().zip(norm.map(|norm| norm.eps));
    let (rows, width) = x.dims2()?;
    let half = rotation.cos.dim(1)?;
    let values = host::values(x)?;
    let (cos, sin) = (host::values(&rotation.cos)?, host::values(&rotation.sin)?);
    let (values, cos, sin) = (&values[..], &cos[..], &sin[..]);
    // SAFETY: the chunks cover all rows, and each row is written.
    let y = unsafe {
        host::build(values.len(), |y| {
            y.par_chunks_mut(ROWS * width)
                .zip(values.par_chunks(ROWS * width))
                .zip(cos.par_chunks(ROWS * half))
                .zip(sin.par_chunks(ROWS * half))
                .for_each(|(((y, x), cos), sin)| match norm {
                    Some((weight, eps)) => forward_rows(x, width, weight, eps, cos, sin, y),
                    None => rotate_rows(x, width, half, cos, sin, y),
                });
        })
    };
    host::tensor(y, (rows, width))
}

pub(crate) fn backward(
    norm: Option<(&Tensor, Norm)>,
    rotation: &Rotation,
    d_y: Tensor,
    d_weight: Option<&mut Tensor>,
) -> Result<Tensor> {
    let (rows, width) = d_y.dims2()?;
    let half = rotation.cos.dim(1)?;
    let (cos, sin) = (host::values(&rotation.cos)?, host::values(&rotation.sin)?);
    let (cos, sin) = (&cos[..], &sin[..]);
    host::update(&d_y, |d| {
        d.par_chunks_mut(ROWS * width)
            .zip(cos.par_chunks(ROWS * half).zip(sin.par_chunks(ROWS * half)))
            .for_each(|(d, (cos, sin))| rotate_rows_back(d, width, half, cos, sin));
    })?;
    let Some((x, norm)) = norm else { return Ok(d_y) };
    let (x, weight, eps) = (host::values(x)?, factors(norm)?, norm.eps);
    let (x, weight) = (&x[..], &weight[..]);
    let mut partial = vec![0.0; weight.len() * rows.div_ceil(ROWS)];
    host::update(&d_y, |d| {
        d.par_chunks_mut(ROWS * width)
            .zip(x.par_chunks(ROWS * width))
            .zip(partial.par_chunks_mut(weight.len()))
            .for_each(|((d, x), d_weight)| backward_rows(x, width, weight, eps, d, d_weight));
    })?;
    host::add_partial(d_weight, &partial)?;
    Ok(d_y)
}

multiversion! {
    fn rotate_rows(x: &[f32], width: usize, half: usize, cos: &[f32], sin: &[f32], y: &mut [MaybeUninit<f32>]) {
        let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
        for ((x, y), (cos, sin)) in rows.zip(cos.chunks_exact(half).zip(sin.chunks_exact(half))) {
            for (x, y) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
                let (x1, x2) = x.split_at(half);
                let (y1, y2) = y.split_at_mut(half);
                for i in 0..half {
                    y1[i].write(fma::<FMA>(x1[i], cos[i], -(x2[i] * sin[i])));
                    y2[i].write(fma::<FMA>(x2[i], cos[i], x1[i] * sin[i]));
                }
            }
        }
    }
}

multiversion! {
    fn rotate_rows_back(d: &mut [f32], width: usize, half: usize, cos: &[f32], sin: &[f32]) {
        let rows = d.chunks_exact_mut(width);
        for (d, (cos, sin)) in rows.zip(cos.chunks_exact(half).zip(sin.chunks_exact(half))) {
            for d in d.chunks_exact_mut(2 * half) {
                let (d1, d2) = d.split_at_mut(half);
                for i in 0..half {
                    let (a, b) = (d1[i], d2[i]);
                    d1[i] = fma::<FMA>(a, cos[i], b * sin[i]);
                    d2[i] = fma::<FMA>(b, cos[i], -(a * sin[i]));
                }
            }
        }
    }
}

multiversion! {
    fn forward_rows(x: &[f32], width: usize, weight: &[f32], eps: f32, cos: &[f32], sin: &[f32], y: &mut [MaybeUninit<f32>]) {
        let head = weight.len();
        let half = head / 2;
        let (w1, w2) = weight.split_at(half);
        let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
        for ((x, y), (cos, sin)) in rows.zip(cos.chunks_exact(half).zip(sin.chunks_exact(half))) {
            for (x, y) in x.chunks_exact(head).zip(y.chunks_exact_mut(head)) {
                let scale = 1.0 / (dot::<FMA>(x, x) / head as f32 + eps).sqrt();
                let (x1, x2) = x.split_at(half);
                let (y1, y2) = y.split_at_mut(half);
                for i in 0..half {
                    let (a, b) = (x1[i] * scale * w1[i], x2[i] * scale * w2[i]);
                    y1[i].write(fma::<FMA>(a, cos[i], -(b * sin[i])));
                    y2[i].write(fma::<FMA>(b, cos[i], a * sin[i]));
                }
            }
        }
    }
}

multiversion! {
    // The norm's part. `d` holds the gradient of the norm's output and gets that of its input.
    fn backward_rows(
        x: &[f32], width: usize, weight: &[f32], eps: f32, d: &mut [f32], d_weight: &mut [f32],
    ) {
        let head = weight.len();
        let d_weight = &mut d_weight[..head];
        for (x, d) in x.chunks_exact(width).zip(d.chunks_exact_mut(width)) {
            for (x, d) in x.chunks_exact(head).zip(d.chunks_exact_mut(head)) {
                let scale = 1.0 / (dot::<FMA>(x, x) / head as f32 + eps).sqrt();
                let inner = dot3::<FMA>(x, weight, d);
                let pull = -scale * scale * scale / head as f32 * inner;
                for i in 0..head {
                    d_weight[i] = fma::<FMA>(d[i] * scale, x[i], d_weight[i]);
                    d[i] = fma::<FMA>(scale * weight[i], d[i], pull * x[i]);
                }
            }
        }
    }
}
