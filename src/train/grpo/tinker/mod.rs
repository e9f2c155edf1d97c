//! Training at a server that speaks the Tinker protocol.
//!
//! The server holds the weights of a base model and a LoRA adapter with its optimizer. In each
//! update it scores the trajectories. The objective is computed here, and its derivatives with
//! respect to the tokens' log-probabilities are sent as the advantages of the server's
//! importance-sampling loss, whose gradient then equals that of the objective. So clipping, masks,
//! the KL term and the aggregation are those of a local run. After each update the adapter is
//! fetched, and the local engine samples with it: the server samples nothing.
//!
//! The protocol is that of SkyRL 0.4.0 (SDK 0.25.0), tested with its JAX backend. For its FSDP and
//! Megatron backends and Thinking Machines' own service (SDK 0.38.0), only the sources were read.

mod archive;
mod client;
mod config;
mod error;
mod learner;
mod reply;
mod wire;

pub use config::{LossScale, TinkerConfig};
pub use error::TinkerError;
pub use learner::TinkerLearner;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod golden;
