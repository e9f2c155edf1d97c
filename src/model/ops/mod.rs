//! Differentiable operations on candle tensors, each with an explicit forward and backward.
//!
//! Each has two forms: fused loops for contiguous f32 in host memory ([`host`]), and a composition
//! of candle's own operations ([`composed`]) for every other device and type, which is also the
//! reference of the fused form. The functions of this module choose between them.

pub(crate) mod attention;
pub(crate) mod bias;
pub(crate) mod composed;
pub(crate) mod embedding;
pub(crate) mod gated;
pub(crate) mod head;
pub(crate) mod host;
pub(crate) mod linear;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod types;

#[cfg(test)]
mod tests;
