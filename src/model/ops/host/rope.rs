//! Per-head root-mean-square normalisation followed by the rotary embedding, as Qwen3 does it to
//! queries and keys: element `i` of a head is rotated with element `i + head_dim/2`.

use std::mem::MaybeUninit;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::ROWS;
use super::simd::{dot, dot3, fma, multiversion};
use crate::model::ops::host;
use crate::model::ops::types::{Norm, Rotation};

/// `x` `(rows, heads × head_dim)`; the norm is of width `head_dim`.
pub(crate) fn forward(x: &Tensor, norm: Norm, rotation: &Rotation) -> Result<Tensor> {
    let Norm { weight, eps } = norm;
    let (rows, width) = x.dims2()?;
    let half = weight.elem_count() / 2;
    let (values, weight) = (host::values(x)?, host::values(weight)?);
    let (cos, sin) = (host::values(&rotation.cos)?, host::values(&rotation.sin)?);
    let (values, weight, cos, sin) = (&values[..], &weight[..], &cos[..], &sin[..]);
    // Safety: the chunks cover all rows, and each row is written.
    let y = unsafe {
        host::build(values.len(), |y| {
            y.par_chunks_mut(ROWS * width)
                .zip(values.par_chunks(ROWS * width))
                .zip(cos.par_chunks(ROWS * half))
                .zip(sin.par_chunks(ROWS * half))
                .for_each(|(((y, x), cos), sin)| forward_rows(x, width, weight, eps, cos, sin, y));
        })
    };
    host::tensor(y, (rows, width))
}

/// The gradient of `x`, made in the memory of `d_y`, which nobody else may hold; adds that of `weight` into
/// `d_weight` unless it is frozen.
pub(crate) fn backward(
    x: &Tensor,
    norm: Norm,
    rotation: &Rotation,
    d_y: Tensor,
    d_weight: Option<&mut Tensor>,
) -> Result<Tensor> {
    let Norm { weight, eps } = norm;
    let (rows, width) = x.dims2()?;
    let head = weight.elem_count();
    let half = head / 2;
    let (x, weight) = (host::values(x)?, host::values(weight)?);
    let (cos, sin) = (host::values(&rotation.cos)?, host::values(&rotation.sin)?);
    let (x, weight, cos, sin) = (&x[..], &weight[..], &cos[..], &sin[..]);
    let mut partial = vec![0.0; head * rows.div_ceil(ROWS)];
    host::update(&d_y, |d| {
        d.par_chunks_mut(ROWS * width)
            .zip(x.par_chunks(ROWS * width))
            .zip(cos.par_chunks(ROWS * half).zip(sin.par_chunks(ROWS * half)))
            .zip(partial.par_chunks_mut(head))
            .for_each(|(((d, x), (cos, sin)), d_weight)| {
                backward_rows(x, width, weight, eps, cos, sin, d, d_weight);
            });
    })?;
    host::add_partial(d_weight, &partial)?;
    Ok(d_y)
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
    // `d` holds the gradient of the output and gets that of the input.
    fn backward_rows(
        x: &[f32], width: usize, weight: &[f32], eps: f32, cos: &[f32], sin: &[f32],
        d: &mut [f32], d_weight: &mut [f32],
    ) {
        let head = weight.len();
        let half = head / 2;
        let d_weight = &mut d_weight[..head];
        let rows = x.chunks_exact(width).zip(d.chunks_exact_mut(width));
        for ((x, d), (cos, sin)) in rows.zip(cos.chunks_exact(half).zip(sin.chunks_exact(half))) {
            for (x, d) in x.chunks_exact(head).zip(d.chunks_exact_mut(head)) {
                let scale = 1.0 / (dot::<FMA>(x, x) / head as f32 + eps).sqrt();
                let (d1, d2) = d.split_at_mut(half);
                for i in 0..half {
                    let (a, b) = (d1[i], d2[i]);
                    d1[i] = fma::<FMA>(a, cos[i], b * sin[i]);
                    d2[i] = fma::<FMA>(b, cos[i], -(a * sin[i]));
                }
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
