//! The port to decoders: computes a step of many sequences.

use std::fmt::Debug;

use rand_chacha::ChaCha8Rng;

use crate::model::error::ModelError;
use crate::model::weights::Weights;
use crate::sampling::Sampling;
use crate::trajectory::SampledToken;

/// The keys and values of a sequence's first tokens. The default holds none.
pub trait SequenceCache: Debug + Default + Send + Sync {
    /// How many tokens it holds.
    fn len(&self) -> usize;

    /// Whether it holds none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many tokens it has memory for.
    fn capacity(&self) -> usize;

    /// A cache of its first `len` tokens, or of slightly fewer, with shared memory.
    fn prefix(&self, len: usize) -> Self;
}

/// Tokens of one sequence to compute in a pass.
#[derive(Debug)]
pub struct Span<'a, C> {
    /// The sequence so far; the tokens are added to it.
    pub cache: &'a mut C,
    /// Ids below the vocabulary size, which follow those in the cache.
    pub tokens: &'a [u32],
    /// Whether the logits after the last of them are needed.
    pub logits: bool,
    /// The adapter that the sequence is computed with, by its index among those of the decoder. The
    /// cache must have been computed with the same.
    pub adapter: Option<usize>,
}

/// How to draw the token after a span.
#[derive(Debug)]
pub struct Draw<'a> {
    /// Which part of the distribution is sampled from.
    pub sampling: Sampling,
    /// The sequence's own generator.
    pub rng: &'a mut ChaCha8Rng,
}

/// A model ready to decode.
pub trait Decode: Debug + Send + Sync + Sized + 'static {
    /// Its cache of a sequence.
    type Cache: SequenceCache;
    /// Working memory of a pass, reused by the next.
    type Scratch: Debug + Default + Send;

    /// Whether a step is split between threads, each of which computes some of the sequences.
    fn is_divided(&self) -> bool;

    /// The longest sequence that it can hold.
    fn context(&self) -> usize;

    /// Replaces the weights by others of the same shape, with the same adapters, which invalidates
    /// all caches.
    ///
    /// # Errors
    /// When the weights are of another shape, or the device has no memory left.
    fn with_weights(&self, weights: &Weights) -> Result<Self, ModelError>;

    /// Allocates memory for `count` more tokens; `false` if there is none until caches are dropped.
    fn reserve(&self, cache: &mut Self::Cache, count: usize) -> bool;

    /// Computes the tokens of all spans and appends them to their caches, in which memory was
    /// allocated. Draws a token after each span that needs logits; `draws` are for those, in order.
    ///
    /// # Errors
    /// When the device fails.
    fn sample(
        &self,
        spans: &mut [Span<'_, Self::Cache>],
        scratch: &mut Self::Scratch,
        draws: &mut [Draw<'_>],
    ) -> Result<Vec<SampledToken>, ModelError>;
}
