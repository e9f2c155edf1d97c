//! The sampling hook: draws a request's tokens with its own generator and records them.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Tensor};
use mistralrs::CustomLogitsProcessor;
use rand_chacha::ChaCha8Rng;

use crate::engine::Sampling;
use crate::model::generate::sampler::{generator, sample};
use crate::trajectory::SampledToken;

/// Draws for one request. The engine is asked for greedy decoding and gets logits with a single
/// finite value.
///
/// When a stop token is drawn, the engine is given *another* one. It caches a finished sequence as
/// a prefix for later requests, including its last token, which was never computed: a later request
/// that continues after it would attend to an empty key. With another last token, the match ends
/// just before it, where everything cached is valid.
pub(super) struct SamplingHook {
    sampling: Sampling,
    stop_ids: Vec<u32>,
    state: Mutex<SamplingState>,
}

struct SamplingState {
    rng: ChaCha8Rng,
    fresh: Vec<SampledToken>,
}

impl SamplingHook {
    pub(super) fn new(sampling: Sampling, stop_ids: Vec<u32>) -> Arc<Self> {
        let state = SamplingState { rng: generator(&sampling), fresh: Vec::new() };
        Arc::new(Self { sampling, stop_ids, state: Mutex::new(state) })
    }

    /// The token that the engine is given.
    fn shown(&self, drawn: u32) -> u32 {
        if !self.stop_ids.contains(&drawn) {
            return drawn;
        }
        self.stop_ids.iter().copied().find(|&other| other != drawn).unwrap_or(drawn)
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
        if let Some(chosen) = row.get_mut(self.shown(token.id) as usize) {
            *chosen = 0.0;
        }
        Tensor::from_vec(row, logits.shape(), logits.device())?.to_dtype(logits.dtype())
    }
}
