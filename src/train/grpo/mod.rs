//! GRPO: whole episodes are sampled in groups, and what did better than its group gets likelier.

pub mod advantage;
pub mod objective;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod golden;
