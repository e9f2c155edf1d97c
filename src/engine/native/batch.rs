//! The sequences in flight, and one step of them all.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rayon::prelude::*;

use super::Counters;
use super::inbox::Submission;
use super::prefix_cache::{PrefixCache, common};
use super::sequence::Sequence;
use crate::engine::config::NativeConfig;
use crate::model::error::ModelError;
use crate::model::generate::decode::{Decode, SequenceCache};
use crate::model::weights::Weights;

/// Below this many tokens, another thread does not pay.
const TOKENS_PER_THREAD: usize = 4;

/// The least number of tokens that waiting for another sequence's prompt must save.
const MIN_SHARED_TOKENS: usize = 16;

/// All sequences in flight.
#[derive(Debug)]
pub(super) struct RunningBatch<D: Decode> {
    decoder: D,
    max_batch: usize,
    prefill_tokens: usize,
    /// In order of arrival.
    sequences: Vec<Sequence<D::Cache>>,
    prefix_cache: PrefixCache<D::Cache>,
    /// One a thread.
    scratches: Vec<D::Scratch>,
    pub counters: Arc<Counters>,
}

impl<D: Decode> RunningBatch<D> {
    pub fn new(decoder: D, config: &NativeConfig, counters: Arc<Counters>) -> Self {
        Self {
            decoder,
            max_batch: config.max_batch.max(1),
            prefill_tokens: config.prefill_tokens.max(1),
            sequences: Vec::new(),
            prefix_cache: PrefixCache::new(config.cache_tokens),
            scratches: Vec::new(),
            counters,
        }
    }

    /// How many more requests it can take.
    pub fn room(&self) -> usize {
        self.max_batch - self.sequences.len()
    }

    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty()
    }

    pub fn admit(&mut self, submission: Submission) {
        self.sequences.push(Sequence::new(submission, self.decoder.context()));
    }

    /// Replaces the weights: everything computed with the old ones is recomputed.
    pub fn set_weights(&mut self, weights: &Weights) -> Result<(), ModelError> {
        self.decoder = self.decoder.with_weights(weights)?;
        self.prefix_cache.clear();
        self.sequences.iter_mut().for_each(Sequence::restart);
        Ok(())
    }

    /// Fails all sequences and forgets everything computed.
    pub fn fail(&mut self, reason: &str) {
        for sequence in self.sequences.drain(..) {
            sequence.fail(reason);
        }
        self.prefix_cache.clear();
        self.scratches.clear();
    }

    /// Computes the due tokens of each sequence, and draws a token for those that reach their end.
    pub fn step(&mut self) -> Result<(), ModelError> {
        self.retire(|sequence| sequence.is_cancelled());
        for index in 0..self.sequences.len() {
            if self.sequences[index].waiting {
                self.find_prefix(index);
            }
        }
        self.plan();
        while !self.make_room() {
            self.plan();
        }
        self.compute()?;
        self.retire(Sequence::report);
        Ok(())
    }

    /// Removes the sequences that are `over` and caches what was computed of them.
    fn retire(&mut self, over: impl Fn(&mut Sequence<D::Cache>) -> bool) {
        for sequence in self.sequences.extract_if(.., |sequence| over(sequence)) {
            self.prefix_cache.insert(sequence.adapter, sequence.ids, sequence.cache);
        }
    }

    /// Takes over the longest common prefix with the same adapter, from a finished sequence or one
    /// in flight, or waits while one in flight is about to compute a longer one, so that a group's
    /// shared prompt is computed once. The last token is always computed: its logits are needed.
    fn find_prefix(&mut self, index: usize) {
        let sequence = &self.sequences[index];
        let wanted = &sequence.ids[..sequence.ids.len() - 1];
        let (mut ready, mut coming, mut source) = (0, 0, None);
        let is_alike = |other: &&Sequence<_>| !other.waiting && other.adapter == sequence.adapter;
        for other in self.sequences.iter().filter(is_alike) {
            let shared = common(wanted, &other.ids);
            coming = coming.max(shared);
            if shared.min(other.cache.len()) > ready {
                ready = shared.min(other.cache.len());
                source = Some(other);
            }
        }
        let finished = self.prefix_cache.longest(sequence.adapter, wanted);
        let (entry, kept) = finished.unwrap_or_default();
        if coming >= ready.max(kept) + MIN_SHARED_TOKENS {
            return;
        }
        let cache = if kept > ready {
            self.prefix_cache.take(entry, kept)
        } else {
            source.map_or_else(D::Cache::default, |source| source.cache.prefix(ready))
        };
        self.counters.reused.fetch_add(cache.len() as u64, Ordering::Relaxed);
        let sequence = &mut self.sequences[index];
        sequence.cache = cache;
        sequence.waiting = false;
    }

    /// Plans the step: one token for each sequence that is being sampled, and prompts in order of
    /// arrival up to the bound.
    fn plan(&mut self) {
        let mut budget = self.prefill_tokens;
        for sequence in &mut self.sequences {
            sequence.due = match sequence.left() {
                _ if sequence.waiting => 0,
                1 => 1,
                left => left.min(budget),
            };
            if sequence.due > 1 {
                budget -= sequence.due;
            }
        }
    }

    /// Allocates memory for the due tokens, evicting cached sequences if necessary; a sequence that
    /// finds none skips the step. If none can continue, the youngest gives up its memory and the
    /// step must be planned again: `false`.
    fn make_room(&mut self) -> bool {
        let mut is_stuck = false;
        for sequence in self.sequences.iter_mut().filter(|sequence| sequence.due > 0) {
            while !self.decoder.reserve(&mut sequence.cache, sequence.due) {
                if !self.prefix_cache.evict() {
                    sequence.due = 0;
                    is_stuck = true;
                    break;
                }
            }
        }
        if !is_stuck || self.sequences.iter().any(|sequence| sequence.due > 0) {
            return true;
        }
        let youngest = self.sequences.iter_mut().rfind(|sequence| sequence.cache.capacity() > 0);
        youngest.map(Sequence::restart).is_none()
    }

    /// Computes the due tokens, and draws. With a decoder that can be divided, each thread takes
    /// some of the sequences through the whole model.
    fn compute(&mut self) -> Result<(), ModelError> {
        let mut due: Vec<&mut Sequence<D::Cache>> =
            self.sequences.iter_mut().filter(|sequence| sequence.due > 0).collect();
        for sequence in &due {
            if !sequence.is_sampling() {
                self.counters.prefilled.fetch_add(sequence.due as u64, Ordering::Relaxed);
            }
            self.counters.sampled.fetch_add(sequence.draws().into(), Ordering::Relaxed);
        }
        due.sort_by_key(|sequence| Reverse(sequence.due));
        let tokens: usize = due.iter().map(|sequence| sequence.due).sum();
        let threads = rayon::current_num_threads().min(tokens.div_ceil(TOKENS_PER_THREAD));
        let threads = if self.decoder.is_divided() { threads } else { 1 };
        let mut parts: Vec<Part<'_, D::Cache>> = (0..threads.min(due.len()))
            .map(|_| Part { sequences: Vec::new(), tokens: 0 })
            .collect();
        for sequence in due {
            if let Some(lightest) = parts.iter_mut().min_by_key(|part| part.tokens) {
                lightest.tokens += sequence.due;
                lightest.sequences.push(sequence);
            }
        }
        self.scratches.resize_with(parts.len().max(self.scratches.len()), D::Scratch::default);
        let decoder = &self.decoder;
        let advance = |(part, scratch): (&mut Part<'_, _>, _)| part.advance(decoder, scratch);
        if parts.len() > 1 {
            parts.par_iter_mut().zip(&mut self.scratches).try_for_each(advance)
        } else {
            parts.iter_mut().zip(&mut self.scratches).try_for_each(advance)
        }
    }
}

/// One thread's share of a step.
struct Part<'a, C> {
    sequences: Vec<&'a mut Sequence<C>>,
    tokens: usize,
}

impl<C: SequenceCache> Part<'_, C> {
    /// Computes the due tokens and draws from the logits.
    fn advance<D: Decode<Cache = C>>(
        &mut self,
        decoder: &D,
        scratch: &mut D::Scratch,
    ) -> Result<(), ModelError> {
        // A decoder may need a pass for each adapter.
        self.sequences.sort_by_key(|sequence| sequence.adapter);
        let (mut spans, mut draws) = (Vec::with_capacity(self.sequences.len()), Vec::new());
        let mut drawing = Vec::new();
        for (index, sequence) in self.sequences.iter_mut().enumerate() {
            let (span, draw) = sequence.work();
            spans.push(span);
            drawing.extend(draw.is_some().then_some(index));
            draws.extend(draw);
        }
        let tokens = decoder.sample(&mut spans, scratch, &mut draws)?;
        for (index, token) in drawing.into_iter().zip(tokens) {
            self.sequences[index].drawn = Some(token);
        }
        Ok(())
    }
}
