//! Adapters beside the weights, against weights that they were merged into.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use candle_core::{DType, Device};
use rayon::ThreadPoolBuilder;

use super::decode::Span;
use super::decoder::{Decoder, Scratch, Shape};
use super::kernels::Isa;
use super::kv_cache::KvCache;
use super::quantized_tests::{cases, file, log_probs};
use super::reference::{random_adapter, random_weights, specs};
use super::tests::{decode, ids};
use crate::gguf::TensorType;
use crate::model::lora::Adapter;
use crate::model::slots::Projection;
use crate::model::spec::Spec;
use crate::model::weights::Weights;

/// One of all projections, and two of some, of ranks that fill and do not fill a kernel's tiles.
fn adapters(spec: &Spec) -> Vec<Adapter> {
    use Projection::{Down, Gate, Key, Output, Query, Up, Value};
    let table: [(usize, &[Projection]); 3] =
        [(8, &Projection::ALL), (3, &[Key, Up, Output]), (17, &[Query, Value, Gate, Down])];
    let made = table.iter().enumerate();
    made.map(|(i, (rank, targets))| random_adapter(spec, *rank, targets, i as u64)).collect()
}

/// Logits after the last of `ids`, with an adapter; computed in spans of these lengths.
fn logits(decoder: &Decoder, adapter: Option<usize>, ids: &[u32], span: usize) -> Vec<f32> {
    let (mut cache, mut scratch) = (KvCache::default(), Scratch::default());
    let mut last = Vec::new();
    for tokens in ids.chunks(span) {
        let mut spans = [Span { cache: &mut cache, tokens, logits: true, adapter }];
        last = decoder.logits(&mut spans, &mut scratch).next().unwrap().to_vec();
    }
    last
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn log_probabilities_are_those_of_merged_weights() {
    for isa in Isa::available() {
        for spec in specs() {
            // As large as a model's weights are; those of the other tests amplify what is rounded.
            let weights = Weights::random(&spec, 1, &Device::Cpu).unwrap();
            let shape = Arc::new(Shape::on(isa, &spec));
            let adapters = adapters(&spec);
            let decoder = Decoder::new(shape.clone(), &weights).unwrap();
            let decoder = decoder.with_adapters(&adapters).unwrap();
            for (index, adapter) in adapters.iter().enumerate() {
                let merged =
                    Decoder::new(shape.clone(), &adapter.merge(&weights).unwrap()).unwrap();
                for len in [1, 23] {
                    let ids = ids(len, index);
                    let got = log_probs(&logits(&decoder, Some(index), &ids, len));
                    let expected = log_probs(&logits(&merged, None, &ids, len));
                    let base = log_probs(&logits(&decoder, None, &ids, len));
                    let error = largest_difference(&got, &expected);
                    assert!(error < 1e-5, "{isa:?} {:?} {index}: off by {error}", spec.family);
                    let changed = largest_difference(&base, &expected);
                    assert!(changed > 1e-2, "{isa:?} {:?} {index}: changes {changed}", spec.family);
                }
            }
        }
    }
}

/// What is rounded is the input of the base's products, as without adapters. These adapters make
/// the weights larger, and what is rounded grows with them: over 20 tokens one was off by 15 %,
/// over 60 all by less than 9 %. A wrong order of rows or a wrong scale is off by half and more.
#[test]
fn beside_quantised_weights_they_are_near_those_of_merged_ones() {
    for spec in cases() {
        for kind in [TensorType::Q8_0, TensorType::Q4_1] {
            let file = file(&spec, 7, kind);
            let read = Spec::from_gguf(&file).unwrap();
            let weights = Weights::from_gguf(&file, &read, DType::F32, &Device::Cpu).unwrap();
            let adapters = adapters(&read);
            for isa in Isa::available() {
                let shape = Arc::new(Shape::on(isa, &read));
                let decoder = Decoder::from_gguf(shape.clone(), &file).unwrap();
                let decoder = decoder.with_adapters(&adapters).unwrap();
                for (index, adapter) in adapters.iter().enumerate() {
                    let merged = adapter.merge(&weights).unwrap();
                    let merged = Decoder::new(shape.clone(), &merged).unwrap();
                    let ids = ids(60, 3);
                    let a = log_probs(&logits(&decoder, Some(index), &ids, 60));
                    let b = log_probs(&logits(&merged, None, &ids, 60));
                    let mean = b.iter().sum::<f64>() / b.len() as f64;
                    let spread = b.iter().map(|x| (x - mean).powi(2)).sum::<f64>().sqrt();
                    let error = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
                    let off = error / spread;
                    assert!(off < 0.25, "{:?} {kind:?} {isa:?} {index}: off by {off}", read.family);
                }
            }
        }
    }
}

/// Decoders in f32 and with quantised weights, each with adapters and without any.
fn pairs() -> Vec<(Decoder, Decoder)> {
    let mut pairs = Vec::new();
    for isa in Isa::available() {
        for spec in specs() {
            let shape = Arc::new(Shape::on(isa, &spec));
            let weights = random_weights(&spec, 3);
            let new = || Decoder::new(shape.clone(), &weights).unwrap();
            pairs.push((new().with_adapters(&adapters(&spec)).unwrap(), new()));
        }
        for spec in cases() {
            let file = file(&spec, 7, TensorType::Q4_1);
            let spec = Spec::from_gguf(&file).unwrap();
            let shape = Arc::new(Shape::on(isa, &spec));
            let new = || Decoder::from_gguf(shape.clone(), &file).unwrap();
            pairs.push((new().with_adapters(&adapters(&spec)).unwrap(), new()));
        }
    }
    pairs
}

#[test]
fn a_row_is_the_same_bits_whatever_its_neighbours_use_and_however_many_threads_there_are() {
    let pool = |threads| ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let pools = [1, 3].map(pool);
    for (decoder, bare) in pairs() {
        let sequences: Vec<(Option<usize>, Vec<u32>)> = (0..6)
            .map(|i| ([None, Some(0), Some(1), Some(2), Some(0), None][i], ids(1 + 5 * i, i)))
            .collect();
        let alone: Vec<Vec<f32>> = sequences
            .iter()
            .map(|(adapter, ids)| pools[0].install(|| logits(&decoder, *adapter, ids, ids.len())))
            .collect();
        for ((adapter, ids), alone) in sequences.iter().zip(&alone) {
            assert_eq!(alone, &logits(&decoder, *adapter, ids, 7), "in spans");
            if adapter.is_none() {
                assert_eq!(alone, &decode(&bare, &mut KvCache::default(), ids, &[]), "without any");
            }
        }
        for pool in &pools {
            let mut caches = vec![KvCache::default(); sequences.len()];
            let mut spans: Vec<Span<'_, KvCache>> = caches
                .iter_mut()
                .zip(&sequences)
                .map(|(cache, (adapter, tokens))| Span {
                    cache,
                    tokens,
                    logits: true,
                    adapter: *adapter,
                })
                .collect();
            let mut scratch = Scratch::default();
            let together: Vec<Vec<f32>> = pool.install(|| {
                decoder.logits(&mut spans, &mut scratch).map(|row| row.to_vec()).collect()
            });
            assert_eq!(alone, together, "{} threads", pool.current_num_threads());
        }
    }
}
