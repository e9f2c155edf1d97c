//! Qwen3 in candle, trainable: forward and backward by layer, LoRA, generation, checkpoints.

pub mod config;
pub mod error;
pub mod generate;
pub mod weights;
