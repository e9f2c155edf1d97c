//! The engine over this program's own decoders: continuous batching, live weights.

mod adapted;
mod batch;
mod inbox;
mod prefix_cache;
mod sequence;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};

use async_trait::async_trait;
use rayon::ThreadPoolBuilder;
use tokio::sync::mpsc;

pub use self::adapted::AdaptedEngine;
use self::batch::RunningBatch;
use self::inbox::{Inbox, Submission};
use super::config::NativeConfig;
use super::{Engine, EngineError, GenerateEvent, GenerateRequest};
use crate::compute::panic_message;
use crate::gguf::Gguf;
use crate::model::error::ModelError;
use crate::model::generate::decode::Decode;
use crate::model::generate::decoder::{Decoder, Shape};
use crate::model::generate::device::DeviceDecoder;
use crate::model::lora::Adapter;
use crate::model::spec::Spec;
use crate::model::weights::Weights;

/// Tokens that an engine has processed since it was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NativeCounts {
    /// Prompt tokens that were computed.
    pub prefilled: u64,
    /// Prompt tokens whose keys and values were taken from another sequence.
    pub reused: u64,
    /// Tokens sampled.
    pub sampled: u64,
}

#[derive(Debug, Default)]
struct Counters {
    prefilled: AtomicU64,
    reused: AtomicU64,
    sampled: AtomicU64,
}

/// Where the weights of an engine come from.
#[derive(Debug, Clone, Copy)]
pub enum Base<'a> {
    /// Of these. On the CPU the engine has a copy of them, in f32; elsewhere it shares them and
    /// computes in their type.
    Weights(&'a Weights),
    /// Of a GGUF file, on the CPU: quantised ones stay as they are.
    Gguf(&'a Gguf),
}

/// Samples from a model, many sequences at a time, on the device that its weights are on.
///
/// On the CPU a request's tokens depend only on the weights, its prompt and its seed, not on other
/// requests or on caching. On a GPU that holds up to rounding: two equally likely tokens may be
/// swapped. Dropping the engine fails requests in flight.
#[derive(Debug)]
pub struct NativeEngine {
    model: Spec,
    context: usize,
    adapters: usize,
    inbox: Arc<Inbox>,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl NativeEngine {
    /// Starts an engine with these weights. On the CPU it computes on threads of its own, one a
    /// core.
    ///
    /// # Errors
    /// When the weights do not fit the shape, or memory or threads cannot be allocated.
    pub fn new(model: &Spec, weights: &Weights, config: &NativeConfig) -> Result<Self, ModelError> {
        Self::with_adapters(model, Base::Weights(weights), &[], config)
    }

    /// Starts an engine on the CPU with the weights of a GGUF file.
    ///
    /// # Errors
    /// When the file does not hold the weights of such a model.
    pub fn from_gguf(model: &Spec, file: &Gguf, config: &NativeConfig) -> Result<Self, ModelError> {
        Self::with_adapters(model, Base::Gguf(file), &[], config)
    }

    /// Starts an engine that has adapters beside its weights, for [`AdaptedEngine`]: where the
    /// weights are, and in their type. Requests with and without an adapter share the weights, the
    /// queue and each step.
    ///
    /// # Errors
    /// When weights or adapters do not fit the shape, or there is no memory or thread for them.
    pub fn with_adapters(
        model: &Spec,
        base: Base<'_>,
        adapters: &[Adapter],
        config: &NativeConfig,
    ) -> Result<Self, ModelError> {
        let shape = || Arc::new(Shape::new(model));
        let mut engine = match base {
            Base::Weights(weights) if !weights.embed.device().is_cpu() => {
                let decoder = DeviceDecoder::new(model, weights, config.device_tokens)?;
                Self::start(model, decoder.with_adapters(adapters), config)?
            }
            Base::Weights(weights) => {
                let decoder = Decoder::new(shape(), weights)?.with_adapters(adapters)?;
                Self::start(model, decoder, config)?
            }
            Base::Gguf(file) => {
                let decoder = Decoder::from_gguf(shape(), file)?.with_adapters(adapters)?;
                Self::start(model, decoder, config)?
            }
        };
        engine.adapters = adapters.len();
        Ok(engine)
    }

    fn start<D: Decode>(
        model: &Spec,
        decoder: D,
        config: &NativeConfig,
    ) -> Result<Self, ModelError> {
        let context = decoder.context();
        let inbox = Arc::new(Inbox::new(config.queue));
        let counters = Arc::new(Counters::default());
        let no_thread =
            |source| ModelError::Io { path: "threads of the native engine".into(), source };
        let pool = ThreadPoolBuilder::new()
            .thread_name(|index| format!("engine-{index}"))
            .build()
            .map_err(|error| no_thread(std::io::Error::other(error)))?;
        let (requests, batch) =
            (inbox.clone(), RunningBatch::new(decoder, config, counters.clone()));
        // The loop runs on one of the pool's threads, so that handing half a step to another is
        // cheap.
        let thread = Builder::new()
            .name("engine".into())
            .spawn(move || pool.install(|| serve(&requests, batch)))
            .map_err(no_thread)?;
        let (model, thread) = (model.clone(), Some(thread));
        Ok(Self { model, context, adapters: 0, inbox, counters, thread })
    }

    /// Replaces the weights, which must have the model's shape, before the next step. Requests that
    /// start after this use only the new ones. Those in flight keep their tokens and continue with
    /// the new weights; cached keys and values are dropped. Invalid weights stop the engine.
    pub fn set_weights(&self, weights: &Weights) {
        self.inbox.set_weights(weights.clone());
    }

    /// Tokens handled so far.
    pub fn counts(&self) -> NativeCounts {
        NativeCounts {
            prefilled: self.counters.prefilled.load(Ordering::Relaxed),
            reused: self.counters.reused.load(Ordering::Relaxed),
            sampled: self.counters.sampled.load(Ordering::Relaxed),
        }
    }

    /// Starts a request that is computed with an adapter, or without one.
    fn begin(
        &self,
        request: GenerateRequest,
        adapter: Option<usize>,
    ) -> mpsc::UnboundedReceiver<GenerateEvent> {
        let (events, receiver) = mpsc::unbounded_channel();
        let checked = self.check(&request.prompt);
        let submission = Submission { request, adapter, events };
        match checked {
            Ok(()) => self.inbox.push(submission),
            Err(error) => submission.fail(error),
        }
        receiver
    }

    fn check(&self, prompt: &[u32]) -> Result<(), EngineError> {
        let (tokens, context) = (prompt.len(), self.context_length());
        if tokens >= context {
            return Err(EngineError::PromptTooLong { tokens, context });
        }
        let vocabulary = self.model.vocab_size;
        match prompt.iter().find(|&&id| id as usize >= vocabulary) {
            _ if prompt.is_empty() => {
                Err(EngineError::InvalidRequest("the prompt is empty".into()))
            }
            Some(id) => Err(EngineError::InvalidRequest(format!(
                "token id `{id}` is outside the vocabulary of {vocabulary}"
            ))),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Engine for NativeEngine {
    fn generate(&self, request: GenerateRequest) -> mpsc::UnboundedReceiver<GenerateEvent> {
        self.begin(request, None)
    }

    fn context_length(&self) -> usize {
        self.context
    }

    async fn is_ready(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for NativeEngine {
    fn drop(&mut self) {
        self.inbox.close();
        if let Some(thread) = self.thread.take() {
            // It ends after its current step; a panic was reported to its requests.
            let _ = thread.join();
        }
    }
}

/// Runs steps until the inbox closes. A step that fails or panics fails the requests in flight and
/// leaves an empty batch.
fn serve<D: Decode>(inbox: &Inbox, mut batch: RunningBatch<D>) {
    let mut end = "it is shutting down".to_owned();
    while let Some(delivery) = inbox.take(batch.room(), batch.is_idle()) {
        for submission in delivery.submissions {
            batch.admit(submission);
        }
        if let Some(Err(error)) = delivery.weights.map(|weights| batch.set_weights(&weights)) {
            tracing::error!(%error, "the native engine cannot use its new weights");
            end = format!("it cannot use its new weights: {error}");
            break;
        }
        let failure = match catch_unwind(AssertUnwindSafe(|| batch.step())) {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => format!("a step failed: {error}"),
            Err(panic) => format!("a step panicked: {}", panic_message(panic.as_ref())),
        };
        tracing::error!(reason = failure, "the native engine failed the requests in flight");
        batch.fail(&failure);
    }
    inbox.close();
    batch.fail(&end);
    inbox.fail(&end);
}

#[cfg(test)]
mod adapter_tests;
#[cfg(test)]
mod tests;
