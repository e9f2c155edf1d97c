//! Causal attention of one row over its sequence's cached keys and values.

use std::ops::Range;
use std::sync::Arc;

use super::simd::{Kernel, LANES, Line, Simd};
use crate::model::generate::kv_cache::KvLayout;

/// Softmax attention of one row's query heads in one layer. Query head `i` attends with key-value
/// head `i / group`.
#[derive(Debug)]
pub struct Attention<'a> {
    /// `(heads, head_dim)`, normalised, rotated and scaled.
    pub queries: &'a [f32],
    /// As long as `queries`.
    pub out: &'a mut [f32],
    /// The sequence's blocks.
    pub blocks: &'a [Arc<[Line]>],
    /// How blocks are laid out.
    pub layout: KvLayout,
    /// The layer.
    pub layer: usize,
    /// The positions to attend to; at least 1.
    pub seen: Range<usize>,
    /// Working memory, grown as needed.
    pub scores: &'a mut Vec<Line>,
}

impl Kernel for Attention<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let (kv_heads, head_dim) = (self.layout.kv_heads, self.layout.head_dim);
        let group = self.queries.len() / head_dim / kv_heads;
        let blocks = self.blocks().len();
        if self.scores.len() < 2 * blocks {
            self.scores.resize(2 * blocks, Line::ZERO);
        }
        for kv_head in 0..kv_heads {
            let (mut head, end) = (kv_head * group, (kv_head + 1) * group);
            // Two heads at a time read keys and values once for both.
            while head + 2 <= end {
                self.heads::<S, 2>(simd, kv_head, head);
                head += 2;
            }
            if head < end {
                self.heads::<S, 1>(simd, kv_head, head);
            }
        }
    }
}

impl<'a> Attention<'a> {
    /// Those that hold the seen positions; the scores have a line for each.
    #[inline(always)]
    fn blocks(&self) -> &'a [Arc<[Line]>] {
        &self.blocks[self.seen.start / LANES..self.seen.end.div_ceil(LANES)]
    }

    #[inline(always)]
    fn heads<S: Simd, const HEADS: usize>(&mut self, simd: S, kv_head: usize, head: usize) {
        let blocks = self.blocks().len();
        let mut block = 0;
        while block + 4 <= blocks {
            self.score::<S, HEADS, 4>(simd, kv_head, head, block);
            block += 4;
        }
        while block < blocks {
            self.score::<S, HEADS, 1>(simd, kv_head, head, block);
            block += 1;
        }
        let mut scales = [0.0; HEADS];
        for (i, scale) in scales.iter_mut().enumerate() {
            let scores = &mut self.scores[i * blocks..][..blocks];
            *scale = 1.0 / softmax_weights(simd, scores, &self.seen);
        }
        let head_lines = self.layout.head_lines();
        let mut line = 0;
        while line + 2 <= head_lines {
            self.mix::<S, HEADS, 2>(simd, kv_head, head, line, &scales);
            line += 2;
        }
        if line < head_lines {
            self.mix::<S, HEADS, 1>(simd, kv_head, head, line, &scales);
        }
    }

    /// Scores of sixteen positions a block: each a chain over the head's dimensions in order.
    #[inline(always)]
    fn score<S: Simd, const HEADS: usize, const BLOCKS: usize>(
        &mut self,
        simd: S,
        kv_head: usize,
        head: usize,
        first: usize,
    ) {
        let head_dim = self.layout.head_dim;
        let at = self.layout.keys(self.layer, kv_head);
        let queries: [&[f32]; HEADS] =
            std::array::from_fn(|i| &self.queries[(head + i) * head_dim..][..head_dim]);
        let keys: [&[Line]; BLOCKS] =
            std::array::from_fn(|i| &self.blocks()[first + i][at..][..head_dim]);
        let mut sums = [[simd.splat(0.0); BLOCKS]; HEADS];
        for d in 0..head_dim {
            let keys: [S::V; BLOCKS] = std::array::from_fn(|i| simd.load(&keys[i][d].0));
            for (sums, query) in sums.iter_mut().zip(&queries) {
                let query = simd.splat(query[d]);
                for (sum, &key) in sums.iter_mut().zip(&keys) {
                    *sum = simd.fma(query, key, *sum);
                }
            }
        }
        let blocks = self.blocks().len();
        for (i, sums) in sums.iter().enumerate() {
            let scores = &mut self.scores[i * blocks + first..][..BLOCKS];
            for (score, &sum) in scores.iter_mut().zip(sums) {
                simd.store(sum, &mut score.0);
            }
        }
    }

    /// The weighted sum of the values, for some lines of the head: four chains, each over every
    /// fourth position.
    #[inline(always)]
    fn mix<S: Simd, const HEADS: usize, const LINES: usize>(
        &mut self,
        simd: S,
        kv_head: usize,
        head: usize,
        line: usize,
        scales: &[f32; HEADS],
    ) {
        let (head_dim, head_lines) = (self.layout.head_dim, self.layout.head_lines());
        let at = self.layout.values(self.layer, kv_head);
        let blocks = self.blocks().len();
        let mut sums = [[[simd.splat(0.0); LINES]; HEADS]; 4];
        for (index, block) in self.blocks().iter().enumerate() {
            let values = &block[at..][..LANES * head_lines];
            let weights: [&Line; HEADS] = std::array::from_fn(|i| &self.scores[i * blocks + index]);
            for quad in 0..LANES / 4 {
                for (chain, sums) in sums.iter_mut().enumerate() {
                    let position = quad * 4 + chain;
                    let values = &values[position * head_lines + line..][..LINES];
                    for (sums, weights) in sums.iter_mut().zip(&weights) {
                        let weight = simd.splat(weights.0[position]);
                        for (sum, value) in sums.iter_mut().zip(values) {
                            *sum = simd.fma(weight, simd.load(&value.0), *sum);
                        }
                    }
                }
            }
        }
        for (i, &scale) in scales.iter().enumerate() {
            let out = &mut self.out[(head + i) * head_dim..][..head_dim][line * LANES..];
            for (j, out) in out.chunks_mut(LANES).take(LINES).enumerate() {
                let [a, b, c, d] = sums.map(|sums| sums[i][j]);
                let sum = simd.add(simd.add(a, b), simd.add(c, d));
                simd.store_part(simd.mul(sum, simd.splat(scale)), out);
            }
        }
    }
}

/// Replaces the scores of the positions in `seen` by `exp(score − max)` and the rest by 0; returns
/// their sum.
#[inline(always)]
fn softmax_weights<S: Simd>(simd: S, scores: &mut [Line], seen: &Range<usize>) -> f32 {
    if let Some(first) = scores.first_mut() {
        first.0[..seen.start % LANES].fill(f32::NEG_INFINITY);
    }
    if let (Some(last), masked @ 1..) = (scores.last_mut(), seen.end % LANES) {
        last.0[masked..].fill(f32::NEG_INFINITY);
    }
    let mut max = simd.splat(f32::NEG_INFINITY);
    for score in scores.iter() {
        max = simd.max(max, simd.load(&score.0));
    }
    let minus_max = simd.splat(-simd.largest(max));
    let mut total = simd.splat(0.0);
    for score in scores.iter_mut() {
        let weight = simd.exp(simd.add(simd.load(&score.0), minus_max));
        total = simd.add(total, weight);
        simd.store(weight, &mut score.0);
    }
    simd.sum(total)
}
