//! The decoder against the reference, on every available device.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use candle_core::{DType, Device};

use super::*;
use crate::model::generate::decode::SequenceCache;
use crate::model::generate::reference::{
    self, biased_spec, even_spec, random_adapter, random_weights, specs, windowed_spec,
};
use crate::model::slots::Projection;
use crate::model::tests::devices;

/// Those of all families, and widths and groups of heads for which a GPU's kernels differ.
fn all_specs() -> Vec<Spec> {
    let with = |base: Spec, heads, kv_heads, head_dim| Spec {
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        head_dim,
        ..base
    };
    let others = [
        with(even_spec(), 4, 2, 64),
        with(even_spec(), 7, 1, 40),
        with(biased_spec(), 4, 4, 96),
        with(windowed_spec(), 6, 2, 24),
        with(windowed_spec(), 10, 2, 256),
    ];
    specs().into_iter().chain(others).collect()
}

/// The driver of `tests/cuda` has the kernels of `fused` alone.
fn is_testable(device: &Device, spec: &Spec) -> bool {
    let has_all = device.is_cpu() || std::env::var_os("EMULATED_CUDA").is_none();
    has_all || spec.head_dim.is_multiple_of(8)
}

fn ids(len: usize, seed: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * 31 + seed * 17 + i * i * 7) % 83) as u32).collect()
}

fn on(device: &Device, spec: &Spec, seed: u64) -> DeviceDecoder {
    let weights = random_weights(spec, seed).to_device(device).unwrap();
    DeviceDecoder::new(spec, &weights, Some(512)).unwrap()
}

fn forward(
    decoder: &DeviceDecoder,
    parts: &mut [(&mut PooledCache, &[u32], bool)],
) -> Vec<Vec<f32>> {
    forward_with(decoder, None, parts)
}

fn forward_with(
    decoder: &DeviceDecoder,
    adapter: Option<usize>,
    parts: &mut [(&mut PooledCache, &[u32], bool)],
) -> Vec<Vec<f32>> {
    let mut spans = Vec::new();
    for (cache, tokens, logits) in parts {
        assert!(decoder.reserve(cache, tokens.len()));
        spans.push(Span { cache: &mut **cache, tokens, logits: *logits, adapter });
    }
    let logits = decoder.forward(&mut spans).unwrap();
    let to_host = |logits: Tensor| {
        let logits = logits.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
        logits.to_vec2().unwrap()
    };
    logits.map_or_else(Vec::new, to_host)
}

#[track_caller]
fn assert_near(got: &[f32], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((f64::from(*got) - expected).abs() < 3e-4, "{got} is not {expected}");
    }
}

#[test]
fn logits_are_those_of_the_definition_however_the_tokens_are_cut() {
    for device in devices() {
        for spec in all_specs().into_iter().filter(|spec| is_testable(&device, spec)) {
            let decoder = on(&device, &spec, 1);
            let ids = ids(70, 0);
            let expected = reference::logits(&spec, &random_weights(&spec, 1), &ids);
            for cuts in [&[70][..], &[1, 70], &[16, 32, 70], &[7, 20, 49, 50, 51, 70]] {
                let mut cache = PooledCache::default();
                for &cut in cuts {
                    let tokens = &ids[cache.len()..cut];
                    let logits = forward(&decoder, &mut [(&mut cache, tokens, true)]);
                    assert_near(&logits[0], &expected[cut - 1]);
                }
            }
        }
    }
}

#[test]
fn sequences_of_all_lengths_go_together() {
    for device in devices() {
        for spec in all_specs().into_iter().filter(|spec| is_testable(&device, spec)) {
            let decoder = on(&device, &spec, 2);
            let weights = random_weights(&spec, 2);
            let sequences: Vec<Vec<u32>> =
                [30, 1, 17, 30, 9, 64, 30].iter().enumerate().map(|(i, &n)| ids(n, i)).collect();
            let mut caches: Vec<PooledCache> =
                sequences.iter().map(|_| PooledCache::default()).collect();
            // All but the last token, with some logits not needed; then that token, together with a
            // new sequence.
            let mut parts: Vec<_> = caches
                .iter_mut()
                .zip(&sequences)
                .filter(|(_, ids)| ids.len() > 1)
                .map(|(cache, ids)| (cache, &ids[..ids.len() - 1], ids.len() == 9))
                .collect();
            let logits = forward(&decoder, &mut parts);
            assert_eq!(logits.len(), 1);
            assert_near(&logits[0], &reference::logits(&spec, &weights, &sequences[4][..8])[7]);
            let mut parts: Vec<_> = caches
                .iter_mut()
                .zip(&sequences)
                .map(|(cache, ids)| (cache, &ids[ids.len() - 1..], true))
                .collect();
            for (logits, ids) in forward(&decoder, &mut parts).iter().zip(&sequences) {
                let expected = reference::logits(&spec, &weights, ids);
                assert_near(logits, &expected[ids.len() - 1]);
            }
        }
    }
}

#[test]
fn a_long_sequence_attends_to_all_of_its_tokens() {
    let spec = Spec { max_position_embeddings: 1024, ..even_spec() };
    let weights = random_weights(&spec, 7);
    let ids = ids(600, 0);
    let expected = reference::logits(&spec, &weights, &ids);
    for device in devices() {
        let on_device = weights.to_device(&device).unwrap();
        let decoder = DeviceDecoder::new(&spec, &on_device, Some(1024)).unwrap();
        let mut cache = PooledCache::default();
        for cut in [590, 600] {
            let tokens = &ids[cache.len()..cut];
            let logits = forward(&decoder, &mut [(&mut cache, tokens, true)]);
            assert_near(&logits[0], &expected[cut - 1]);
        }
    }
}

#[test]
fn an_adapter_changes_the_logits_as_if_it_were_merged() {
    let ids = ids(20, 0);
    for device in devices() {
        for spec in all_specs().into_iter().filter(|spec| is_testable(&device, spec)) {
            let mut adapter = random_adapter(&spec, 3, &Projection::ALL, 8);
            let merged = adapter.merge(&random_weights(&spec, 8)).unwrap();
            let expected = reference::logits(&spec, &merged, &ids);
            for (_, tensor) in adapter.named_mut() {
                *tensor = tensor.to_device(&device).unwrap();
            }
            let decoder = on(&device, &spec, 8).with_adapters(&[adapter]);
            let mut parts = [(&mut PooledCache::default(), &ids[..], true)];
            assert_near(&forward_with(&decoder, Some(0), &mut parts)[0], &expected[19]);
        }
    }
}

#[test]
fn in_bf16_the_logits_differ_by_rounding() {
    let ids = ids(40, 0);
    for device in devices() {
        for spec in all_specs().into_iter().filter(|spec| is_testable(&device, spec)) {
            let weights = random_weights(&spec, 9).to_dtype(DType::BF16).unwrap();
            let wide = weights.to_dtype(DType::F32).unwrap();
            let expected = &reference::logits(&spec, &wide, &ids)[39];
            let on_device = weights.to_device(&device).unwrap();
            let decoder = DeviceDecoder::new(&spec, &on_device, Some(64)).unwrap();
            let mut parts = [(&mut PooledCache::default(), &ids[..], true)];
            let logits = &forward(&decoder, &mut parts)[0];
            let count = expected.len() as f64;
            let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
            let spread = (square(&mut expected.iter().copied()) / count).sqrt();
            let mut gaps = logits.iter().zip(expected).map(|(got, x)| f64::from(*got) - x);
            let gap = (square(&mut gaps) / count).sqrt();
            assert!(gap < 0.03 * spread, "{gap} of {spread} with {spec:?} on {device:?}");
        }
    }
}

#[test]
fn a_prefix_is_shared_by_whole_blocks_and_its_source_is_left_alone() {
    let spec = even_spec();
    let decoder = on(&Device::Cpu, &spec, 3);
    let weights = random_weights(&spec, 3);
    let first = ids(41, 0);
    let mut source = PooledCache::default();
    forward(&decoder, &mut [(&mut source, &first, false)]);
    for shared in [1, 15, 16, 17, 32, 40, 41] {
        let mut taken = source.prefix(shared);
        assert_eq!(taken.len(), shared / 16 * 16);
        let second = [&first[..taken.len()], &ids(12, 9)].concat();
        let tokens = &second[taken.len()..];
        let logits = forward(&decoder, &mut [(&mut taken, tokens, true)]);
        let expected = reference::logits(&spec, &weights, &second);
        assert_near(&logits[0], &expected[second.len() - 1]);
    }
    let longer = [&first[..], &[8]].concat();
    let logits = forward(&decoder, &mut [(&mut source, &[8], true)]);
    assert_near(&logits[0], &reference::logits(&spec, &weights, &longer)[41]);
}

#[test]
fn blocks_go_back_to_the_pool_with_the_last_sequence_that_uses_them() {
    let spec = even_spec();
    let weights = random_weights(&spec, 4);
    let decoder = DeviceDecoder::new(&spec, &weights, Some(64)).unwrap();
    assert_eq!(decoder.context(), 64);
    let mut cache = PooledCache::default();
    forward(&decoder, &mut [(&mut cache, &ids(48, 0), false)]);
    let shared = cache.prefix(32);
    let mut other = PooledCache::default();
    assert!(!decoder.reserve(&mut other, 17));
    assert_eq!(other.capacity(), 0);
    assert!(decoder.reserve(&mut other, 16));
    drop(cache);
    // The third block is free, the first two are not.
    assert!(decoder.reserve(&mut other, 32) && !decoder.reserve(&mut other, 33));
    drop(shared);
    assert!(decoder.reserve(&mut other, 64));
}

#[test]
fn other_weights_change_what_comes_out() {
    let spec = even_spec();
    let decoder = on(&Device::Cpu, &spec, 5);
    let weights = random_weights(&spec, 6);
    let changed = decoder.with_weights(&weights).unwrap();
    let ids = ids(20, 0);
    let logits = forward(&changed, &mut [(&mut PooledCache::default(), &ids, true)]);
    assert_near(&logits[0], &reference::logits(&spec, &weights, &ids)[19]);
}
