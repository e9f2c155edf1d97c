//! The embedding: rows of a table by id.

use candle_core::{Result, Tensor};

use super::simd;
use crate::model::ops::host;

/// `table` `(vocab, width)` → `(ids, width)`.
pub(crate) fn forward(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let (_, width) = table.dims2()?;
    let values = host::values(table)?;
    let mut rows = Vec::with_capacity(ids.len() * width);
    for &id in ids {
        rows.extend_from_slice(&values[id as usize * width..(id as usize + 1) * width]);
    }
    host::tensor(rows, (ids.len(), width))
}

/// Adds each row of `d_y` into the row of `d_table` that its id names.
pub(crate) fn backward(d_y: &Tensor, ids: &[u32], d_table: &mut Tensor) -> Result<()> {
    let (_, width) = d_y.dims2()?;
    let d_y = host::values(d_y)?;
    host::update(d_table, |d_table| {
        for (row, &id) in d_y.chunks_exact(width).zip(ids) {
            simd::add(&mut d_table[id as usize * width..(id as usize + 1) * width], row);
        }
    })
}
