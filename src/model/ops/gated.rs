//! The gate of the feed-forward layer: `f(gate) · up` with the activation `f(x) = x·σ(z(x))`, where
//! `z` is `x` itself for SiLU, and a cubic for the approximation of GELU.

use candle_core::{Result, Tensor};

use super::types::GatedGradient;
use super::{composed, host};
use crate::model::spec::Gate;

/// `gate` and `up` have one shape.
pub(crate) fn forward(gate: &Tensor, up: &Tensor, kind: Gate) -> Result<Tensor> {
    match host::is_host(gate) {
        true => host::gated::forward(gate, up, kind),
        false => composed::gated(gate, up, kind),
    }
}

/// Gradients for `d_y`, and the output, which is recomputed rather than stored. They are computed
/// in the memory of the arguments, which must not be shared.
pub(crate) fn backward(gate: Tensor, up: Tensor, d_y: Tensor, kind: Gate) -> Result<GatedGradient> {
    match host::is_host(&gate) {
        true => host::gated::backward(gate, up, d_y, kind),
        false => composed::gated_backward(&gate, &up, &d_y, kind),
    }
}
