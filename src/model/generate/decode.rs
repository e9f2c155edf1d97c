//! What computes a step of many sequences, wherever it does.

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

    /// How many tokens it has room for: what it costs.
    fn capacity(&self) -> usize;

    /// A cache of its first `len` tokens, or of somewhat fewer, which the two share.
    fn prefix(&self, len: usize) -> Self;
}

/// Tokens of one sequence to compute in a pass.
#[derive(Debug)]
pub struct Span<'a, C> {
    /// The sequence so far; the tokens are added to it.
    pub cache: &'a mut C,
    /// Ids below the vocabulary size; they follow what the cache holds.
    pub tokens: &'a [u32],
    /// Whether the logits after the last of them are wanted.
    pub logits: bool,
    /// The adapter that the sequence is computed with, by its place among those of the decoder. The
    /// cache must have been computed with the same.
    pub adapter: Option<usize>,
}

/// How to draw the token after a span.
#[derive(Debug)]
pub struct Draw<'a> {
    /// From which part of the distribution.
    pub sampling: Sampling,
    /// The sequence's own generator.
    pub rng: &'a mut ChaCha8Rng,
}

/// A model ready to decode.
pub trait Decode: Debug + Send + Sync + Sized + 'static {
    /// What it keeps of a sequence.
    type Cache: SequenceCache;
    /// Working memory of a pass, kept from one to the next.
    type Scratch: Debug + Default + Send;

    /// Whether a step is divided among the threads: each computes some of the sequences.
    fn is_divided(&self) -> bool;

    /// The longest sequence that it can hold.
    fn context(&self) -> usize;

    /// The same, with the same adapters, over other weights of the same shape. Caches made with the
    /// old ones are worthless to it.
    ///
    /// # Errors
    /// When the weights are of another shape, or the device has no memory left.
    fn with_weights(&self, weights: &Weights) -> Result<Self, ModelError>;

    /// Makes room for `count` more tokens; `false` when there is none, until others let go of theirs.
    fn reserve(&self, cache: &mut Self::Cache, count: usize) -> bool;

    /// Computes the tokens of all spans and adds them to their caches, in which room was made.
    /// Draws a token after each of the spans that want logits; `draws` are theirs, in order.
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
