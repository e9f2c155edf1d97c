//! Biases of projections.

use candle_core::{Result, Tensor};

use super::{composed, host};

/// `y` `(rows, width)` with `bias` `(width)` added to each row, computed in the memory of `y`,
/// which must not be shared.
pub(crate) fn forward(y: Tensor, bias: &Tensor) -> Result<Tensor> {
    match host::is_host(&y) {
        true => host::bias::forward(y, bias),
        false => composed::bias(y, bias),
    }
}

/// Adds the gradient of the bias, the sum of the rows of `d_y`, into `d_bias`.
pub(crate) fn backward(d_y: &Tensor, d_bias: &mut Tensor) -> Result<()> {
    match host::is_host(d_y) {
        true => host::bias::backward(d_y, d_bias),
        false => composed::bias_backward(d_y, d_bias),
    }
}
