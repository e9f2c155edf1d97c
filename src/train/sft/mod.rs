//! Supervised training: make the assistant's tokens of given conversations likelier.
//!
//! The batch of a step is a function of the seed and the step's number, so a resumed run sees
//! exactly what an uninterrupted one would.

mod config;
mod data;
mod run;

pub use config::{SftConfig, SftData};
pub use run::run_sft;
