//! reward.
