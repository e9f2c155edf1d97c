//! The operations as fused loops over contiguous f32 in host memory, and tensors there as slices.

pub(crate) mod attention;
pub(crate) mod bias;
pub(crate) mod embedding;
pub(crate) mod gated;
pub(crate) mod head;
pub(crate) mod linear;
pub(crate) mod matmul;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod simd;

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::{Deref, Range};
use std::sync::RwLockReadGuard;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Shape, Storage, Tensor};
use rayon::prelude::*;

/// Rows that one task of a row-wise loop takes. Fixed, so that sums over rows do not depend on the
/// number of threads.
const ROWS: usize = 128;

/// Whether the fused loops can work on `tensor`: f32, on the host, contiguous.
pub(crate) fn is_host(tensor: &Tensor) -> bool {
    matches!(tensor.device(), Device::Cpu) && tensor.dtype() == DType::F32 && tensor.is_contiguous()
}

fn range(layout: &Layout) -> Result<Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => candle_core::bail!("a contiguous tensor is needed"),
    }
}

/// The values of a contiguous f32 tensor in host memory, locked for reading.
pub(crate) struct Values<'a> {
    storage: RwLockReadGuard<'a, Storage>,
    range: Range<usize>,
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => &[],
        }
    }
}

/// Opens `tensor` for reading.
pub(crate) fn values(tensor: &Tensor) -> Result<Values<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let range = range(layout)?;
    match &*storage {
        Storage::Cpu(CpuStorage::F32(_)) => Ok(Values { storage, range }),
        _ => candle_core::bail!("an f32 tensor in host memory is needed"),
    }
}

/// A tensor of `values`, which are not copied.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// `n` values written by `fill`: memory that is overwritten anyway is not zeroed first.
///
/// # Safety
/// `fill` must write every value.
pub(crate) unsafe fn build(n: usize, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Vec<f32> {
    let mut values = Vec::with_capacity(n);
    fill(&mut values.spare_capacity_mut()[..n]);
    // SAFETY: the capacity is there, and the caller guarantees the values.
    unsafe { values.set_len(n) };
    values
}

/// A function to run on the values once, and what it returned.
struct Update<F, R>(Cell<Option<F>>, Cell<Option<R>>);

impl<R, F: FnOnce(&mut [f32]) -> R> InplaceOp1 for Update<F, R> {
    fn name(&self) -> &'static str {
        "update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        if let (CpuStorage::F32(values), Some(f)) = (storage, self.0.take()) {
            self.1.set(Some(f(&mut values[range(layout)?])));
        }
        Ok(())
    }
}

/// Calls `f` with the values of a contiguous f32 tensor in host memory, to modify them in place.
/// Every tensor with the same storage sees the change.
pub(crate) fn update<R>(tensor: &Tensor, f: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    let update = Update(Cell::new(Some(f)), Cell::new(None));
    tensor.inplace_op1(&update)?;
    match update.1.take() {
        Some(result) => Ok(result),
        None => candle_core::bail!("an f32 tensor in host memory is needed"),
    }
}

/// Adds partial sums, one row after another, into `sum` unless that is frozen.
pub(crate) fn add_partial(sum: Option<&mut Tensor>, partial: &[f32]) -> Result<()> {
    let Some(sum) = sum else { return Ok(()) };
    update(sum, |sum| {
        for row in partial.chunks_exact(sum.len()) {
            simd::add(sum, row);
        }
    })
}

/// `Σ x²` in f64, in a fixed order.
pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
    let parts: Vec<f64> = values
        .par_chunks(1 << 14)
        .map(|part| part.iter().map(|&x| f64::from(x) * f64::from(x)).sum())
        .collect();
    parts.into_iter().sum()
}
