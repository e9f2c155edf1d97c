//! Qwen3 in candle, trainable: forward and backward by layer, LoRA, generation, checkpoints; and a
//! BERT that embeds sentences.

pub mod batch;
mod block;
pub mod config;
pub mod decoder_lm;
pub mod device;
pub mod error;
pub(crate) mod files;
pub mod generate;
pub mod gradients;
pub mod lora;
pub(crate) mod ops;
pub mod sentence;
mod trainable;
pub mod weights;

pub use batch::{Batch, Selection, TokenScores};
pub use config::ModelConfig;
pub use decoder_lm::{Model, Tape};
pub use device::{DeviceChoice, DtypeChoice};
pub use error::ModelError;
pub use gradients::Gradients;
pub use lora::{Adapter, AdapterConfig};
pub use sentence::SentenceModel;
pub use weights::{Projection, Weights};

#[cfg(test)]
pub(crate) mod tests;
