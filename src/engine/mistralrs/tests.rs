#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use candle_core::Tensor;

use super::*;
use crate::engine::Sampling;

/// Ends the engine's thread the hard way: it panics at its twentieth token.
#[derive(Default)]
struct Killer(AtomicUsize);

impl CustomLogitsProcessor for Killer {
    fn apply(&self, logits: &Tensor, _context: &[u32]) -> candle_core::Result<Tensor> {
        assert!(self.0.fetch_add(1, Ordering::Relaxed) < 20, "killed by a test");
        Ok(logits.clone())
    }
}

/// Sends a request that samples by `processor`.
async fn send(
    engine: &MistralRsEngine,
    processor: impl CustomLogitsProcessor + 'static,
) -> mpsc::Receiver<Response> {
    let inner = engine.shared.model.inner();
    let (responses, received) = mpsc::channel(256);
    let normal = NormalRequest {
        is_streaming: true,
        logits_processors: Some(vec![Arc::new(processor) as Arc<dyn CustomLogitsProcessor>]),
        ..NormalRequest::new_simple(
            RequestMessage::CompletionTokens(vec![5, 6, 7]),
            SamplingParams { max_len: Some(100), ..SamplingParams::neutral() },
            responses,
            inner.next_request_id(),
            None,
            None,
        )
    };
    engine.shared.send(Request::Normal(Box::new(normal))).await.unwrap();
    received
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
    let config = MistralRsConfig { force_cpu: true, ..MistralRsConfig::default() };
    let engine = MistralRsEngine::load(path, &config).await.unwrap();
    let done = GenerateEvent::Done(StopReason::Length);
    assert_eq!(last(engine.generate(request(4))).await, done);
    for round in 0..2 {
        let in_flight = engine.generate(request(100));
        let mut killer = send(&engine, Killer::default()).await;
        let death = async { while killer.recv().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(60), death).await.unwrap();
        // It may be done before, fails where it had begun to be sampled, and else is sampled by the
        // next thread; it never waits for one that is no more.
        let end = last(in_flight).await;
        let has_failed = matches!(end, GenerateEvent::Failed(EngineError::Stopped(_)));
        assert!(has_failed || end == done, "{round}: {end:?}");
        // At once, also where the dead thread is still being taken apart.
        assert_eq!(last(engine.generate(request(4))).await, done, "{round}");
        assert!(engine.is_ready().await, "{round}");
    }
}
