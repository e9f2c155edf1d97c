//! The engine that serves policies through mistral.rs, on a GPU or a CPU.
//!
//! It is driven by raw token ids, streaming, with a sampling hook: only this gives exact ids,
//! natural-log probabilities and a seed for each request, and allows dropping a request without
//! affecting others.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use mistralrs::{
    CustomLogitsProcessor, GgufModelBuilder, Model, ModelDType, NormalRequest, Request,
    RequestMessage, Response, SamplingParams, StopTokens, TextModelBuilder, TokenSource,
};
use tokio::sync::mpsc::error::SendError;
use tokio::sync::{Semaphore, mpsc};

use super::config::MistralRsConfig;
use super::{Engine, EngineError, GenerateEvent, GenerateRequest, StopReason};
use crate::hint::Reason;
use crate::trajectory::SampledToken;

mod folder;
mod hook;
mod prefix_budget;
mod unsupported;

use folder::ModelFiles;
pub use folder::check_weights;
use hook::SamplingHook;
use prefix_budget::PrefixBudget;
pub use unsupported::check_settings;

/// Sequences whose prefixes mistral.rs may cache on a GPU; on a CPU it has no such bound.
const PREFIXES: usize = 16;

/// A model run by mistral.rs.
pub struct MistralRsEngine {
    shared: Arc<Shared>,
}

struct Shared {
    model: Model,
    context_length: usize,
    slots: Semaphore,
    /// Requests running or queued.
    load: AtomicUsize,
    max_load: usize,
    /// The prefixes that mistral.rs caches, if it does not bound them itself.
    prefix_budget: Option<PrefixBudget>,
    /// Temporary files for it, which live as long as the engine.
    _folder: Option<tempfile::TempDir>,
}

impl MistralRsEngine {
    /// Loads a safetensors folder or a GGUF file.
    ///
    /// # Errors
    /// When there is no such model, or mistral.rs cannot run it.
    pub async fn load(path: &Path, config: &MistralRsConfig) -> Result<Self, EngineError> {
        let failed =
            |reason: Reason| EngineError::Load { path: path.display().to_string(), reason };
        let source = ModelFiles::open(path)?;
        let on_cpu = config.force_cpu || !has_gpu();
        let keeps_prefixes = config.max_batch <= 1;
        let prefixes = keeps_prefixes.then_some(PREFIXES);
        let built = if let Some(file) = &source.gguf {
            let folder = source.path.display().to_string();
            let mut builder = GgufModelBuilder::new(&folder, vec![file])
                .with_token_source(TokenSource::None)
                .with_tok_model_id(source.tokenizer.display())
                .with_prefix_cache_n(prefixes)
                .with_max_num_seqs(config.max_batch.max(1));
            if on_cpu {
                builder = builder.with_force_cpu();
            }
            builder.build().await
        } else {
            // On a CPU `Auto` means half precision; with a GPU, the driver may be asked for its
            // model, which fails without one. So the type is always explicit.
            let dtype = if on_cpu { ModelDType::F32 } else { ModelDType::BF16 };
            let mut builder = TextModelBuilder::new(source.path.display())
                .with_token_source(TokenSource::None)
                .with_dtype(dtype)
                .with_prefix_cache_n(prefixes)
                .with_max_num_seqs(config.max_batch.max(1));
            if on_cpu {
                builder = builder.with_force_cpu();
            }
            builder.build().await
        };
        let model = built.map_err(|error| failed(format!("{error:#}").into()))?;
        let context_length = model
            .max_sequence_length()
            .ok()
            .flatten()
            .ok_or_else(|| failed("its context length is unknown".into()))?;
        let prefix_budget = (keeps_prefixes && on_cpu).then(|| {
            PrefixBudget::new(config.prefix_cache_mib << 20, source.cache_bytes_per_token)
        });
        Ok(Self {
            shared: Arc::new(Shared {
                model,
                context_length,
                slots: Semaphore::new(config.max_batch.max(1)),
                load: AtomicUsize::new(0),
                max_load: config.max_batch + config.queue,
                prefix_budget,
                _folder: source.rewritten,
            }),
        })
    }
}

/// Whether this build can use a GPU, and there is one. A build for CUDA also runs without one;
/// mistral.rs would fail there.
pub fn has_gpu() -> bool {
    if !cfg!(feature = "cuda") {
        return cfg!(feature = "metal");
    }
    candle_core::Device::new_cuda(0)
        .inspect_err(|error| tracing::warn!(%error, "there is no usable CUDA device: on the CPU"))
        .is_ok()
}

#[async_trait]
impl Engine for MistralRsEngine {
    fn generate(&self, request: GenerateRequest) -> mpsc::UnboundedReceiver<GenerateEvent> {
        let (events, receiver) = mpsc::unbounded_channel();
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let last = match shared.serve(request, &events).await {
                Ok(reason) => GenerateEvent::Done(reason),
                Err(error) => GenerateEvent::Failed(error),
            };
            // The receiver may be gone.
            let _ = events.send(last);
        });
        receiver
    }

    fn context_length(&self) -> usize {
        self.shared.context_length
    }

    async fn is_ready(&self) -> bool {
        // Asking for the sender restarts an engine whose thread has died.
        self.shared.model.inner().get_sender(None).is_ok()
    }
}

/// Counts a request as load during its lifetime.
struct Load<'a>(&'a AtomicUsize);

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn stopped(reason: impl ToString) -> EngineError {
    EngineError::Stopped(reason.to_string())
}

impl Shared {
    async fn serve(
        &self,
        request: GenerateRequest,
        events: &mpsc::UnboundedSender<GenerateEvent>,
    ) -> Result<StopReason, EngineError> {
        let tokens = request.prompt.len();
        if tokens == 0 {
            return Err(EngineError::InvalidRequest("the prompt is empty".into()));
        }
        if tokens >= self.context_length {
            return Err(EngineError::PromptTooLong { tokens, context: self.context_length });
        }
        let load = self.load.fetch_add(1, Ordering::Relaxed);
        let _load = Load(&self.load);
        if load >= self.max_load {
            return Err(EngineError::Overloaded);
        }
        let _slot = tokio::select! {
            slot = self.slots.acquire() => slot.map_err(stopped)?,
            () = events.closed() => return Err(stopped("the request was dropped")),
        };
        if self.prefix_budget.as_ref().is_some_and(PrefixBudget::is_full) {
            self.free_prefixes().await?;
        }
        match self.sample(&request, events).await? {
            Some(reason) => Ok(reason),
            // Retried once: another request may have ended the thread.
            None => {
                let again = self.sample(&request, events).await?;
                again.ok_or_else(|| stopped("its thread ends again and again"))
            }
        }
    }

    /// The sender of a running thread, which is restarted if it died.
    async fn send(&self, request: Request) -> Result<(), EngineError> {
        const TIMEOUT: Duration = Duration::from_secs(5);
        let inner = self.model.inner();
        let mut request = request;
        let until = Instant::now() + TIMEOUT;
        loop {
            let sender = inner.get_sender(None).map_err(stopped)?;
            match sender.send(request).await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > until => return Err(stopped(error)),
                // The thread is still exiting: it is restarted once it has ended.
                Err(SendError(unsent)) => request = unsent,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// `None` if the engine's thread ended before it sampled anything for the request.
    async fn sample(
        &self,
        request: &GenerateRequest,
        events: &mpsc::UnboundedSender<GenerateEvent>,
    ) -> Result<Option<StopReason>, EngineError> {
        let prompt_tokens = request.prompt.len();
        let room = (self.context_length - prompt_tokens).min(request.max_tokens);
        let hook = SamplingHook::new(request.sampling, request.stop_ids.clone());
        // A full channel would block the engine's loop, and all requests with it: it never fills
        // up.
        let (responses, received) = mpsc::channel(room + 16);
        let params = SamplingParams {
            max_len: Some(room),
            stop_toks: Some(StopTokens::Ids(request.stop_ids.clone())),
            ..SamplingParams::neutral()
        };
        let processor = Arc::clone(&hook) as Arc<dyn CustomLogitsProcessor>;
        self.ask(request.prompt.clone(), params, Some(vec![processor]), responses).await?;
        let mut sampled = Vec::new();
        let end = Running { request, room, hook, received }.collect(events, &mut sampled).await;
        // However it ends: a sequence that is dropped while its last token is sampled is cached as
        // well.
        if let Some(budget) = &self.prefix_budget {
            budget.add(prompt_tokens + sampled.len());
        }
        let end = end?;
        if !request.stream && end.is_some() {
            let _ = events.send(GenerateEvent::Tokens(sampled));
        }
        Ok(end)
    }

    async fn ask(
        &self,
        prompt: Vec<u32>,
        params: SamplingParams,
        logits_processors: Option<Vec<Arc<dyn CustomLogitsProcessor>>>,
        responses: mpsc::Sender<Response>,
    ) -> Result<(), EngineError> {
        let (message, id) =
            (RequestMessage::CompletionTokens(prompt), self.model.inner().next_request_id());
        let normal = NormalRequest {
            is_streaming: true,
            logits_processors,
            ..NormalRequest::new_simple(message, params, responses, id, None, None)
        };
        self.send(Request::Normal(Box::new(normal))).await
    }

    /// Makes mistral.rs drop all cached prefixes. It does so when a step fails, as one does with a
    /// token outside of the vocabulary. Ending its thread would work too, but each restart leaks a
    /// thread.
    async fn free_prefixes(&self) -> Result<(), EngineError> {
        // The largest number stands for a missing token.
        const NO_TOKEN: u32 = u32::MAX - 1;
        let (responses, mut received) = mpsc::channel(16);
        self.ask(vec![NO_TOKEN], SamplingParams::neutral(), None, responses).await?;
        match received.recv().await {
            // A thread that died has dropped them as well.
            Some(Response::CompletionModelError(..)) | None => {
                self.prefix_budget.as_ref().into_iter().for_each(PrefixBudget::clear);
                Ok(())
            }
            Some(_) => Err(stopped("it does not let go of its prefixes")),
        }
    }
}

/// A request at the engine. Dropping it tells the engine to stop.
struct Running<'a> {
    request: &'a GenerateRequest,
    /// Tokens that it may sample.
    room: usize,
    hook: Arc<SamplingHook>,
    received: mpsc::Receiver<Response>,
}

impl Running<'_> {
    /// Receives what is sampled, to the end; `None` if the engine's thread ended before it sampled
    /// anything.
    async fn collect(
        mut self,
        events: &mpsc::UnboundedSender<GenerateEvent>,
        sampled: &mut Vec<SampledToken>,
    ) -> Result<Option<StopReason>, EngineError> {
        let request = self.request;
        let has_stopped = |sampled: &[SampledToken]| {
            sampled.last().is_some_and(|token| request.stop_ids.contains(&token.id))
        };
        loop {
            let response = tokio::select! {
                response = self.received.recv() => response,
                () = events.closed() => return Err(stopped("the request was dropped")),
            };
            let fresh = self.hook.take();
            if fresh.iter().any(|token| token.log_prob.is_nan()) {
                let tokens = request.prompt.len() + sampled.len();
                return Err(EngineError::NotNumbers { tokens });
            }
            if request.stream && !fresh.is_empty() {
                let _ = events.send(GenerateEvent::Tokens(fresh.clone()));
            }
            sampled.extend(fresh);
            match response {
                Some(Response::CompletionChunk(chunk)) => {
                    let finish = chunk.choices.first().and_then(|c| c.finish_reason.as_deref());
                    match finish {
                        Some("canceled") => return Err(stopped("it was shut down")),
                        Some(_) => break,
                        None => {}
                    }
                }
                Some(Response::InternalError(error) | Response::ValidationError(error)) => {
                    return Err(stopped(error));
                }
                Some(Response::CompletionModelError(error, _) | Response::ModelError(error, _)) => {
                    return Err(stopped(error));
                }
                Some(_) => {
                    return Err(stopped("it answered with something else than a completion"));
                }
                // The last chunk is not sent if the text would end inside a character.
                None if has_stopped(sampled) || sampled.len() >= self.room => break,
                None if sampled.is_empty() => return Ok(None),
                None => return Err(stopped("its thread ended; the next request starts it again")),
            }
        }
        Ok(Some(if has_stopped(sampled) { StopReason::StopId } else { StopReason::Length }))
    }
}

#[cfg(test)]
mod tests;
