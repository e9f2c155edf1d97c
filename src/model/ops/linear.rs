//! Projections `y = x·(W + s·B·A)ᵀ` with `W` `(out, in)`, as in checkpoints, and a delta or none.

use candle_core::{Result, Tensor};

use super::types::{Delta, Linear};
use super::{composed, host};

/// The projection of `x` `(rows, in)`, plus `residual` where given.
pub(crate) fn forward(x: &Tensor, linear: Linear, residual: Option<&Tensor>) -> Result<Tensor> {
    match host::is_host(x) {
        true => host::linear::forward(x, linear, residual),
        false => composed::linear(x, linear, residual),
    }
}

/// The gradient of the input, `dY·(W + s·B·A)`. It is added to `sum` where given, in that memory.
pub(crate) fn backward_input(d_y: &Tensor, linear: Linear, sum: Option<Tensor>) -> Result<Tensor> {
    match host::is_host(d_y) {
        true => host::linear::backward_input(d_y, linear, sum),
        false => composed::linear_backward_input(d_y, linear, sum),
    }
}

/// Adds the gradient of the weight, `dYᵀ·X`, into `d_weight`.
pub(crate) fn backward_weight(d_y: &Tensor, x: &Tensor, d_weight: &mut Tensor) -> Result<()> {
    match host::is_host(d_y) {
        true => host::linear::backward_weight(d_y, x, d_weight),
        false => composed::linear_backward_weight(d_y, x, d_weight),
    }
}

/// Adds the gradient of the delta's `A`, `(s·dY·B)ᵀ·X`, into `d_a`.
pub(crate) fn backward_a(d_y: &Tensor, x: &Tensor, delta: &Delta, d_a: &mut Tensor) -> Result<()> {
    let inner = (backward_input(d_y, Linear::plain(&delta.b), None)? * delta.scale)?;
    backward_weight(&inner, x, d_a)
}

/// Adds the gradient of the delta's `B`, `dYᵀ·(s·X·Aᵀ)`, into `d_b`.
pub(crate) fn backward_b(d_y: &Tensor, x: &Tensor, delta: &Delta, d_b: &mut Tensor) -> Result<()> {
    let inner = (forward(x, Linear::plain(&delta.a), None)? * delta.scale)?;
    backward_weight(d_y, &inner, d_b)
}
