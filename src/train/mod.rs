//! Training: the optimizer and the trainers.

pub mod adamw;
pub mod memory;
