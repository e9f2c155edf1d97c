//! The decoder against the reference, on every instruction set of the CPU.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use super::decode::{SequenceCache, Span};
use super::decoder::{Decoder, Scratch, Shape};
use super::kernels::Isa;
use super::kv_cache::KvCache;
use super::reference::{self, even_spec, odd_spec, random_weights, specs};
use crate::model::spec::Spec;
use crate::model::weights::Weights;

pub(super) fn ids(len: usize, seed: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * 31 + seed * 17 + i * i * 7) % 83) as u32).collect()
}

fn on(isa: Isa, spec: &Spec, weights: &Weights) -> Decoder {
    Decoder::new(Arc::new(Shape::on(isa, spec)), weights).unwrap()
}

/// Logits after the last of `ids`, computed in spans that end at `cuts`.
pub(super) fn decode(
    decoder: &Decoder,
    cache: &mut KvCache,
    ids: &[u32],
    cuts: &[usize],
) -> Vec<f32> {
    let mut scratch = Scratch::default();
    let mut logits = Vec::new();
    for &cut in cuts.iter().chain([&ids.len()]) {
        let tokens = &ids[cache.len()..cut];
        let mut spans = [Span { cache, tokens, logits: true, adapter: None }];
        logits = decoder.logits(&mut spans, &mut scratch).next().unwrap().to_vec();
    }
    logits
}

#[test]
fn logits_are_those_of_the_definition() {
    for isa in Isa::available() {
        for spec in specs() {
            let weights = random_weights(&spec, 1);
            let decoder = on(isa, &spec, &weights);
            let ids = ids(70, 0);
            let expected = reference::logits(&spec, &weights, &ids);
            for len in [1, 2, 15, 16, 17, 33, 64, 70] {
                let got = decode(&decoder, &mut KvCache::default(), &ids[..len], &[]);
                assert_eq!(got.len(), spec.vocab_size);
                for (got, expected) in got.iter().zip(&expected[len - 1]) {
                    let error = (f64::from(*got) - expected).abs();
                    assert!(error < 2e-4, "{isa:?}, {len} tokens: {got} is not {expected}");
                }
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_how_the_tokens_are_cut() {
    for isa in Isa::available() {
        for spec in specs() {
            let decoder = on(isa, &spec, &random_weights(&spec, 2));
            let ids = ids(50, 1);
            let whole = decode(&decoder, &mut KvCache::default(), &ids, &[]);
            let one_by_one: Vec<usize> = (1..50).collect();
            for cuts in [&[1][..], &[16, 32], &[7, 20, 49], &one_by_one] {
                let cut = decode(&decoder, &mut KvCache::default(), &ids, cuts);
                assert_eq!(whole, cut, "{cuts:?}");
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_what_else_is_in_the_pass() {
    for isa in Isa::available() {
        for (spec, count) in specs().iter().zip([2, 3, 7, 13]) {
            let decoder = on(isa, spec, &random_weights(spec, 3));
            let sequences: Vec<Vec<u32>> = (0..count).map(|i| ids(3 + 5 * i, i)).collect();
            let alone: Vec<Vec<f32>> = sequences
                .iter()
                .map(|ids| decode(&decoder, &mut KvCache::default(), ids, &[]))
                .collect();
            let mut caches = vec![KvCache::default(); count];
            let mut spans: Vec<Span<'_, KvCache>> = caches
                .iter_mut()
                .zip(&sequences)
                .map(|(cache, tokens)| Span { cache, tokens, logits: true, adapter: None })
                .collect();
            let mut scratch = Scratch::default();
            let together: Vec<Vec<f32>> =
                decoder.logits(&mut spans, &mut scratch).map(|row| row.to_vec()).collect();
            assert_eq!(alone, together);
        }
    }
}

#[test]
fn only_the_wanted_logits_come_back_and_the_caches_are_complete() {
    let spec = odd_spec();
    let decoder = on(Isa::detect(), &spec, &random_weights(&spec, 4));
    let (a, b, c) = (ids(9, 0), ids(5, 1), ids(20, 2));
    let mut caches = vec![KvCache::default(); 3];
    let mut spans: Vec<Span<'_, KvCache>> = caches
        .iter_mut()
        .zip([(&a, true), (&b, false), (&c, true)])
        .map(|(cache, (tokens, logits))| Span { cache, tokens, logits, adapter: None })
        .collect();
    let mut scratch = Scratch::default();
    let got: Vec<Vec<f32>> =
        decoder.logits(&mut spans, &mut scratch).map(|row| row.to_vec()).collect();
    let expected = [&a, &c].map(|ids| decode(&decoder, &mut KvCache::default(), ids, &[]));
    assert_eq!(got, expected);
    let longer = [&b[..], &[3, 4]].concat();
    let expected = decode(&decoder, &mut KvCache::default(), &longer, &[]);
    assert_eq!(decode(&decoder, &mut caches[1], &longer, &[]), expected);
}

#[test]
fn a_prefix_taken_over_gives_the_same_and_leaves_its_source_alone() {
    let spec = even_spec();
    let decoder = on(Isa::detect(), &spec, &random_weights(&spec, 5));
    let first = ids(41, 0);
    let mut source = KvCache::default();
    decode(&decoder, &mut source, &first, &[]);
    for shared in [1, 15, 16, 17, 32, 40] {
        let mut second = first[..shared].to_vec();
        second.extend(ids(12, 9));
        let mut taken = source.prefix(shared);
        assert_eq!(taken.len(), shared);
        let scratch = decode(&decoder, &mut KvCache::default(), &second, &[]);
        assert_eq!(decode(&decoder, &mut taken, &second, &[]), scratch, "{shared} shared");
        let continued = [&first[..], &[8]].concat();
        let expected = decode(&decoder, &mut KvCache::default(), &continued, &[]);
        assert_eq!(decode(&decoder, &mut source.clone(), &continued, &[]), expected);
    }
}

#[test]
fn sets_that_fuse_give_the_same_bits() {
    let spec = odd_spec();
    let weights = random_weights(&spec, 6);
    let ids = ids(40, 0);
    let results: Vec<Vec<f32>> = Isa::available()
        .filter(|isa| isa.is_fused())
        .map(|isa| decode(&on(isa, &spec, &weights), &mut KvCache::default(), &ids, &[]))
        .collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}
