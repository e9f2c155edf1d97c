//! Sixteen lanes of f32 on any instruction set: kernels are written once over them.
//!
//! Every set rounds alike (fused multiply-add wherever the hardware has it) and every kernel fixes
//! its order of summation, so AVX2, AVX-512 and NEON give the same bits.

use super::bytes::Bytes;

/// Lanes of a vector.
pub const LANES: usize = 16;

/// Sixteen aligned floats: the unit of storage of weights, caches and activations.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C, align(64))]
pub struct Line(pub [f32; LANES]);

impl Line {
    /// All lanes 0.
    pub const ZERO: Self = Self([0.0; LANES]);
}

/// An instruction set. A value proves that the CPU has it.
pub trait Simd: Bytes {
    /// Sixteen lanes.
    type V: Copy;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// Reads lanes.
    fn load(self, from: &[f32; LANES]) -> Self::V;
    /// Writes lanes.
    fn store(self, v: Self::V, to: &mut [f32; LANES]);
    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a × b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a × b + c`
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where one is not a number.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where one is not a number.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The nearest whole number, the even one on ties.
    fn round(self, a: Self::V) -> Self::V;
    /// 2ⁿ for whole n in −126..=127, and 0 for n = −127.
    fn pow2(self, n: Self::V) -> Self::V;

    /// Whole numbers as floats.
    fn floats(self, from: Self::Long) -> Self::V;
    /// Reads sixteen half-precision floats, little-endian.
    fn halves(self, from: &[u8; 2 * LANES]) -> Self::V;
    /// Reads sixteen i8.
    fn small(self, from: &[u8; LANES]) -> Self::V;

    /// Reads up to sixteen lanes; the rest are 0.
    #[inline(always)]
    fn load_part(self, from: &[f32]) -> Self::V {
        if let Some(full) = from.first_chunk() {
            return self.load(full);
        }
        let mut lanes = [0.0; LANES];
        lanes[..from.len()].copy_from_slice(from);
        self.load(&lanes)
    }

    /// Writes as many lanes as there is room for.
    #[inline(always)]
    fn store_part(self, v: Self::V, to: &mut [f32]) {
        if let Some(full) = to.first_chunk_mut() {
            return self.store(v, full);
        }
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        to.copy_from_slice(&lanes[..to.len()]);
    }

    /// The sum of the lanes, halves first.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        for width in [8, 4, 2, 1] {
            let (low, high) = lanes.split_at_mut(width);
            for (low, high) in low.iter_mut().zip(high) {
                *low += *high;
            }
        }
        lanes[0]
    }

    /// The largest lane.
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    /// eˣ to about one unit in the last place; 0 below −88, e⁸⁸ above 88.
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        // x = n ln 2 + r with |r| ≤ ln 2 / 2; ln 2 in two parts so that r keeps its digits.
        const LN_2_HIGH: f32 = 0.693_359_4;
        const LN_2_LOW: f32 = -2.121_944_4e-4;
        let x = self.min(self.splat(88.0), self.max(self.splat(-88.0), x));
        let n = self.round(self.mul(x, self.splat(std::f32::consts::LOG2_E)));
        let r = self.fma(n, self.splat(-LN_2_HIGH), x);
        let r = self.fma(n, self.splat(-LN_2_LOW), r);
        let mut series = self.splat(1.0 / 5040.0);
        for reciprocal in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            series = self.fma(series, r, self.splat(reciprocal));
        }
        self.mul(series, self.pow2(n))
    }
}

/// Work that can run on any instruction set.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// Runs it. Must be `#[inline(always)]`, as everything it calls, to be compiled for the set;
    /// closures may load a vector but do no more work, since they may not be inlined.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}
