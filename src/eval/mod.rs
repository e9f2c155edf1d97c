//! Arms side by side: the large model alone, with human-written prompts, and by a prompt that was searched for, and
//! guided by policies, on the same questions, with what the differences are worth.

pub mod arms;
pub mod config;
pub mod data;
pub mod error;
pub mod metrics;
pub mod report;
pub mod rows;
pub mod run;
pub mod score;
pub mod search;
pub mod statistics;

pub use error::EvalError;
