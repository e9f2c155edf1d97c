//! Biases in host memory.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{ROWS, simd};
use crate::model::ops::host;

pub(crate) fn forward(y: Tensor, bias: &Tensor) -> Result<Tensor> {
    let (_, width) = y.dims2()?;
    let bias = host::values(bias)?;
    let bias = &bias[..];
    host::update(&y, |y| {
        y.par_chunks_mut(ROWS * width)
            .for_each(|rows| rows.chunks_exact_mut(width).for_each(|row| simd::add(row, bias)));
    })?;
    Ok(y)
}

pub(crate) fn backward(d_y: &Tensor, d_bias: &mut Tensor) -> Result<()> {
    let (rows, width) = d_y.dims2()?;
    let d_y = host::values(d_y)?;
    let mut partial = vec![0.0; width * rows.div_ceil(ROWS)];
    partial.par_chunks_mut(width).zip(d_y.par_chunks(ROWS * width)).for_each(|(sum, rows)| {
        rows.chunks_exact(width).for_each(|row| simd::add(sum, row));
    });
    host::add_partial(Some(d_bias), &partial)
}
