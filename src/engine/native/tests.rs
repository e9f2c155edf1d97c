//! The native engine through its port, and step by step where timing would make a test unreliable.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::num::NonZeroUsize;

use candle_core::Device;

use super::*;
use crate::engine::{Sampling, StopReason};
use crate::model::generate::device::DeviceDecoder;
use crate::model::generate::reference::{self, even_spec, random_weights};
use crate::model::tests::devices;
use crate::model::{Model, Selection, batch};
use crate::trajectory::SampledToken;

const CONTEXT: usize = 256;

fn engine(config: NativeConfig) -> NativeEngine {
    let model = even_spec();
    assert_eq!(model.max_position_embeddings, CONTEXT);
    NativeEngine::new(&model, &random_weights(&model, 1), &config).unwrap()
}

fn batch(config: &NativeConfig) -> RunningBatch<Decoder> {
    let model = even_spec();
    let decoder = Decoder::new(Arc::new(Shape::new(&model)), &random_weights(&model, 1)).unwrap();
    RunningBatch::new(decoder, config, Arc::default())
}

pub(super) fn ids(len: usize, seed: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * 29 + seed * 13 + i * i * 5) % 96) as u32).collect()
}

pub(super) fn request(prompt: Vec<u32>, max_tokens: usize, seed: u64) -> GenerateRequest {
    let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: None, seed };
    GenerateRequest { prompt, sampling, stop_ids: Vec::new(), max_tokens, stream: false }
}

/// Requests of all lengths and ways to sample.
pub(super) fn mixed_requests() -> Vec<GenerateRequest> {
    (0..13)
        .map(|i| {
            let mut request = request(ids(1 + 7 * i, i), 5 + 3 * (i % 5), i as u64);
            request.sampling = match i % 4 {
                0 => Sampling::GREEDY,
                1 => Sampling { temperature: 0.7, top_p: 0.8, ..request.sampling },
                2 => {
                    Sampling { temperature: 1.5, top_k: NonZeroUsize::new(10), ..request.sampling }
                }
                _ => request.sampling,
            };
            request.stream = i % 2 == 0;
            request
        })
        .collect()
}

/// Everything sampled, and how it ended.
pub(super) async fn finish(
    mut events: mpsc::UnboundedReceiver<GenerateEvent>,
) -> (Vec<SampledToken>, Result<StopReason, EngineError>) {
    let mut tokens = Vec::new();
    loop {
        match events.recv().await.expect("ends with an event") {
            GenerateEvent::Tokens(more) => tokens.extend(more),
            GenerateEvent::Done(reason) => return (tokens, Ok(reason)),
            GenerateEvent::Failed(error) => return (tokens, Err(error)),
        }
    }
}

pub(super) async fn sample(engine: &dyn Engine, request: &GenerateRequest) -> Vec<SampledToken> {
    let (tokens, end) = finish(engine.generate(request.clone())).await;
    end.unwrap();
    tokens
}

fn sampled_ids(tokens: &[SampledToken]) -> Vec<u32> {
    tokens.iter().map(|token| token.id).collect()
}

/// The prompt, what was sampled after it, and what was observed after that.
pub(super) fn continued(prompt: &[u32], tokens: &[SampledToken], observed: &[u32]) -> Vec<u32> {
    [prompt, &sampled_ids(tokens), observed].concat()
}

#[tokio::test]
async fn a_request_gives_the_same_tokens_alone_and_in_a_crowd() {
    let alone = engine(NativeConfig { cache_tokens: 0, ..NativeConfig::default() });
    let mut expected = Vec::new();
    for request in mixed_requests() {
        expected.push(sample(&alone, &request).await);
    }
    for (max_batch, prefill_tokens) in [(128, 512), (128, 16), (4, 1), (3, 40)] {
        let crowd = engine(NativeConfig { max_batch, prefill_tokens, ..NativeConfig::default() });
        for round in 0..2 {
            let receivers: Vec<_> =
                mixed_requests().into_iter().map(|request| crowd.generate(request)).collect();
            for (receiver, expected) in receivers.into_iter().zip(&expected) {
                let (tokens, end) = finish(receiver).await;
                assert_eq!(end, Ok(StopReason::Length));
                assert_eq!(&tokens, expected, "batch {max_batch}, round {round}");
            }
        }
    }
}

/// The log-probabilities of what was sampled are those of the definition.
#[track_caller]
fn assert_log_probs(request: &GenerateRequest, tokens: &[SampledToken]) {
    let model = even_spec();
    let ids = continued(&request.prompt, tokens, &[]);
    let logits = reference::logits(&model, &random_weights(&model, 1), &ids);
    let temperature = f64::from(request.sampling.temperature);
    let temperature = if temperature > 0.0 { temperature } else { 1.0 };
    for (i, token) in tokens.iter().enumerate() {
        let logits: Vec<f64> =
            logits[request.prompt.len() + i - 1].iter().map(|l| l / temperature).collect();
        let total: f64 = logits.iter().map(|l| l.exp()).sum();
        let expected = logits[token.id as usize] - total.ln();
        let error = (f64::from(token.log_prob) - expected).abs();
        assert!(error < 3e-4, "token {i}: {} is not {expected}", token.log_prob);
    }
}

#[tokio::test]
async fn log_probs_are_those_of_a_plain_forward_pass() {
    let engine = engine(NativeConfig::default());
    for request in mixed_requests() {
        assert_log_probs(&request, &sample(&engine, &request).await);
    }
}

/// The engine over the decoder for any device, with memory for `tokens` tokens.
fn pooled(device: &Device, tokens: usize, config: &NativeConfig) -> NativeEngine {
    let model = even_spec();
    let weights = random_weights(&model, 1).to_device(device).unwrap();
    let decoder = DeviceDecoder::new(&model, &weights, Some(tokens)).unwrap();
    NativeEngine::start(&model, decoder, config).unwrap()
}

#[tokio::test]
async fn a_pool_serves_all_also_when_it_has_no_room_for_them_at_once() {
    for device in devices() {
        // The longest of the thirteen sequences takes six blocks of 16.
        for (tokens, cache_tokens) in [(2_048, 512), (160, 512), (112, 0)] {
            let config = NativeConfig { cache_tokens, ..NativeConfig::default() };
            let engine = pooled(&device, tokens, &config);
            assert_eq!(engine.context_length(), tokens.min(CONTEXT));
            for _ in 0..2 {
                let requests = mixed_requests();
                let receivers: Vec<_> =
                    requests.iter().map(|request| engine.generate(request.clone())).collect();
                for (receiver, request) in receivers.into_iter().zip(&requests) {
                    let (tokens, end) = finish(receiver).await;
                    assert_eq!((end, tokens.len()), (Ok(StopReason::Length), request.max_tokens));
                    assert_log_probs(request, &tokens);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_pool_computes_a_prompt_that_a_group_shares_once() {
    let engine = pooled(&Device::Cpu, 2_048, &NativeConfig::default());
    let request = |seed| request(ids(100, 3), 4, seed);
    let receivers: Vec<_> = (0..8).map(|seed| engine.generate(request(seed))).collect();
    for receiver in receivers {
        assert_eq!(finish(receiver).await.1, Ok(StopReason::Length));
    }
    // 96 of the 100 tokens fill whole blocks.
    let counts = engine.counts();
    assert_eq!((counts.prefilled, counts.reused), (100 + 7 * 4, 7 * 96));
}

#[tokio::test]
async fn the_trained_model_scores_what_was_sampled_as_the_engine_did() {
    let model = even_spec();
    let weights = random_weights(&model, 1);
    let engine = NativeEngine::new(&model, &weights, &NativeConfig::default()).unwrap();
    let trained = Model::new(model, weights);
    for seed in 0..4 {
        let mut request = request(ids(40, seed), 150, seed as u64);
        request.sampling.temperature = 0.8;
        let tokens = sample(&engine, &request).await;
        let packed = batch::Batch::pack(&[continued(&request.prompt, &tokens, &[])]);
        let all = trained.score(&packed, &Selection::next_tokens(&packed), 0.8).unwrap();
        let scores = &all.log_probs[request.prompt.len() - 1..];
        assert_eq!(scores.len(), tokens.len());
        for (token, score) in tokens.iter().zip(scores) {
            assert!((token.log_prob - score).abs() < 2e-5, "{} is not {score}", token.log_prob);
        }
    }
}

#[tokio::test]
async fn a_later_turn_takes_over_the_earlier_one_and_gives_the_same_tokens() {
    let (cached, scratch) = (
        engine(NativeConfig::default()),
        engine(NativeConfig { cache_tokens: 0, ..NativeConfig::default() }),
    );
    let first = request(ids(37, 0), 12, 3);
    let tokens = sample(&cached, &first).await;
    let second = request(continued(&first.prompt, &tokens, &ids(9, 5)), 12, 4);
    let before = cached.counts();
    assert_eq!((before.prefilled, before.reused, before.sampled), (37, 0, 12));
    assert_eq!(sample(&cached, &second).await, sample(&scratch, &second).await);
    let after = cached.counts();
    // The last token sampled was never computed; it and the nine observed ones are.
    assert_eq!((after.prefilled, after.reused, after.sampled), (37 + 10, 37 + 11, 24));
    assert_eq!(scratch.counts().reused, 0);
}

#[tokio::test]
async fn a_turn_cut_short_is_taken_over_up_to_the_cut() {
    let engine = engine(NativeConfig::default());
    let first = request(ids(20, 0), 10, 3);
    let tokens = sample(&engine, &first).await;
    let cut = continued(&first.prompt, &tokens[..4], &[tokens[4].id + 1, 7]);
    sample(&engine, &request(cut, 1, 0)).await;
    assert_eq!(engine.counts().reused, 24);
}

#[test]
fn a_groups_prompt_is_computed_once() {
    for prefill_tokens in [512, 25] {
        let mut batch = batch(&NativeConfig { prefill_tokens, ..NativeConfig::default() });
        let receivers: Vec<_> =
            (0..5).map(|seed| admit(&mut batch, request(ids(50, 0), 4, seed))).collect();
        while !batch.is_idle() {
            batch.step().unwrap();
        }
        let counters = &batch.counters;
        assert_eq!(counters.prefilled.load(Ordering::Relaxed), 50 + 4);
        assert_eq!(counters.reused.load(Ordering::Relaxed), 4 * 49);
        assert_eq!(counters.sampled.load(Ordering::Relaxed), 5 * 4);
        let samples: Vec<Vec<GenerateEvent>> = receivers.into_iter().map(drain).collect();
        assert!(samples.iter().any(|sample| sample != &samples[0]));
    }
}

fn admit(
    batch: &mut RunningBatch<Decoder>,
    request: GenerateRequest,
) -> mpsc::UnboundedReceiver<GenerateEvent> {
    let (events, receiver) = mpsc::unbounded_channel();
    batch.admit(Submission { request, adapter: None, events });
    receiver
}

/// What was sent so far.
fn drain(mut receiver: mpsc::UnboundedReceiver<GenerateEvent>) -> Vec<GenerateEvent> {
    std::iter::from_fn(|| receiver.try_recv().ok()).collect()
}

#[test]
fn a_dropped_receiver_frees_the_row_before_the_next_step() {
    let mut batch = batch(&NativeConfig { max_batch: 2, ..NativeConfig::default() });
    let cancelled = admit(&mut batch, request(ids(20, 0), 100, 0));
    let kept = admit(&mut batch, request(ids(10, 1), 100, 0));
    batch.step().unwrap();
    assert_eq!(batch.room(), 0);
    drop(cancelled);
    batch.step().unwrap();
    assert_eq!(batch.room(), 1);
    // What was computed for it serves the next request that begins alike.
    let _next = admit(&mut batch, request(ids(20, 0), 100, 0));
    batch.step().unwrap();
    assert_eq!(batch.counters.reused.load(Ordering::Relaxed), 19);
    assert!(drain(kept).is_empty());
}

#[test]
fn a_long_prompt_does_not_hold_up_those_being_sampled() {
    let mut batch = batch(&NativeConfig { prefill_tokens: 8, ..NativeConfig::default() });
    let mut short = request(ids(3, 0), 20, 0);
    short.stream = true;
    let short = admit(&mut batch, short);
    batch.step().unwrap();
    let long = admit(&mut batch, request(ids(80, 1), 1, 0));
    (0..9).for_each(|_| batch.step().unwrap());
    assert!(!batch.is_idle());
    assert_eq!(drain(short).len(), 10);
    batch.step().unwrap();
    assert_eq!(drain(long).len(), 2);
}

#[tokio::test]
async fn the_seed_decides() {
    let engine = engine(NativeConfig::default());
    let with = |seed| request(ids(10, 0), 16, seed);
    let first = sample(&engine, &with(1)).await;
    assert_eq!(first, sample(&engine, &with(1)).await);
    assert_ne!(sampled_ids(&first), sampled_ids(&sample(&engine, &with(2)).await));
}

#[tokio::test]
async fn streams_report_each_token_and_others_all_at_the_end() {
    let engine = engine(NativeConfig::default());
    for stream in [true, false] {
        let mut request = request(ids(10, 0), 6, 0);
        request.stream = stream;
        let mut receiver = engine.generate(request);
        let mut events = Vec::new();
        while let Some(event) = receiver.recv().await {
            events.push(event);
        }
        let counts: Vec<usize> = events
            .iter()
            .filter_map(|event| match event {
                GenerateEvent::Tokens(tokens) => Some(tokens.len()),
                _ => None,
            })
            .collect();
        assert_eq!(counts, if stream { vec![1; 6] } else { vec![6] });
        assert_eq!(events.last(), Some(&GenerateEvent::Done(StopReason::Length)));
    }
}

#[tokio::test]
async fn a_stop_id_ends_the_sequence_and_is_its_last_token() {
    let engine = engine(NativeConfig::default());
    let mut request = request(ids(10, 0), 40, 7);
    let all = sample(&engine, &request).await;
    let stop = all[3].id;
    let first = all.iter().position(|token| token.id == stop).unwrap();
    request.stop_ids = vec![stop];
    let (tokens, end) = finish(engine.generate(request)).await;
    assert_eq!(end, Ok(StopReason::StopId));
    assert_eq!(tokens, all[..=first]);
}

#[tokio::test]
async fn the_context_bounds_the_sequence() {
    let engine = engine(NativeConfig::default());
    let (tokens, end) = finish(engine.generate(request(ids(CONTEXT - 3, 0), 100, 0))).await;
    assert_eq!((tokens.len(), end), (3, Ok(StopReason::Length)));
    for tokens in [CONTEXT, CONTEXT + 9] {
        let end = finish(engine.generate(request(ids(tokens, 0), 1, 0))).await.1;
        assert_eq!(end, Err(EngineError::PromptTooLong { tokens, context: CONTEXT }));
    }
}

#[tokio::test]
async fn prompts_that_cannot_be_computed_are_refused() {
    let engine = engine(NativeConfig::default());
    for prompt in [vec![], vec![1, 96]] {
        let end = finish(engine.generate(request(prompt, 1, 0))).await.1;
        assert!(matches!(end, Err(EngineError::InvalidRequest(_))), "{end:?}");
    }
    assert_eq!(sample(&engine, &request(vec![1, 95], 1, 0)).await.len(), 1);
}

#[tokio::test]
async fn a_full_queue_is_overload() {
    let engine = engine(NativeConfig { queue: 0, ..NativeConfig::default() });
    let end = finish(engine.generate(request(ids(3, 0), 1, 0))).await.1;
    assert_eq!(end, Err(EngineError::Overloaded));
}

#[test]
fn abandoned_requests_leave_a_full_queue() {
    let inbox = Inbox::new(2);
    let push = |inbox: &Inbox| {
        let (events, mut receiver) = mpsc::unbounded_channel();
        inbox.push(Submission { request: request(ids(3, 0), 1, 0), adapter: None, events });
        let is_waiting = receiver.try_recv().is_err();
        (receiver, is_waiting)
    };
    let (first, second) = (push(&inbox), push(&inbox));
    assert!(first.1 && second.1);
    assert!(!push(&inbox).1);
    drop(first);
    assert!(push(&inbox).1);
    assert_eq!(inbox.take(8, true).unwrap().submissions.len(), 1 + 1);
}

#[tokio::test]
async fn new_weights_take_effect_and_drop_what_was_cached() {
    let engine = engine(NativeConfig::default());
    let request = request(ids(30, 0), 10, 0);
    let old = sample(&engine, &request).await;
    let weights = random_weights(&even_spec(), 2);
    engine.set_weights(&weights);
    let new = sample(&engine, &request).await;
    assert_ne!(old, new);
    assert_eq!(engine.counts().reused, 0);
    let fresh = NativeEngine::new(&even_spec(), &weights, &NativeConfig::default()).unwrap();
    assert_eq!(new, sample(&fresh, &request).await);
}

#[test]
fn a_sequence_in_flight_goes_on_with_the_new_weights() {
    let model = even_spec();
    let mut batch = batch(&NativeConfig::default());
    let request = request(ids(20, 0), 9, 0);
    let receiver = admit(&mut batch, request.clone());
    (0..4).for_each(|_| batch.step().unwrap());
    let weights = random_weights(&model, 2);
    batch.set_weights(&weights).unwrap();
    while !batch.is_idle() {
        batch.step().unwrap();
    }
    let events = drain(receiver);
    let GenerateEvent::Tokens(tokens) = &events[0] else { panic!("{events:?}") };
    assert_eq!(tokens.len(), 9);
    let ids = continued(&request.prompt, tokens, &[]);
    for (i, token) in tokens.iter().enumerate() {
        let weights = if i < 4 { random_weights(&model, 1) } else { weights.clone() };
        let logits = &reference::logits(&model, &weights, &ids)[request.prompt.len() + i - 1];
        let total: f64 = logits.iter().map(|l| l.exp()).sum();
        let expected = logits[token.id as usize] - total.ln();
        assert!((f64::from(token.log_prob) - expected).abs() < 1e-4, "token {i}");
    }
}

#[test]
fn probabilities_that_are_not_numbers_fail_a_request() {
    let mut batch = batch(&NativeConfig::default());
    let receivers = [true, false].map(|stream| {
        let request = request(ids(20, usize::from(stream)), 9, 0);
        admit(&mut batch, GenerateRequest { stream, ..request })
    });
    batch.step().unwrap();
    let mut weights = random_weights(&even_spec(), 1);
    weights.norm = (&weights.norm * f64::NAN).unwrap();
    batch.set_weights(&weights).unwrap();
    batch.step().unwrap();
    assert!(batch.is_idle());
    for (receiver, sent) in receivers.into_iter().zip([1, 0]) {
        let events = drain(receiver);
        let failed = GenerateEvent::Failed(EngineError::NotNumbers { tokens: 21 });
        assert_eq!(events.last(), Some(&failed));
        assert_eq!(events.len(), sent + 1);
    }
}

#[test]
fn a_panic_fails_what_is_in_flight_and_nothing_after() {
    let inbox = Inbox::new(8);
    let push = |prompt: Vec<u32>| {
        let (events, receiver) = mpsc::unbounded_channel();
        inbox.push(Submission { request: request(prompt, 3, 0), adapter: None, events });
        receiver
    };
    let mut in_flight = [push(ids(3, 0)), push(vec![1, 9_999])];
    let batch = batch(&NativeConfig::default());
    std::thread::scope(|scope| {
        scope.spawn(|| serve(&inbox, batch));
        for receiver in &mut in_flight {
            let event = receiver.blocking_recv().unwrap();
            assert!(matches!(event, GenerateEvent::Failed(EngineError::Stopped(_))), "{event:?}");
        }
        let mut after = push(ids(3, 0));
        let event = after.blocking_recv().unwrap();
        assert!(matches!(event, GenerateEvent::Tokens(_)), "{event:?}");
        inbox.close();
    });
}

#[tokio::test]
async fn requests_that_wait_when_the_engine_is_dropped_fail() {
    let inbox = Inbox::new(8);
    let (events, receiver) = mpsc::unbounded_channel();
    inbox.push(Submission { request: request(ids(3, 0), 3, 0), adapter: None, events });
    inbox.close();
    serve(&inbox, batch(&NativeConfig::default()));
    assert!(matches!(finish(receiver).await.1, Err(EngineError::Stopped(_))));
}

#[tokio::test]
async fn it_is_ready_while_its_thread_runs() {
    assert!(engine(NativeConfig::default()).is_ready().await);
}

#[test]
fn a_misspelt_key_of_the_configuration_is_refused() {
    let read = |text: &str| toml::from_str::<NativeConfig>(text);
    assert_eq!(read("queue = 9").unwrap(), NativeConfig { queue: 9, ..NativeConfig::default() });
    assert!(read("queu = 9").is_err());
}
