//! Tensors in host memory as slices.

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Storage, Tensor};

/// Whether the fused loops can work on `tensor`: f32, on the host, contiguous.
pub(crate) fn is_host(tensor: &Tensor) -> bool {
    matches!(tensor.device(), Device::Cpu) && tensor.dtype() == DType::F32 && tensor.is_contiguous()
}

fn range(layout: &Layout) -> Result<std::ops::Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => candle_core::bail!("a contiguous tensor is needed"),
    }
}

/// Calls `f` with the values of a contiguous f32 tensor in host memory.
pub(crate) fn read<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => Ok(f(&values[range(layout)?])),
        _ => candle_core::bail!("an f32 tensor in host memory is needed"),
    }
}

struct Update<F>(std::cell::Cell<Option<F>>);

impl<F: FnOnce(&mut [f32])> InplaceOp1 for Update<F> {
    fn name(&self) -> &'static str {
        "update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (storage, self.0.take()) {
            (CpuStorage::F32(values), Some(f)) => {
                f(&mut values[range(layout)?]);
                Ok(())
            }
            _ => candle_core::bail!("an f32 tensor in host memory is needed"),
        }
    }
}

/// Calls `f` with the values of a contiguous f32 tensor in host memory, to change them in place.
/// Every tensor that shares the storage sees the change.
pub(crate) fn update(tensor: &Tensor, f: impl FnOnce(&mut [f32])) -> Result<()> {
    tensor.inplace_op1(&Update(std::cell::Cell::new(Some(f))))
}
