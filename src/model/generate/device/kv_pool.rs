//! Keys and values of all sequences on a device, in blocks that sequences own or share.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor};

use crate::model::generate::decode::SequenceCache;
use crate::model::spec::Spec;

/// Positions of a block.
pub(super) const BLOCK: usize = 16;

/// The share of a GPU's free memory that a pool takes by default: training needs the rest.
const FREE_SHARE: f64 = 0.25;
/// Tokens of a pool if the free memory is not known.
const TOKENS: usize = 32_768;

/// The memory of all keys and values.
#[derive(Debug)]
pub struct KvPool {
    layers: Vec<LayerMemory>,
    blocks: usize,
    free: Mutex<Vec<u32>>,
}

/// Keys and values of a layer, `(blocks × 16, kv_heads × head_dim)` each.
#[derive(Debug)]
pub(super) struct LayerMemory {
    pub keys: Tensor,
    pub values: Tensor,
}

impl KvPool {
    /// Memory for `tokens` tokens; by default, for as many as fit in a quarter of the free memory.
    ///
    /// # Errors
    /// When the device has no memory left.
    pub fn new(spec: &Spec, dtype: DType, device: &Device, tokens: Option<usize>) -> Result<Self> {
        let (kv_heads, d) = (spec.num_key_value_heads, spec.head_dim);
        let token_bytes = 2 * spec.layers.len() * kv_heads * d * dtype.size_in_bytes();
        let tokens = tokens
            .or_else(|| {
                free_bytes(device).map(|free| (free as f64 * FREE_SHARE) as usize / token_bytes)
            })
            .unwrap_or(TOKENS);
        let blocks = tokens.div_ceil(BLOCK).max(1);
        let zeros = || Tensor::zeros((blocks * BLOCK, kv_heads * d), dtype, device);
        let layer = |_| Ok(LayerMemory { keys: zeros()?, values: zeros()? });
        Ok(Self {
            layers: (0..spec.layers.len()).map(layer).collect::<Result<_>>()?,
            blocks,
            free: Mutex::new((0..blocks as u32).rev().collect()),
        })
    }

    /// The number of tokens that it has memory for.
    pub fn tokens(&self) -> usize {
        self.blocks * BLOCK
    }

    pub(super) fn layer(&self, index: usize) -> &LayerMemory {
        &self.layers[index]
    }

    fn take(&self) -> Option<u32> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

/// Free bytes on `device`, if that is known.
#[cfg(feature = "cuda")]
fn free_bytes(device: &Device) -> Option<usize> {
    let context = device.as_cuda_device().ok()?.cuda_stream().context().clone();
    context.mem_get_info().ok().map(|(free, _)| free)
}

/// Free bytes on `device`, if that is known.
#[cfg(not(feature = "cuda"))]
fn free_bytes(_: &Device) -> Option<usize> {
    None
}

/// A block in use, which is returned to its pool when the last user drops it.
#[derive(Debug)]
struct Block {
    index: u32,
    pool: Arc<KvPool>,
}

impl Drop for Block {
    fn drop(&mut self) {
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.index);
    }
}

/// The blocks of a sequence's first `len` tokens. Only complete blocks are shared, so writes go to
/// blocks of one sequence.
#[derive(Debug, Default)]
pub struct PooledCache {
    blocks: Vec<Arc<Block>>,
    len: usize,
}

impl PooledCache {
    /// Allocates memory for `count` more tokens; if the pool has not enough, changes nothing.
    pub(super) fn reserve(&mut self, pool: &Arc<KvPool>, count: usize) -> bool {
        let before = self.blocks.len();
        while self.capacity() < self.len + count {
            let Some(index) = pool.take() else {
                self.blocks.truncate(before);
                return false;
            };
            self.blocks.push(Arc::new(Block { index, pool: Arc::clone(pool) }));
        }
        true
    }

    /// Counts `count` written tokens.
    pub(super) fn advance(&mut self, count: usize) {
        self.len += count;
    }

    /// Indices of its blocks, in order.
    #[cfg(feature = "cuda")]
    pub(super) fn blocks(&self) -> impl Iterator<Item = u32> {
        self.blocks.iter().map(|block| block.index)
    }

    /// The location of the token at `position`.
    pub(super) fn slot(&self, position: usize) -> u32 {
        self.blocks[position / BLOCK].index * BLOCK as u32 + (position % BLOCK) as u32
    }
}

impl SequenceCache for PooledCache {
    fn len(&self) -> usize {
        self.len
    }

    fn capacity(&self) -> usize {
        self.blocks.len() * BLOCK
    }

    fn prefix(&self, len: usize) -> Self {
        let whole = len.min(self.len) / BLOCK;
        Self { blocks: self.blocks[..whole].to_vec(), len: whole * BLOCK }
    }
}
