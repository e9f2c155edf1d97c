//! Differentiable operations on candle tensors, each with an explicit forward and backward.
//!
//! Each has two forms: fused loops for contiguous f32 in host memory, and a composition of candle's own
//! operations ([`portable`], [`padded`]) for every other device and type, which is also the fused form's oracle.

pub(crate) mod attention;
pub(crate) mod embedding;
pub(crate) mod head;
pub(crate) mod host;
pub(crate) mod linear;
pub(crate) mod matmul;
pub(crate) mod padded;
pub(crate) mod portable;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod simd;
pub(crate) mod swiglu;

#[cfg(test)]
mod tests;

/// Rows that one task of a row-wise loop takes. Fixed, so that sums over rows do not depend on the
/// number of threads.
const ROWS: usize = 128;
