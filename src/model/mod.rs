//! Decoder-only transformers in candle, trainable: forward and backward by layer, LoRA, generation,
//! checkpoints; and a BERT that embeds sentences.

pub mod batch;
mod block;
pub mod config;
pub mod decoder_lm;
mod device;
pub mod error;
pub(crate) mod files;
mod finite;
pub mod generate;
mod gguf_export;
mod gguf_weights;
pub mod gradients;
pub mod lora;
pub(crate) mod ops;
mod path_check;
mod peft;
mod rotary;
pub mod sentence;
mod shards;
pub mod slots;
pub mod spec;
mod trainable;
pub mod weights;

pub use batch::{Batch, Selection, TokenScores};
pub use config::{AdapterConfig, DeviceChoice, DtypeChoice};
pub use decoder_lm::{Model, Tape};
pub use error::ModelError;
pub(crate) use error::disk_hint;
pub use finite::{check_finite, first_not_finite};
pub use gguf_export::GgufType;
pub use gradients::Gradients;
pub use lora::{ADAPTER_CONFIG, Adapter};
pub use path_check::{check_adapter, misplaced};
pub use sentence::SentenceModel;
pub use slots::{Projection, Slot};
pub use spec::{Family, Spec};
pub use weights::Weights;

#[cfg(test)]
pub(crate) mod tests;
