//! Causal attention within each packed sequence, query heads sharing key-value heads: that of the
//! trainer, forward and backward.
//!
//! Decoding has kernels of its own over its cache: `generate::kernels::attention` on the CPU,
//! `generate::device::attention` on a GPU.

use candle_core::{Result, Tensor};

use super::types::{Attended, AttentionGradient, AttentionInputs, Layout};
use super::{composed, host};

/// What each row attends to.
pub(crate) fn forward(inputs: &AttentionInputs, layout: &Layout) -> Result<Attended> {
    if host::is_host(inputs.q) {
        return host::attention::forward(inputs, layout);
    }
    Ok(Attended { y: composed::attention::forward(inputs, layout)?, log_sums: None })
}

/// Gradients for `d_y`, with the outputs of forward for the same inputs.
pub(crate) fn backward(
    inputs: &AttentionInputs,
    layout: &Layout,
    output: &Attended,
    d_y: &Tensor,
) -> Result<AttentionGradient> {
    match &output.log_sums {
        Some(log_sums) => host::attention::backward(inputs, layout, output, log_sums, d_y),
        None => composed::attention::backward(inputs, layout, d_y),
    }
}
