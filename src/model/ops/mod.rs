//! Differentiable operations, each with an explicit forward and backward.

pub(crate) mod host;
