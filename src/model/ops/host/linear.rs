//! Projections `y = x·(W + s·B·A)ᵀ` with `W` `(out, in)`, as in checkpoints, and a delta or none.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::matmul::{Left, MatmulOutput, Right, Transposed, multiply};
use crate::model::ops::host;
use crate::model::ops::types::Linear;

/// Rows of one task's product: its operands stay in L2.
const ROWS: usize = 256;

/// The weight with its delta. To add it up costs as much as some tens of rows of the product, and
/// saves two products of all rows that wait for memory.
fn with_delta(linear: Linear) -> Result<Tensor> {
    let Some(delta) = linear.delta else { return Ok(linear.weight.clone()) };
    let (out, rank) = delta.b.dims2()?;
    let (_, width) = delta.a.dims2()?;
    let b = (&delta.b * delta.scale)?;
    let (weight, a, b) = (host::values(linear.weight)?, host::values(&delta.a)?, host::values(&b)?);
    let right = Right::Rows { values: &a, stride: width };
    // SAFETY: the weight is copied to all rows, and the product is added to them.
    let sum = unsafe {
        host::build(out * width, |sum| {
            let target = MatmulOutput { add: true, ..MatmulOutput::fill(sum, width) };
            product(target, (out, width, rank), &b, right, Some(&weight));
        })
    };
    host::tensor(sum, (out, width))
}

/// The projection of `x` `(rows, in)`, plus `residual` where given.
pub(crate) fn forward(x: &Tensor, linear: Linear, residual: Option<&Tensor>) -> Result<Tensor> {
    let (rows, k) = x.dims2()?;
    let weight = with_delta(linear)?;
    let (n, _) = weight.dims2()?;
    let residual = residual.map(host::values).transpose()?;
    let (x, weight) = (host::values(x)?, host::values(&weight)?);
    let right = Transposed::new(&weight, k, n, k);
    // SAFETY: the product writes all rows, adding to the residual where there is one.
    let y = unsafe {
        host::build(rows * n, |y| {
            let target = MatmulOutput { add: residual.is_some(), ..MatmulOutput::fill(y, n) };
            product(target, (rows, n, k), &x, Right::Transposed(&right), residual.as_deref());
        })
    };
    host::tensor(y, (rows, n))
}

/// The gradient of the input, `dY·(W + s·B·A)`. It is added to `sum` where given, in that memory.
pub(crate) fn backward_input(d_y: &Tensor, linear: Linear, sum: Option<Tensor>) -> Result<Tensor> {
    let (rows, n) = d_y.dims2()?;
    let weight = with_delta(linear)?;
    let (_, k) = weight.dims2()?;
    let (d_y, weight) = (host::values(d_y)?, host::values(&weight)?);
    let right = Right::Rows { values: &weight, stride: k };
    let shape = (rows, k, n);
    if let Some(sum) = sum {
        // SAFETY: the target has that shape, and this closure alone has it.
        host::update(&sum, |sum| unsafe {
            product(MatmulOutput::add(sum, k), shape, &d_y, right, None);
        })?;
        return Ok(sum);
    }
    // SAFETY: the product writes all rows of a target of that shape.
    let d_x = unsafe {
        host::build(rows * k, |d_x| product(MatmulOutput::fill(d_x, k), shape, &d_y, right, None))
    };
    host::tensor(d_x, (rows, k))
}

/// Adds the gradient of the weight, `dYᵀ·X`, into `d_weight`.
pub(crate) fn backward_weight(d_y: &Tensor, x: &Tensor, d_weight: &mut Tensor) -> Result<()> {
    let (rows, n) = d_y.dims2()?;
    let (_, k) = x.dims2()?;
    let (d_y, x) = (host::values(d_y)?, host::values(x)?);
    host::update(d_weight, |d_weight| accumulate_weight(d_weight, (rows, n, k), &d_y, &x))
}

/// `dYᵀ·X` added into `d_weight` `(n, k)`, with the rows split between threads.
pub(super) fn accumulate_weight(
    d_weight: &mut [f32],
    (rows, n, k): (usize, usize, usize),
    d_y: &[f32],
    x: &[f32],
) {
    let share = n.div_ceil(rayon::current_num_threads()).clamp(1, ROWS);
    d_weight.par_chunks_mut(share * k).enumerate().for_each(|(index, d_weight)| {
        let left = Left::columns(&d_y[index * share..], n);
        let right = Right::Rows { values: x, stride: k };
        // SAFETY: the target is this task's own chunk.
        unsafe {
            multiply((d_weight.len() / k, k, rows), left, right, MatmulOutput::add(d_weight, k))
        };
    });
}

/// `target (+)= x·right` with `x` `(rows, k)`, with the rows split between threads. A residual, in
/// the target's shape, is added to the product.
///
/// # Safety
/// `target` must be valid for `rows` rows of `n`, and not be accessed by others.
pub(super) unsafe fn product(
    target: MatmulOutput,
    (rows, n, k): (usize, usize, usize),
    x: &[f32],
    right: Right,
    residual: Option<&[f32]>,
) {
    let share = rows.div_ceil(rayon::current_num_threads()).clamp(1, ROWS);
    (0..rows.div_ceil(share)).into_par_iter().for_each(|index| {
        let first = index * share;
        let count = share.min(rows - first);
        // SAFETY: tasks take disjoint rows of the target.
        unsafe {
            let target = target.skip(first * n);
            if let Some(residual) = residual {
                let from = &residual[first * n..(first + count) * n];
                std::ptr::copy_nonoverlapping(from.as_ptr(), target.values, from.len());
            }
            multiply((count, n, k), Left::rows(&x[first * k..], k), right, target);
        }
    });
}
