//! Keys and values of a sequence, in shared blocks of sixteen positions.

use std::sync::Arc;

use super::decode::SequenceCache;
use super::kernels::simd::{LANES, Line};

/// Where a layer's keys and values lie in a block. Keys are `(head_dim, 16)`, so that one vector
/// holds a dimension of sixteen positions; values are `(16, head_dim)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLayout {
    /// Number of layers.
    pub layers: usize,
    /// Number of key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl KvLayout {
    /// Lines that one position of one head's values takes.
    pub(super) fn head_lines(self) -> usize {
        self.head_dim.div_ceil(LANES)
    }

    fn layer_head_lines(self) -> usize {
        self.head_dim + LANES * self.head_lines()
    }

    fn block_lines(self) -> usize {
        self.layers * self.kv_heads * self.layer_head_lines()
    }

    /// First line of a head's keys in a block.
    pub(super) fn keys(self, layer: usize, kv_head: usize) -> usize {
        (layer * self.kv_heads + kv_head) * self.layer_head_lines()
    }

    /// First line of a head's values in a block.
    pub(super) fn values(self, layer: usize, kv_head: usize) -> usize {
        self.keys(layer, kv_head) + self.head_dim
    }
}

/// The keys and values of a sequence's first `len` tokens. Sequences with a common prefix share its
/// blocks; a shared block is copied when one of them writes to it.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    blocks: Vec<Arc<[Line]>>,
    len: usize,
}

impl SequenceCache for KvCache {
    fn len(&self) -> usize {
        self.len
    }

    fn capacity(&self) -> usize {
        self.blocks.len() * LANES
    }

    fn prefix(&self, len: usize) -> Self {
        let len = len.min(self.len);
        Self { blocks: self.blocks[..len.div_ceil(LANES)].to_vec(), len }
    }
}

impl KvCache {
    /// Allocates memory for `count` more tokens.
    pub(super) fn reserve(&mut self, layout: KvLayout, count: usize) {
        while self.capacity() < self.len + count {
            self.blocks.push(std::iter::repeat_n(Line::ZERO, layout.block_lines()).collect());
        }
    }

    /// Writes a token's keys and values, `(kv_heads, head_dim)` each, in one layer.
    pub(super) fn write(
        &mut self,
        layout: KvLayout,
        layer: usize,
        position: usize,
        (keys, values): (&[f32], &[f32]),
    ) {
        let block = Arc::make_mut(&mut self.blocks[position / LANES]);
        let (lane, lines) = (position % LANES, layout.head_lines());
        let heads = keys.chunks_exact(layout.head_dim).zip(values.chunks_exact(layout.head_dim));
        for (head, (keys, values)) in heads.enumerate() {
            let stored = &mut block[layout.keys(layer, head)..][..layout.head_dim];
            for (stored, &key) in stored.iter_mut().zip(keys) {
                stored.0[lane] = key;
            }
            let stored = &mut block[layout.values(layer, head) + lane * lines..][..lines];
            for (stored, values) in stored.iter_mut().zip(values.chunks(LANES)) {
                stored.0[..values.len()].copy_from_slice(values);
            }
        }
    }

    /// Counts `count` written tokens.
    pub(super) fn advance(&mut self, count: usize) {
        self.len += count;
    }

    pub(super) fn blocks(&self) -> &[Arc<[Line]>] {
        &self.blocks
    }
}
