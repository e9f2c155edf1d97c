//! Root-mean-square normalisation of rows: `y = x / √(mean(x²) + ε) · w`.

use candle_core::{Result, Tensor};

use super::types::Norm;
use super::{composed, host};

/// `x` `(rows, width)`.
pub(crate) fn forward(x: &Tensor, norm: Norm) -> Result<Tensor> {
    match host::is_host(x) {
        true => host::rms_norm::forward(x, norm),
        false => composed::rms_norm(x, norm),
    }
}

/// Adds the gradient of `x` into `d_x`, and of `weight` into `d_weight` unless it is frozen.
pub(crate) fn backward(
    x: &Tensor,
    norm: Norm,
    d_y: &Tensor,
    d_x: &mut Tensor,
    d_weight: Option<&mut Tensor>,
) -> Result<()> {
    match host::is_host(x) {
        true => host::rms_norm::backward(x, norm, d_y, d_x, d_weight),
        false => composed::rms_norm_backward(x, norm, d_y, d_x, d_weight),
    }
}
