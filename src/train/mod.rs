//! Training: the optimizer, the supervised trainer, GRPO.

pub mod adamw;
pub mod error;
pub mod example;
pub mod grpo;
pub mod memory;
pub mod metrics;
pub mod run_folder;
pub mod schedule;
pub mod sft;
pub mod start;
