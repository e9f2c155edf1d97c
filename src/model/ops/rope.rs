//! Per-head root-mean-square normalisation followed by the rotary embedding, as Qwen3 does it to
//! queries and keys: element `i` of a head is rotated with element `i + head_dim/2`.

use candle_core::{Result, Tensor};

use super::types::{Norm, Rotation};
use super::{composed, host};

/// `x` `(rows, heads × head_dim)`; the norm is of width `head_dim`.
pub(crate) fn forward(x: &Tensor, norm: Norm, rotation: &Rotation) -> Result<Tensor> {
    match host::is_host(x) {
        true => host::rope::forward(x, norm, rotation),
        false => composed::norm_rope(x, norm, rotation),
    }
}

/// The gradient of `x`, made in the memory of `d_y`, which must not be shared; adds that of `weight`
/// into `d_weight` unless it is frozen.
pub(crate) fn backward(
    x: &Tensor,
    norm: Norm,
    rotation: &Rotation,
    d_y: Tensor,
    d_weight: Option<&mut Tensor>,
) -> Result<Tensor> {
    match host::is_host(x) {
        true => host::rope::backward(x, norm, rotation, d_y, d_weight),
        false => composed::norm_rope_backward(x, norm, rotation, &d_y, d_weight),
    }
}
