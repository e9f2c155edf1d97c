//! Projections `y = x·Wᵀ` with `W` `(out, in)`, as in checkpoints.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::matmul::{Left, Right, Target, Transposed, multiply};
use super::{host, portable};

/// Rows of one task's product: its operands stay in L2.
const ROWS: usize = 256;

fn rows_per_task(rows: usize) -> usize {
    rows.div_ceil(rayon::current_num_threads()).clamp(1, ROWS)
}

/// `x·Wᵀ`, plus `residual` where given. `x` `(rows, in)`.
pub(crate) fn forward(x: &Tensor, weight: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    if !host::is_host(x) {
        return portable::linear(x, weight, residual);
    }
    let (rows, k) = x.dims2()?;
    let (n, _) = weight.dims2()?;
    let mut y = match residual {
        Some(residual) => host::values(residual)?.to_vec(),
        None => vec![0.0; rows * n],
    };
    let (x, weight) = (host::values(x)?, host::values(weight)?);
    let right = Transposed::new(&weight, k, n, k);
    product(&mut y, (n, k), &x, Right::Transposed(&right), residual.is_some());
    host::tensor(y, (rows, n))
}

/// Adds the gradient of the input, `dY·W`, into `d_x`; makes it where there is none.
pub(crate) fn backward_input(
    d_y: &Tensor,
    weight: &Tensor,
    d_x: &mut Option<Tensor>,
) -> Result<()> {
    if !host::is_host(d_y) {
        return portable::linear_backward_input(d_y, weight, d_x);
    }
    let (rows, n) = d_y.dims2()?;
    let (_, k) = weight.dims2()?;
    let (d_y, weight) = (host::values(d_y)?, host::values(weight)?);
    let right = Right::Rows { values: &weight, stride: k };
    match d_x {
        Some(d_x) => host::update(d_x, |d_x| product(d_x, (k, n), &d_y, right, true)),
        None => {
            let mut made = vec![0.0; rows * k];
            product(&mut made, (k, n), &d_y, right, false);
            *d_x = Some(host::tensor(made, (rows, k))?);
            Ok(())
        }
    }
}

/// Adds the gradient of the weight, `dYᵀ·X`, into `d_weight`.
pub(crate) fn backward_weight(d_y: &Tensor, x: &Tensor, d_weight: &mut Tensor) -> Result<()> {
    if !host::is_host(d_y) {
        return portable::linear_backward_weight(d_y, x, d_weight);
    }
    let (rows, n) = d_y.dims2()?;
    let (_, k) = x.dims2()?;
    let (d_y, x) = (host::values(d_y)?, host::values(x)?);
    host::update(d_weight, |d_weight| accumulate_weight(d_weight, (rows, n, k), &d_y, &x))
}

/// `dYᵀ·X` added into `d_weight` `(n, k)`; threads share out its rows.
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
        // Safety: the target is this task's own chunk.
        unsafe { multiply((d_weight.len() / k, k, rows), left, right, Target::add(d_weight, k)) };
    });
}

/// `y (+)= x·right` with `y` `(rows, n)` and `x` `(rows, k)`; threads share out the rows.
pub(super) fn product(y: &mut [f32], (n, k): (usize, usize), x: &[f32], right: Right, add: bool) {
    let share = rows_per_task(y.len() / n);
    y.par_chunks_mut(share * n).zip(x.par_chunks(share * k)).for_each(|(y, x)| {
        let shape = (y.len() / n, n, k);
        let target = if add { Target::add(y, n) } else { Target::write(y, n) };
        // Safety: the target is this task's own chunk.
        unsafe { multiply(shape, Left::rows(x, k), right, target) };
    });
}
