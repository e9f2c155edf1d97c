//! Batched generation: ragged batches with cached keys and values. On the CPU and on
//! CUDA devices with specialised kernels, otherwise with candle's operations.

mod adapter;
pub mod decode;
pub mod decoder;
pub mod device;
pub mod kernels;
pub mod kv_cache;
pub mod sampler;
mod weights;

#[cfg(test)]
mod adapter_tests;
#[cfg(test)]
mod quantized_tests;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod reference;
#[cfg(test)]
mod tests;
