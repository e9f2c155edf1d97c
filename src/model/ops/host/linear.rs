//! Projections `y = x·Wᵀ` with `W` `(out, in)`, as in checkpoints.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::matmul::{Left, MatmulOutput, Right, Transposed, multiply};
use crate::model::ops::host;

/// Rows of one task's product: its operands stay in L2.
const ROWS: usize = 256;

/// `x·Wᵀ`, plus `residual` where given. `x` `(rows, in)`.
pub(crate) fn forward(x: &Tensor, weight: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    let (rows, k) = x.dims2()?;
    let (n, _) = weight.dims2()?;
    let residual = residual.map(host::values).transpose()?;
    let (x, weight) = (host::values(x)?, host::values(weight)?);
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

/// `y + x·Wᵀ`, computed in the memory of `y`, which must not be shared.
pub(crate) fn add(x: &Tensor, weight: &Tensor, y: Tensor) -> Result<Tensor> {
    let (rows, k) = x.dims2()?;
    let (n, _) = weight.dims2()?;
    let (x, weight) = (host::values(x)?, host::values(weight)?);
    let right = Transposed::new(&weight, k, n, k);
    // SAFETY: the target has that shape, and this closure alone has it.
    host::update(&y, |y| unsafe {
        product(MatmulOutput::add(y, n), (rows, n, k), &x, Right::Transposed(&right), None);
    })?;
    Ok(y)
}

/// Adds the gradient of the input, `dY·W`, into `d_x`, which is created if missing.
pub(crate) fn backward_input(
    d_y: &Tensor,
    weight: &Tensor,
    d_x: &mut Option<Tensor>,
) -> Result<()> {
    let (rows, n) = d_y.dims2()?;
    let (_, k) = weight.dims2()?;
    let (d_y, weight) = (host::values(d_y)?, host::values(weight)?);
    let right = Right::Rows { values: &weight, stride: k };
    let shape = (rows, k, n);
    match d_x {
        // SAFETY: the target has that shape, and this closure alone has it.
        Some(d_x) => host::update(d_x, |d_x| unsafe {
            product(MatmulOutput::add(d_x, k), shape, &d_y, right, None);
        }),
        None => {
            // SAFETY: the product writes all rows of a target of that shape.
            let made = unsafe {
                host::build(rows * k, |d_x| {
                    product(MatmulOutput::fill(d_x, k), shape, &d_y, right, None)
                })
            };
            *d_x = Some(host::tensor(made, (rows, k))?);
            Ok(())
        }
    }
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
