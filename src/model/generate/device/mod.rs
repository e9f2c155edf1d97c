//! Decodes on any device, with the keys and values of all sequences in one pool. On a GPU it uses
//! its own kernels. On other devices, and for models that the kernels do not support, it uses the
//! trainer's layers, made of candle's operations, with an attention that reads the pool.

mod attention;
mod draw;
#[cfg(feature = "cuda")]
mod fused;
pub mod kv_pool;
mod rows;

use std::sync::Arc;

use candle_core::Tensor;

use self::attention::Gathered;
#[cfg(feature = "cuda")]
use self::fused::Fused;
use self::kv_pool::{KvPool, PooledCache};
use self::rows::Rows;
use super::decode::{Decode, Draw, Span};
use crate::model::block::Block;
use crate::model::error::ModelError;
use crate::model::lora::Adapter;
use crate::model::ops::types::Linear;
use crate::model::ops::{linear, rms_norm};
use crate::model::rotary::RotaryTable;
use crate::model::spec::Spec;
use crate::model::weights::Weights;
use crate::trajectory::SampledToken;

/// A model ready to decode on the device and in the type of its weights.
///
/// Its results for a sequence depend on the rest of the pass only by rounding: libraries choose
/// kernels by the number of rows.
#[derive(Debug)]
pub struct DeviceDecoder {
    spec: Arc<Spec>,
    weights: Weights,
    adapters: Arc<[Adapter]>,
    pool: Arc<KvPool>,
    /// One for each of [`Spec::ropes`].
    rotary: Arc<[RotaryTable]>,
    /// The kernels, where there are some for the model and its device.
    #[cfg(feature = "cuda")]
    fused: Option<Arc<Fused>>,
}

impl DeviceDecoder {
    /// Decodes with `weights`, which it shares; with keys and values of at most `tokens` tokens, or
    /// of as many as [`KvPool::new`] has memory for.
    ///
    /// # Errors
    /// When the device has no memory left.
    pub fn new(spec: &Spec, weights: &Weights, tokens: Option<usize>) -> Result<Self, ModelError> {
        // Merged adapters leave some weights in a wider type.
        let weights = weights.to_dtype(weights.embed.dtype())?;
        let device = weights.embed.device();
        let pool = Arc::new(KvPool::new(spec, weights.embed.dtype(), device, tokens)?);
        Ok(Self {
            #[cfg(feature = "cuda")]
            fused: Fused::new(spec, weights.embed.dtype(), device)?.map(Arc::new),
            spec: Arc::new(spec.clone()),
            rotary: RotaryTable::all(spec),
            weights,
            adapters: Arc::default(),
            pool,
        })
    }

    /// The same with `adapters`, by which spans can be computed. They are on the device of the
    /// weights, in their type.
    pub fn with_adapters(self, adapters: &[Adapter]) -> Self {
        Self { adapters: adapters.into(), ..self }
    }

    /// Computes the tokens of spans with the same adapter and appends them to their caches, in
    /// which memory was allocated. Returns the logits of the spans that need them, `(wanted,
    /// vocab)`, in the model's type; `None` if none does.
    fn forward(&self, spans: &mut [Span<'_, PooledCache>]) -> candle_core::Result<Option<Tensor>> {
        let adapter = spans.first().and_then(|span| span.adapter);
        let adapter = adapter.map(|adapter| &self.adapters[adapter]);
        let logits = self.logits(&Rows::new(spans), adapter)?;
        for span in spans {
            span.cache.advance(span.tokens.len());
        }
        Ok(logits)
    }

    /// The needed logits of `rows`, `(wanted, vocab)`, in the model's type.
    fn logits(
        &self,
        rows: &Rows<'_>,
        adapter: Option<&Adapter>,
    ) -> candle_core::Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if let Some(fused) = &self.fused {
            return fused.logits(&self.spec, &self.weights, adapter, &self.pool, rows);
        }
        self.composed_logits(rows, adapter)
    }

    /// The same by the trainer's layers.
    fn composed_logits(
        &self,
        rows: &Rows<'_>,
        adapter: Option<&Adapter>,
    ) -> candle_core::Result<Option<Tensor>> {
        let device = self.weights.embed.device();
        let gathered = Gathered::new(rows, &self.pool, &self.spec)?;
        let wanted = Tensor::new(&rows.wanted[..], device)?;
        let mut x = self.spec.embed(&self.weights.embed, &rows.ids)?;
        let rotations = self.rotary.iter().map(|table| table.rotation(&rows.positions, device));
        let rotations = rotations.collect::<candle_core::Result<Vec<_>>>()?;
        let last = self.weights.layers.len() - 1;
        for (index, weights) in self.weights.layers.iter().enumerate() {
            let block = Block { index, spec: &self.spec, weights, adapter };
            let projected = block.project_heads(&x, &rotations)?;
            let memory = self.pool.layer(index);
            gathered.write(memory, &projected.k, &projected.v)?;
            if index == last && rows.wanted.is_empty() {
                return Ok(None);
            }
            let window = self.spec.layers[index].window;
            let mut attended = gathered.attend(&projected.q, memory, window)?;
            if index == last {
                // Of the other rows, only keys and values are needed.
                x = x.index_select(&wanted, 0)?;
                attended = attended.index_select(&wanted, 0)?;
            }
            x = block.finish(&x, &attended)?.0;
        }
        let normed = rms_norm::forward(&x, self.spec.norm(&self.weights.norm))?;
        linear::forward(&normed, Linear::plain(self.weights.output()), None).map(Some)
    }
}

impl Decode for DeviceDecoder {
    type Cache = PooledCache;
    type Scratch = Vec<f32>;

    fn is_divided(&self) -> bool {
        false
    }

    fn context(&self) -> usize {
        self.spec.max_position_embeddings.min(self.pool.tokens())
    }

    fn with_weights(&self, weights: &Weights) -> Result<Self, ModelError> {
        let weights = weights.to_dtype(self.weights.embed.dtype())?;
        Ok(Self {
            spec: Arc::clone(&self.spec),
            weights,
            adapters: Arc::clone(&self.adapters),
            pool: Arc::clone(&self.pool),
            rotary: Arc::clone(&self.rotary),
            #[cfg(feature = "cuda")]
            fused: self.fused.clone(),
        })
    }

    fn reserve(&self, cache: &mut PooledCache, count: usize) -> bool {
        cache.reserve(&self.pool, count)
    }

    fn sample(
        &self,
        spans: &mut [Span<'_, PooledCache>],
        scratch: &mut Vec<f32>,
        draws: &mut [Draw<'_>],
    ) -> Result<Vec<SampledToken>, ModelError> {
        let (mut tokens, mut rest) = (Vec::with_capacity(draws.len()), draws);
        // One pass for each adapter: what it adds is a part of the trainer's own layers.
        for spans in spans.chunk_by_mut(|a, b| a.adapter == b.adapter) {
            let wanted = spans.iter().filter(|span| span.logits).count();
            let (draws, after) = rest.split_at_mut(wanted);
            if let Some(logits) = self.forward(spans)? {
                tokens.extend(draw::draw(&logits, scratch, draws)?);
            }
            rest = after;
        }
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests;
