//! The rotary embedding of queries and keys, after a root-mean-square norm of each head where there
//! is one: element `i` of a head is rotated with element `i + head_dim/2`.

use candle_core::{Result, Tensor};

use super::types::{Norm, Rotation};
use super::{composed, host};

/// `x` `(rows, heads × head_dim)`; a norm is of width `head_dim`.
pub(crate) fn forward(x: &Tensor, norm: Option<Norm>, rotation: &Rotation) -> Result<Tensor> {
    match host::is_host(x) {
        true => host::rope::forward(x, norm, rotation),
        false => composed::norm_rope(x, norm, rotation),
    }
}

/// The gradient of the input of the norm, or without one of the rotation, computed in the memory of
/// `d_y`, which must not be shared; adds the gradient of the norm's weight into `d_weight` unless
/// it is frozen. `norm` comes with its input.
pub(crate) fn backward(
    norm: Option<(&Tensor, Norm)>,
    rotation: &Rotation,
    d_y: Tensor,
    d_weight: Option<&mut Tensor>,
) -> Result<Tensor> {
    match host::is_host(&d_y) {
        true => host::rope::backward(norm, rotation, d_y, d_weight),
        false => composed::norm_rope_backward(norm, rotation, &d_y, d_weight),
    }
}
