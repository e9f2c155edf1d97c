//! Projections `y = x·Wᵀ` with `W` `(out, in)`, as in checkpoints.

use candle_core::{Result, Tensor};

use super::{composed, host};

/// `x·Wᵀ`, plus `residual` where given. `x` `(rows, in)`.
pub(crate) fn forward(x: &Tensor, weight: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    match host::is_host(x) {
        true => host::linear::forward(x, weight, residual),
        false => composed::linear(x, weight, residual),
    }
}

/// `y + x·Wᵀ`, computed in the memory of `y`, which must not be shared.
pub(crate) fn add(x: &Tensor, weight: &Tensor, y: Tensor) -> Result<Tensor> {
    match host::is_host(x) {
        true => host::linear::add(x, weight, y),
        false => composed::linear(x, weight, Some(&y)),
    }
}

/// Adds the gradient of the input, `dY·W`, into `d_x`, which is created if missing.
pub(crate) fn backward_input(
    d_y: &Tensor,
    weight: &Tensor,
    d_x: &mut Option<Tensor>,
) -> Result<()> {
    match host::is_host(d_y) {
        true => host::linear::backward_input(d_y, weight, d_x),
        false => composed::linear_backward_input(d_y, weight, d_x),
    }
}

/// Adds the gradient of the weight, `dYᵀ·X`, into `d_weight`.
pub(crate) fn backward_weight(d_y: &Tensor, x: &Tensor, d_weight: &mut Tensor) -> Result<()> {
    match host::is_host(d_y) {
        true => host::linear::backward_weight(d_y, x, d_weight),
        false => composed::linear_backward_weight(d_y, x, d_weight),
    }
}
