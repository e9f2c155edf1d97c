//! Several adapters of one engine.

#![allow(clippy::unwrap_used)]

use super::tests::{continued, finish, ids, mixed_requests, request, sample};
use super::*;
use crate::engine::StopReason;
use crate::model::generate::reference::{even_spec, random_adapter, random_weights};
use crate::model::slots::Projection;
use crate::model::{Model, Selection, batch};
use crate::trajectory::SampledToken;

fn adapters() -> Vec<Adapter> {
    let targets: [&[Projection]; 2] = [&Projection::ALL, &[Projection::Query, Projection::Down]];
    let made = targets.iter().enumerate();
    made.map(|(seed, targets)| random_adapter(&even_spec(), 4, targets, seed as u64)).collect()
}

/// An engine for the base, and one for each adapter.
fn engines(config: NativeConfig) -> (Arc<NativeEngine>, Vec<Arc<dyn Engine>>) {
    let (model, weights) = (even_spec(), random_weights(&even_spec(), 1));
    let base = Base::Weights(&weights);
    let engine = NativeEngine::with_adapters(&model, base, &adapters(), &config).unwrap();
    shared(engine)
}

fn shared(engine: NativeEngine) -> (Arc<NativeEngine>, Vec<Arc<dyn Engine>>) {
    let engine = Arc::new(engine);
    let adapted = AdaptedEngine::all(&engine).map(|engine| Arc::new(engine) as Arc<dyn Engine>);
    let all = [Arc::clone(&engine) as Arc<dyn Engine>].into_iter().chain(adapted).collect();
    (engine, all)
}

#[tokio::test]
async fn the_base_and_its_adapters_give_the_same_tokens_alone_and_in_a_crowd() {
    let (_, alone) = engines(NativeConfig { cache_tokens: 0, ..NativeConfig::default() });
    let requests: Vec<_> = mixed_requests().into_iter().cycle().take(39).enumerate().collect();
    let mut expected = Vec::new();
    for (i, request) in &requests {
        expected.push(sample(&*alone[i % 3], request).await);
    }
    // The same prompt and seed.
    assert!(expected[0] != expected[13] && expected[13] != expected[26]);
    for (max_batch, prefill_tokens) in [(128, 512), (5, 16)] {
        let (_, crowd) =
            engines(NativeConfig { max_batch, prefill_tokens, ..NativeConfig::default() });
        for round in 0..2 {
            let receivers: Vec<_> = requests
                .iter()
                .map(|(i, request)| crowd[i % 3].generate(request.clone()))
                .collect();
            for (receiver, expected) in receivers.into_iter().zip(&expected) {
                let (tokens, end) = finish(receiver).await;
                assert_eq!(end, Ok(StopReason::Length));
                assert_eq!(&tokens, expected, "batch {max_batch}, round {round}");
            }
        }
    }
}

#[tokio::test]
async fn what_was_computed_with_one_adapter_serves_no_other() {
    let (engine, all) = engines(NativeConfig::default());
    let request = request(ids(50, 0), 4, 1);
    let mut first = Vec::new();
    for (index, one) in all.iter().enumerate() {
        first.push(sample(&**one, &request).await);
        let counts = engine.counts();
        assert_eq!((counts.prefilled, counts.reused), (50 * (index as u64 + 1), 0));
    }
    for (index, one) in all.iter().enumerate() {
        assert_eq!(sample(&**one, &request).await, first[index]);
        assert_eq!(engine.counts().reused, 49 * (index as u64 + 1));
    }
    // Nor while they are in flight: each of two groups computes its prompt once.
    let (engine, all) = engines(NativeConfig { cache_tokens: 0, ..NativeConfig::default() });
    let receivers: Vec<_> = (0..8).map(|i| all[1 + i % 2].generate(request.clone())).collect();
    for (i, receiver) in receivers.into_iter().enumerate() {
        assert_eq!(finish(receiver).await.0, first[1 + i % 2]);
    }
    // Of each prompt the last token is computed anew.
    let counts = engine.counts();
    assert!(
        counts.prefilled >= 2 * 50 + 6 && counts.prefilled + counts.reused == 8 * 50,
        "{counts:?}"
    );
}

#[tokio::test]
async fn they_share_the_base() {
    let (engine, all) = engines(NativeConfig::default());
    assert_eq!(all.len(), 3);
    for adapted in AdaptedEngine::all(&engine) {
        assert!(Arc::ptr_eq(&adapted.engine, &engine));
    }
    drop(engine);
    // The last one alone keeps it going.
    let last = all.into_iter().next_back().unwrap();
    assert_eq!(sample(&*last, &request(ids(5, 0), 3, 0)).await.len(), 3);
}

/// What was sampled with an adapter is scored alike by the trained model with it.
fn assert_scores(
    weights: &Weights,
    adapter: &Adapter,
    request: &GenerateRequest,
    tokens: &[SampledToken],
) {
    let model = Model::new(even_spec(), weights.clone()).with_adapter(adapter.clone());
    let packed = batch::Batch::pack(&[continued(&request.prompt, tokens, &[])]);
    let all = model.score(&packed, &Selection::next_tokens(&packed), 1.0).unwrap();
    let scores = &all.log_probs[request.prompt.len() - 1..];
    for (token, score) in tokens.iter().zip(scores) {
        assert!((token.log_prob - score).abs() < 3e-5, "{} is not {score}", token.log_prob);
    }
}

#[tokio::test]
async fn log_probs_are_those_of_the_trained_model_also_after_the_base_was_changed() {
    for is_pooled in [false, true] {
        let (model, weights) = (even_spec(), random_weights(&even_spec(), 1));
        let config = NativeConfig::default();
        let engine = if is_pooled {
            let decoder = DeviceDecoder::new(&model, &weights, Some(2_048)).unwrap();
            let mut engine =
                NativeEngine::start(&model, decoder.with_adapters(&adapters()), &config).unwrap();
            engine.adapters = 2;
            engine
        } else {
            NativeEngine::with_adapters(&model, Base::Weights(&weights), &adapters(), &config)
                .unwrap()
        };
        let (engine, all) = shared(engine);
        for weights in [weights, random_weights(&model, 2)] {
            engine.set_weights(&weights);
            let request = request(ids(30, 0), 20, 1);
            let receivers: Vec<_> = (0..9).map(|i| all[i % 3].generate(request.clone())).collect();
            for (i, receiver) in receivers.into_iter().enumerate() {
                let (tokens, end) = finish(receiver).await;
                assert_eq!(end, Ok(StopReason::Length));
                if let Some(adapter) = (i % 3).checked_sub(1) {
                    assert_scores(&weights, &adapters()[adapter], &request, &tokens);
                }
            }
        }
    }
}
