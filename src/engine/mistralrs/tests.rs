#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Mutex;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use candle_core::Tensor;

use super::*;
use crate::engine::Sampling;

/// Samples the same token over and over, and panics in the engine's thread on request.
struct Killer(Mutex<std::sync::mpsc::Receiver<()>>);

impl CustomLogitsProcessor for Killer {
    fn apply(&self, logits: &Tensor, _context: &[u32]) -> candle_core::Result<Tensor> {
        // Other sequences in the batch wait with it, so none has ended when it panics.
        let received = self.0.lock().unwrap().recv_timeout(Duration::from_millis(20));
        assert!(matches!(received, Err(RecvTimeoutError::Timeout)), "killed by a test");
        let mut row = vec![f32::NEG_INFINITY; logits.elem_count()];
        row[5] = 0.0;
        Tensor::from_vec(row, logits.shape(), logits.device())
    }
}

/// A request that is being sampled and will end the engine's thread.
pub(crate) struct Threat {
    strike: std::sync::mpsc::Sender<()>,
    responses: mpsc::Receiver<Response>,
}

impl MistralRsEngine {
    /// Prepares the panic of the engine's thread.
    pub(crate) async fn threaten(&self) -> Threat {
        let inner = self.shared.model.inner();
        let (strike, received) = std::sync::mpsc::channel();
        let killer: Arc<dyn CustomLogitsProcessor> = Arc::new(Killer(Mutex::new(received)));
        let tokens = self.shared.context_length - 10;
        let (responses, mut received) = mpsc::channel(tokens + 16);
        let normal = NormalRequest {
            is_streaming: true,
            logits_processors: Some(vec![killer]),
            ..NormalRequest::new_simple(
                RequestMessage::CompletionTokens(vec![5, 6, 7]),
                SamplingParams { max_len: Some(tokens), ..SamplingParams::neutral() },
                responses,
                inner.next_request_id(),
                None,
                None,
            )
        };
        self.shared.send(Request::Normal(Box::new(normal))).await.unwrap();
        received.recv().await.unwrap();
        Threat { strike, responses: received }
    }
}

impl Threat {
    /// Panics, and returns when that is done.
    pub(crate) async fn strike(mut self) {
        self.strike.send(()).unwrap();
        let death = async { while self.responses.recv().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(60), death).await.unwrap();
    }
}

fn request(max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        prompt: vec![5, 6, 7],
        sampling: Sampling::GREEDY,
        stop_ids: Vec::new(),
        max_tokens,
        stream: true,
    }
}

async fn last(mut events: mpsc::UnboundedReceiver<GenerateEvent>) -> GenerateEvent {
    let all = async {
        let mut last = None;
        while let Some(event) = events.recv().await {
            last = Some(event);
        }
        last.unwrap()
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_whose_thread_dies_ends_what_is_in_flight_and_is_rebuilt() {
    let path = Path::new("models/policy");
    let config = MistralRsConfig { force_cpu: true, max_batch: 8, ..MistralRsConfig::default() };
    let engine = MistralRsEngine::load(path, &config).await.unwrap();
    let done = GenerateEvent::Done(StopReason::Length);
    assert_eq!(last(engine.generate(request(4))).await, done);
    for round in 0..2 {
        let threat = engine.threaten().await;
        let in_flight = engine.generate(request(100));
        threat.strike().await;
        // It may be done before, fails if it had begun to be sampled, and otherwise is sampled by
        // the next thread; it never waits for a dead one.
        let end = last(in_flight).await;
        let has_failed = matches!(end, GenerateEvent::Failed(EngineError::Stopped(_)));
        assert!(has_failed || end == done, "{round}: {end:?}");
        // At once, even while the dead thread is still being cleaned up.
        assert_eq!(last(engine.generate(request(4))).await, done, "{round}");
        assert!(engine.is_ready().await, "{round}");
    }
}
