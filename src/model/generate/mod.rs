//! Batched generation from a Qwen3's weights on the CPU: ragged batches, cached keys and values.

pub mod cache;
pub mod decoder;
pub mod kernels;
mod weights;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod reference;
#[cfg(test)]
mod tests;
