//! What a pass reads of its rows, on the device.

use candle_core::cuda_backend::CudaDevice;
use candle_core::{Device, Result, Tensor};

use super::launch::{Address, address};
use crate::model::generate::device::kv_pool::BLOCK;
use crate::model::generate::device::rows::Rows;

/// Addresses on the device.
pub(super) struct Inputs {
    /// Holds the memory of the others.
    _all: Tensor,
    pub ids: Address,
    pub positions: Address,
    /// The place of each row's key and value in the pool.
    pub slots: Address,
    /// The sequence of each row.
    pub sequences: Address,
    pub wanted: Address,
    /// `(sequences, table_width)`: blocks of the pool.
    pub tables: Address,
    pub table_width: usize,
    /// Keys of the longest sequence.
    pub longest: usize,
}

impl Inputs {
    /// In one copy.
    pub fn upload(rows: &Rows<'_>, device: &CudaDevice) -> Result<Self> {
        let longest = rows.sequences.iter().map(|sequence| sequence.keys()).max().unwrap_or(0);
        let table_width = longest.div_ceil(BLOCK);
        let (mut of_row, mut tables) = (Vec::new(), Vec::new());
        for (index, sequence) in rows.sequences.iter().enumerate() {
            of_row.resize(of_row.len() + sequence.queries, index as u32);
            tables.extend(sequence.cache.blocks().take(table_width));
            tables.resize((index + 1) * table_width, 0);
        }
        let parts = [&rows.ids, &rows.positions, &rows.slots(), &of_row, &rows.wanted, &tables];
        let all = parts.map(|part| &part[..]).concat();
        let count = all.len();
        let all = Tensor::from_vec(all, count, &Device::Cuda(device.clone()))?;
        let mut next = address(&all)?;
        let [ids, positions, slots, sequences, wanted, tables] = parts.map(|part| {
            let this = next;
            next += size_of_val(&part[..]) as Address;
            this
        });
        Ok(Self {
            _all: all,
            ids,
            positions,
            slots,
            sequences,
            wanted,
            tables,
            table_width,
            longest,
        })
    }
}
