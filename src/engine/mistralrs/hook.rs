//! The sampling hook: draws a request's tokens with its own generator and writes down what it drew.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Tensor};
use mistralrs::CustomLogitsProcessor;
use rand_chacha::ChaCha8Rng;

use crate::engine::Sampling;
use crate::engine::sampler::{generator, sample};
use crate::trajectory::SampledToken;

/// Draws for one request. The engine is asked for greedy decoding and gets logits that leave it no
/// choice.
pub(super) struct SamplingHook {
    sampling: Sampling,
    state: Mutex<State>,
}

struct State {
    rng: ChaCha8Rng,
    fresh: Vec<SampledToken>,
}

impl SamplingHook {
    pub(super) fn new(sampling: Sampling) -> Arc<Self> {
        let state = State { rng: generator(&sampling), fresh: Vec::new() };
        Arc::new(Self { sampling, state: Mutex::new(state) })
    }

    /// What was drawn since the last call.
    pub(super) fn take(&self) -> Vec<SampledToken> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.fresh)
    }
}

impl CustomLogitsProcessor for SamplingHook {
    fn apply(&self, logits: &Tensor, _context: &[u32]) -> candle_core::Result<Tensor> {
        let mut row = logits.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        let token = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let token = sample(&mut row, &self.sampling, &mut state.rng);
            state.fresh.push(token);
            token
        };
        row.fill(f32::NEG_INFINITY);
        if let Some(chosen) = row.get_mut(token.id as usize) {
            *chosen = 0.0;
        }
        Tensor::from_vec(row, logits.shape(), logits.device())?.to_dtype(logits.dtype())
    }
}
