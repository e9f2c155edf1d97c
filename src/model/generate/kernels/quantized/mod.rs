//! `x · Wᵀ` with weights that stay quantised.
//!
//! Weights have the whole numbers and scales of their file, in another order. Inputs are rounded to
//! eight bits in groups of 32, so that products are of whole numbers.

mod inputs;
mod layout;
mod product;
#[cfg(test)]
mod tests;

pub use inputs::Inputs;
pub use layout::{Matrix, StoredRows};
pub use product::multiply;
