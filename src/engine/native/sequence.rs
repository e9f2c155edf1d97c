//! One request in flight: its tokens, its cache, its generator.

use rand_chacha::ChaCha8Rng;
use tokio::sync::mpsc::UnboundedSender;

use super::inbox::Submission;
use crate::engine::{EngineError, GenerateEvent, Sampling, StopReason};
use crate::model::generate::decode::{Draw, SequenceCache, Span};
use crate::model::generate::sampler;
use crate::trajectory::SampledToken;

/// A sequence that is being computed.
#[derive(Debug)]
pub(super) struct Sequence<C> {
    /// Prompt and sampled tokens.
    pub ids: Vec<u32>,
    /// Keys and values of the first of them.
    pub cache: C,
    pub adapter: Option<usize>,
    /// Whether it has yet to look for a shared prefix.
    pub waiting: bool,
    /// Tokens to compute in this step.
    pub due: usize,
    prompt: usize,
    limit: usize,
    sampling: Sampling,
    rng: ChaCha8Rng,
    stop_ids: Vec<u32>,
    stream: bool,
    /// The token of this step.
    pub drawn: Option<SampledToken>,
    unsent: Vec<SampledToken>,
    events: UnboundedSender<GenerateEvent>,
}

impl<C: SequenceCache> Sequence<C> {
    /// Begins a request; the prompt is shorter than the model's `context`.
    pub fn new(Submission { request, adapter, events }: Submission, context: usize) -> Self {
        let prompt = request.prompt.len();
        Self {
            ids: request.prompt,
            cache: C::default(),
            adapter,
            waiting: true,
            due: 0,
            prompt,
            limit: prompt.saturating_add(request.max_tokens.max(1)).min(context),
            sampling: request.sampling,
            rng: sampler::generator(&request.sampling),
            stop_ids: request.stop_ids,
            stream: request.stream,
            drawn: None,
            unsent: Vec::new(),
            events,
        }
    }

    /// Tokens that are not computed yet; at least 1.
    pub fn left(&self) -> usize {
        self.ids.len() - self.cache.len()
    }

    /// Whether only the last sampled token is left to compute.
    pub fn is_sampling(&self) -> bool {
        self.ids.len() > self.prompt && self.left() == 1
    }

    /// Whether the receiver is gone.
    pub fn is_cancelled(&self) -> bool {
        self.events.is_closed()
    }

    /// Drops what was computed, not what was sampled.
    pub fn restart(&mut self) {
        self.cache = C::default();
        self.waiting = true;
    }

    /// Whether this step reaches the last token, so that another can be drawn.
    pub fn draws(&self) -> bool {
        self.due == self.left()
    }

    /// What to compute in this step, and how to draw where it reaches the last token.
    pub fn work(&mut self) -> (Span<'_, C>, Option<Draw<'_>>) {
        let logits = self.draws();
        let start = self.cache.len();
        let tokens = &self.ids[start..start + self.due];
        let draw = logits.then_some(Draw { sampling: self.sampling, rng: &mut self.rng });
        let adapter = self.adapter;
        (Span { tokens, cache: &mut self.cache, logits, adapter }, draw)
    }

    /// Appends the token that was drawn, if any, and reports it, or that it means nothing. Returns
    /// whether it was the last.
    pub fn report(&mut self) -> bool {
        let Some(token) = self.drawn.take() else { return false };
        if token.log_prob.is_nan() {
            let error = EngineError::NotNumbers { tokens: self.ids.len() };
            let _ = self.events.send(GenerateEvent::Failed(error));
            return true;
        }
        self.ids.push(token.id);
        self.unsent.push(token);
        let end = if self.stop_ids.contains(&token.id) {
            Some(StopReason::StopId)
        } else {
            (self.ids.len() >= self.limit).then_some(StopReason::Length)
        };
        // The receiver may be gone: the next step notices and removes the sequence.
        if self.stream || end.is_some() {
            let _ = self.events.send(GenerateEvent::Tokens(std::mem::take(&mut self.unsent)));
        }
        if let Some(reason) = end {
            let _ = self.events.send(GenerateEvent::Done(reason));
        }
        end.is_some()
    }

    /// Ends it with an error.
    pub fn fail(self, reason: &str) {
        let _ = self.events.send(GenerateEvent::Failed(EngineError::Stopped(reason.to_owned())));
    }
}
