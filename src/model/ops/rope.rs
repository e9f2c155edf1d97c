//! Per-head root-mean-square normalisation followed by the rotary embedding, as Qwen3 does it to
//! queries and keys: element `i` of a head is rotated with element `i + head_dim/2`.

use std::mem::MaybeUninit;

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::rms_norm::Norm;
use super::simd::{dot, dot3, fma, multiversion};
use super::{ROWS, host, portable};

/// Cosines and sines of `position × θ^(−2i/head_dim)` for the rows of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Rotation {
    /// `(rows, head_dim / 2)`, f32.
    pub cos: Tensor,
    /// `(rows, head_dim / 2)`, f32.
    pub sin: Tensor,
}

impl Rotation {
    /// For each row its position within its own sequence.
    pub fn new(positions: &[u32], head_dim: usize, theta: f64, device: &Device) -> Result<Self> {
        let half = head_dim / 2;
        let rows = positions.len();
        // Rounded to f32 where transformers does: frequencies, then angles.
        let frequencies: Vec<f32> = (0..half)
            .map(|i| (1.0 / theta.powf((2 * i) as f64 / head_dim as f64)) as f32)
            .collect();
        let longest = positions.iter().max().map_or(0, |&p| p as usize + 1);
        let mut table = Vec::with_capacity(longest * half);
        for position in 0..longest {
            table.extend(frequencies.iter().map(|f| (position as f32 * f).sin_cos()));
        }
        let (mut cos, mut sin) = (Vec::with_capacity(rows * half), Vec::with_capacity(rows * half));
        for &position in positions {
            let angles = &table[position as usize * half..(position as usize + 1) * half];
            cos.extend(angles.iter().map(|(_, cos)| *cos));
            sin.extend(angles.iter().map(|(sin, _)| *sin));
        }
        Ok(Self {
            cos: Tensor::from_vec(cos, (rows, half), device)?,
            sin: Tensor::from_vec(sin, (rows, half), device)?,
        })
    }

    /// Some rows of a table of all positions.
    pub fn rows(&self, positions: &Tensor) -> Result<Self> {
        Ok(Self {
            cos: self.cos.index_select(positions, 0)?,
            sin: self.sin.index_select(positions, 0)?,
        })
    }
}

/// `x` `(rows, heads × head_dim)`; the norm is of width `head_dim`.
pub(crate) fn forward(x: &Tensor, norm: Norm, rotation: &Rotation) -> Result<Tensor> {
    if !host::is_host(x) {
        return portable::norm_rope(x, norm, rotation);
    }
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
    if !host::is_host(x) {
        return portable::norm_rope_backward(x, norm, rotation, &d_y, d_weight);
    }
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
