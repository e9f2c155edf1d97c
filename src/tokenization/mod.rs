//! tokenization.
