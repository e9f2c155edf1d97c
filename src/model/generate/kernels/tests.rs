//! Instruction sets against the standard library, and against each other.

use std::sync::Arc;

use super::attention::Attention;
use super::low_rank::LowRank;
use super::matmul::{Matmul, Packed};
use super::rows::{Exponentials, Gated, NormRotate, RmsNorm};
use super::simd::{Kernel, LANES, Line, Simd};
use super::*;
use crate::model::generate::kv_cache::KvLayout;

/// Numbers in −1..1, the same each time.
fn noise(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * i * 31 + i * 17 + seed * 7919) % 2003) as f32 / 1001.5 - 1.0).collect()
}

/// Bits, of which those of numbers that are none are all alike.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }).collect()
}

/// Operations of two numbers, in all lanes.
struct Binary(f32, f32);

impl Kernel for Binary {
    type Output = [[f32; LANES]; 8];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let (a, b) = (simd.load(&[self.0; LANES]), simd.splat(self.1));
        let results = [
            simd.add(a, b),
            simd.mul(a, b),
            simd.div(a, b),
            simd.max(a, b),
            simd.min(a, b),
            simd.round(a),
            simd.fma(a, b, b),
            simd.load_part(&[self.0; LANES - 1]),
        ];
        let mut out = [[0.0; LANES]; 8];
        for (out, result) in out.iter_mut().zip(results) {
            simd.store(result, out);
        }
        out
    }
}

#[test]
fn operations_equal_those_of_the_standard_library() {
    let mut values = vec![0.0, 1.0, 0.5, 1.5, 2.5, 7.3e-42, 1e-20, 3e38, f32::INFINITY, f32::NAN];
    values.extend(values.clone().iter().map(|x| -x));
    for isa in Isa::available() {
        for (&a, &b) in values.iter().flat_map(|a| values.iter().map(move |b| (a, b))) {
            let fma = if isa.is_fused() { a.mul_add(b, b) } else { a * b + b };
            let max = if a > b { a } else { b };
            let min = if a < b { a } else { b };
            let expected = [a + b, a * b, a / b, max, min, a.round_ties_even(), fma];
            let [ops @ .., part] = isa.run(Binary(a, b));
            for (op, (got, expected)) in ops.iter().zip(expected).enumerate() {
                assert_eq!(bits(got), bits(&[expected; LANES]), "{isa:?} {op}: {a} {b}");
            }
            assert_eq!((bits(&part[..15]), part[15]), (bits(&[a; 15]), 0.0), "{isa:?}");
        }
    }
}

/// The conversions: powers of two, half-precision floats, i8.
struct Conversions<'a>(&'a [f32; LANES], &'a [u8; 2 * LANES], &'a [u8; LANES]);

impl Kernel for Conversions<'_> {
    type Output = [[f32; LANES]; 3];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let mut out = [[0.0; LANES]; 3];
        simd.store(simd.pow2(simd.load(self.0)), &mut out[0]);
        simd.store(simd.halves(self.1), &mut out[1]);
        simd.store(simd.small(self.2), &mut out[2]);
        out
    }
}

#[test]
fn conversions_are_exact() {
    for isa in Isa::available() {
        for first in (0..=u16::MAX).step_by(LANES) {
            let n: [u16; LANES] = std::array::from_fn(|i| first + i as u16);
            let powers = n.map(|n| f32::from(n % 255) - 127.0);
            let small = n.map(|n| n as u8);
            let mut halves = [0; 2 * LANES];
            for (half, n) in halves.as_chunks_mut().0.iter_mut().zip(n) {
                *half = n.to_le_bytes();
            }
            let got = isa.run(Conversions(&powers, &halves, &small));
            let exact = powers.map(|n| if n > -127.0 { n.exp2() } else { 0.0 });
            assert_eq!(got[0], exact, "{isa:?}");
            let exact = n.map(|n| half::f16::from_bits(n).to_f32());
            assert_eq!(bits(&got[1]), bits(&exact), "{isa:?}");
            assert_eq!(got[2], small.map(|n| f32::from(n as i8)), "{isa:?}");
        }
    }
}

/// Sums of products of bytes, unsigned and signed; each weight is that of four columns.
struct Products([u8; LANES], [i8; 4]);

impl Kernel for Products {
    type Output = [[f32; LANES]; 2];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let mut bytes = [0; 4 * LANES];
        for (bytes, weight) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(self.0) {
            *bytes = [weight; 4];
        }
        let bytes = simd.bytes(&bytes);
        let short = simd.dot(simd.short(), simd.low(bytes), self.1);
        let unsigned = simd.widen(simd.long(), short);
        let mut out = [[0.0; LANES]; 2];
        simd.store(simd.floats(unsigned), &mut out[0]);
        simd.store(simd.floats(simd.dot_signed(simd.long(), bytes, self.1)), &mut out[1]);
        out
    }
}

#[test]
fn products_of_the_largest_bytes_are_exact() {
    for isa in Isa::available() {
        for x in [[127; 4], [-127; 4], [127, -127, 1, 0], [-127, 3, -5, 127]] {
            let sum: i32 = x.iter().copied().map(i32::from).sum();
            for first in (0..=u8::MAX).step_by(LANES) {
                let weights: [u8; LANES] = std::array::from_fn(|i| first + i as u8);
                let [unsigned, signed] = isa.run(Products(weights, x));
                let exact = weights.map(|w| (i32::from(w & 15) * sum) as f32);
                assert_eq!(unsigned, exact, "{isa:?}");
                let exact = weights.map(|w| (i32::from(w as i8) * sum) as f32);
                assert_eq!(signed, exact, "{isa:?}");
            }
        }
    }
}

/// What each kernel computes, of shapes that fill no whole number of vectors.
fn results(isa: Isa) -> Vec<f32> {
    let (x, weight) = (noise(3 * 37, 1), noise(53 * 37, 2));
    let packed = Packed::new(isa, 37, &[&weight]);
    let mut product = vec![0.0; 3 * packed.columns()];
    isa.run(Matmul { x: &x, stride: 37, weight: &packed, out: &mut product, add: false });
    let mut all: Vec<f32> =
        product.chunks(packed.columns()).flat_map(|row| row[..53].to_vec()).collect();

    let b: Vec<Line> = (0..15).map(|i| Line(std::array::from_fn(|j| x[i + j]))).collect();
    let (mut low, mut out) = ([0.0; 5], noise(48, 3));
    let a = &weight[..5 * 37];
    isa.run(LowRank { x: &x[..37], a, b: &b, scale: 0.3, low: &mut low, out: &mut out });
    all.extend(out);

    let mut out = [0.0; 37];
    isa.run(RmsNorm { x: &x[..37], weight: &weight[..37], out: &mut out, eps: 1e-6 });
    all.extend(out);
    let polynomial = (1.5, 0.1);
    isa.run(Gated { gate: &x[..37], up: &weight[..37], out: &mut out, polynomial });
    all.extend(out);
    let mut heads = noise(2 * 38, 4);
    let norm = Some((&weight[..38], 1e-6));
    isa.run(NormRotate { heads: &mut heads, norm, angles: &x[..38], scale: 0.2 });
    all.extend(heads);
    let mut values = noise(37, 5);
    all.push(isa.run(Exponentials { values: &mut values, shift: 0.1, scale: 20.0 }));
    all.extend(values);
    all.extend(attention(isa));
    all
}

fn attention(isa: Isa) -> Vec<f32> {
    let layout = KvLayout { layers: 1, kv_heads: 2, head_dim: 24 };
    let block = |seed| -> Arc<[Line]> {
        let values = noise(layout.keys(1, 0) * LANES, seed);
        values.as_chunks().0.iter().map(|&line| Line(line)).collect()
    };
    let blocks: Vec<_> = (0..6).map(block).collect();
    let (queries, mut out) = (noise(6 * 24, 6), vec![0.0; 6 * 24]);
    let (blocks, scores) = (&blocks[..], &mut Vec::new());
    let (queries, seen) = (&queries[..], 3..90);
    isa.run(Attention { queries, out: &mut out, blocks, layout, layer: 0, seen, scores });
    out
}

#[test]
fn sets_that_fuse_give_the_same_bits() {
    let mut sets = Isa::available().filter(|isa| isa.is_fused());
    let Some(first) = sets.next() else { return };
    let expected = results(first);
    assert!(expected.iter().all(|value| value.is_finite()));
    for isa in sets {
        assert_eq!(results(isa), expected, "{isa:?}");
    }
}
