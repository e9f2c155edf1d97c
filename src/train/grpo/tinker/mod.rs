//! Training at a server that speaks the Tinker protocol.
//!
//! The server holds the weights of a base model and a LoRA adapter with its optimizer. Each update
//! has it score the trajectories; the objective is computed here, and its slopes in the tokens'
//! log-probabilities go back as the advantages of the server's importance-sampling loss, whose
//! gradient they are then. So clipping, masks, the KL term and the aggregation are those of a local
//! run. After each update the adapter is fetched, and the engine here samples with it: the server
//! samples nothing.
//!
//! The protocol is that of SkyRL 0.4.0 (the SDK 0.25.0), tried with its JAX backend. Its FSDP and
//! Megatron backends and Thinking Machines' own service (SDK 0.38.0) were read, not tried.

mod archive;
mod client;
mod config;
mod error;
mod learner;
mod wire;

pub use config::{LossScale, TinkerConfig};
pub use error::TinkerError;
pub use learner::TinkerLearner;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod golden;
