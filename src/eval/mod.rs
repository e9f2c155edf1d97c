//! Compares arms on the same questions: the large model alone, with hand-written or searched
//! prompts, and guided by policies, with statistics on the differences.

pub mod arms;
pub mod config;
pub mod data;
pub mod error;
pub mod metric_choice;
pub mod report;
pub mod rows;
pub mod run;
pub mod score;
pub mod search;
pub mod statistics;

pub use error::EvalError;
