//! The gate of the feed-forward layer: `silu(gate) · up`, with `silu(x) = x·σ(x)`.

use candle_core::{Result, Tensor};

use super::types::GatedGradient;
use super::{composed, host};

/// `gate` and `up` have one shape.
pub(crate) fn forward(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    match host::is_host(gate) {
        true => host::swiglu::forward(gate, up),
        false => composed::swiglu(gate, up),
    }
}

/// Gradients for `d_y`, and the output, which is recomputed rather than stored. They are made in the
/// memory of the arguments, which must not be shared.
pub(crate) fn backward(gate: Tensor, up: Tensor, d_y: Tensor) -> Result<GatedGradient> {
    match host::is_host(&gate) {
        true => host::swiglu::backward(gate, up, d_y),
        false => composed::swiglu_backward(&gate, &up, &d_y),
    }
}
