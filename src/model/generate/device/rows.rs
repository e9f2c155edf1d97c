//! The tokens of one pass, and where each finds its keys and values.

use super::kv_pool::PooledCache;
use crate::model::generate::decode::{SequenceCache, Span};
use std::ops::Range;

/// The tokens of a pass, one per row.
pub(super) struct Rows<'a> {
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    /// Rows whose logits are needed.
    pub wanted: Vec<u32>,
    pub sequences: Vec<Sequence<'a>>,
}

/// One sequence of a pass.
#[derive(Clone, Copy)]
pub(super) struct Sequence<'a> {
    pub cache: &'a PooledCache,
    /// Its first row.
    pub row: usize,
    pub queries: usize,
}

impl Sequence<'_> {
    /// The keys that its last row attends to.
    pub fn keys(self) -> usize {
        self.cache.len() + self.queries
    }

    /// Of its rows.
    pub fn positions(self) -> Range<usize> {
        self.cache.len()..self.keys()
    }

    /// The location of the token at `position` in the pool.
    pub fn slot(self, position: usize) -> u32 {
        self.cache.slot(position)
    }
}

impl<'a> Rows<'a> {
    pub fn new(spans: &'a [Span<'_, PooledCache>]) -> Self {
        let (mut ids, mut positions, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        let mut sequences = Vec::with_capacity(spans.len());
        for span in spans {
            let sequence =
                Sequence { cache: &*span.cache, row: ids.len(), queries: span.tokens.len() };
            sequences.push(sequence);
            ids.extend_from_slice(span.tokens);
            positions.extend(sequence.positions().map(|position| position as u32));
            wanted.extend(span.logits.then_some((ids.len() - 1) as u32));
        }
        Self { ids, positions, wanted, sequences }
    }

    /// The location of each row's key and value in the pool.
    pub fn slots(&self) -> Vec<u32> {
        let slots = |&sequence: &Sequence<'a>| {
            sequence.positions().map(move |position| sequence.slot(position))
        };
        self.sequences.iter().flat_map(slots).collect()
    }
}
