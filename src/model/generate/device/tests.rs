//! The decoder against the reference, on every available device.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use candle_core::Device;

use super::*;
use crate::model::generate::decode::SequenceCache;
use crate::model::generate::reference::{
    self, even_spec, odd_spec, random_weights, specs, windowed_spec,
};
use crate::model::tests::devices;

/// Like [`even_spec`], with heads that the kernels for paged attention support.
fn wide_spec() -> Spec {
    Spec { head_dim: 64, ..even_spec() }
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
    let mut spans = Vec::new();
    for (cache, tokens, logits) in parts {
        assert!(decoder.reserve(cache, tokens.len()));
        spans.push(Span { cache: &mut **cache, tokens, logits: *logits, adapter: None });
    }
    let logits = decoder.forward(&mut spans).unwrap();
    logits
        .map_or_else(Vec::new, |logits| logits.to_device(&Device::Cpu).unwrap().to_vec2().unwrap())
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
        for spec in specs().into_iter().chain([wide_spec()]) {
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
        for spec in [odd_spec(), wide_spec(), windowed_spec()] {
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
