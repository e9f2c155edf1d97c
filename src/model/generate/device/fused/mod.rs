//! The forward pass on a GPU by cuBLAS products and kernels of its own between them.
//!
//! A decoding step is short, so that the host's launches bound it, not the GPU: candle's operations
//! need twice as many of them, and allocate memory for each.

mod inputs;
mod launch;
mod pass;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaFunction;
use candle_core::{DType, Device, Result, Tensor};

use self::launch::Launcher;
use self::pass::Pass;
use super::kv_pool::KvPool;
use super::rows::Rows;
use crate::model::lora::Adapter;
use crate::model::spec::Spec;
use crate::model::weights::Weights;

const SOURCE: &str = include_str!("kernels.cu");

/// The widest head and stream that the kernels have shared memory for.
const HEAD_DIM: usize = 256;
const WIDTH: usize = 12_288;
/// Query heads of a block of the kernel for attention: more need too many registers.
const HEADS: usize = 4;
/// Values that a thread of it reads at once.
const VECTOR: usize = 8;

/// The kernels, compiled for a model.
#[derive(Debug)]
pub(super) struct Fused {
    launcher: Launcher,
    embed: CudaFunction,
    normalize: CudaFunction,
    place_heads: CudaFunction,
    attend: CudaFunction,
    gated: CudaFunction,
    /// Query heads of a block of `attend`.
    heads: usize,
    /// For each of [`Spec::ropes`]: `(head_dim / 2)` in f32, and the factor on cosines and sines.
    ropes: Vec<(Tensor, f32)>,
}

impl Fused {
    /// For a model of this type on `device`; `None` where there are no kernels for it.
    ///
    /// # Errors
    /// When the kernels cannot be compiled for the device.
    pub fn new(spec: &Spec, dtype: DType, device: &Device) -> Result<Option<Self>> {
        let is_known = matches!(dtype, DType::BF16 | DType::F32)
            && spec.head_dim.is_multiple_of(VECTOR)
            && spec.head_dim <= HEAD_DIM
            && spec.hidden_size <= WIDTH;
        let Device::Cuda(cuda) = device else { return Ok(None) };
        if !is_known {
            return Ok(None);
        }
        let group = spec.group();
        let heads = group.div_ceil(group.div_ceil(HEADS));
        let definitions = [
            ("BF16", usize::from(dtype == DType::BF16)),
            ("HEAD_DIM", spec.head_dim),
            ("GROUP", group),
            ("HEADS", heads),
            ("LANES", (spec.head_dim / VECTOR).next_power_of_two()),
        ];
        let module = launch::compile(cuda, SOURCE, &definitions)?;
        let kernel = |name| module.load_function(name).w();
        let ropes = spec.ropes.iter().map(|rope| {
            let frequencies = rope.frequencies(spec.head_dim);
            Ok((Tensor::new(frequencies, device)?, rope.attention_factor()))
        });
        Ok(Some(Self {
            launcher: Launcher::new(cuda, dtype),
            embed: kernel("embed")?,
            normalize: kernel("normalize")?,
            place_heads: kernel("place_heads")?,
            attend: kernel("attend")?,
            gated: kernel("gated")?,
            heads,
            ropes: ropes.collect::<Result<_>>()?,
        }))
    }

    /// The needed logits of `rows`, `(wanted, vocab)`, in the model's type; `None` if none is.
    /// Keys and values are written to the pool.
    pub fn logits(
        &self,
        spec: &Spec,
        weights: &Weights,
        adapter: Option<&Adapter>,
        pool: &KvPool,
        rows: &Rows<'_>,
    ) -> Result<Option<Tensor>> {
        Pass::new(self, spec, adapter, rows)?.logits(weights, pool, rows.wanted.len())
    }
}
