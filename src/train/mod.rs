//! Training: the optimizer, the supervised trainer, GRPO.

pub mod adamw;
pub mod adapter_text;
mod checkpoint;
pub mod config;
pub mod error;
pub mod example;
pub mod grpo;
mod json_file;
pub mod memory;
pub mod metrics;
mod optimize;
mod order;
pub mod origin;
mod pack;
pub mod progress;
pub mod run_folder;
pub mod schedule;
pub mod sft;
pub mod start;
pub mod summary;
