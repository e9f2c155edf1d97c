//! The embedding: rows of a table by id.

use candle_core::{Result, Tensor};

use super::{composed, host};

/// `table` `(vocab, width)` → `(ids, width)`.
pub(crate) fn forward(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    match host::is_host(table) {
        true => host::embedding::forward(table, ids),
        false => composed::embedding(table, ids),
    }
}

/// Adds each row of `d_y` into the row of `d_table` that its id names.
pub(crate) fn backward(d_y: &Tensor, ids: &[u32], d_table: &mut Tensor) -> Result<()> {
    match host::is_host(d_y) {
        true => host::embedding::backward(d_y, ids, d_table),
        false => composed::embedding_backward(d_y, ids, d_table),
    }
}
