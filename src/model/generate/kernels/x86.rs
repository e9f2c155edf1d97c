//! Sixteen lanes on x86-64: one AVX-512 register, or two of AVX2.

use std::arch::x86_64::*;

use super::bytes::{BYTES, Bytes};
use super::simd::{LANES, Simd};

/// AVX-512 (foundation), and AVX2 for what that does not have.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// A proof that the CPU has it.
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f") && Avx2::detect().is_some()).then_some(Self(()))
    }
}

impl Simd for Avx512 {
    type V = __m512;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> __m512 {
        // SAFETY: `self` proves the instructions; the reference covers what is read.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, v: __m512, to: &mut [f32; LANES]) {
        // SAFETY: `self` proves the instructions; the reference covers what is written.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }

    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased))
        }
    }

    #[inline(always)]
    fn floats(self, from: Self::Long) -> __m512 {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            let low = _mm512_castsi256_si512(from[0]);
            _mm512_cvtepi32_ps(_mm512_inserti64x4::<1>(low, from[1]))
        }
    }

    #[inline(always)]
    fn halves(self, from: &[u8; 2 * LANES]) -> __m512 {
        // SAFETY: `self` proves the instructions; the load need not be aligned.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn small(self, from: &[u8; LANES]) -> __m512 {
        // SAFETY: `self` proves the instructions; the load need not be aligned.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast()))) }
    }
}

/// AVX2 with fused multiply-add and half-precision floats.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// A proof that the CPU has it.
    pub fn detect() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has_all.then_some(Self(()))
    }
}

impl Simd for Avx2 {
    type V = [__m256; 2];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        // SAFETY: `self` proves the instructions; the reference covers what is read.
        unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32; LANES]) {
        // SAFETY: `self` proves the instructions; the reference covers what is written.
        unsafe {
            _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), v[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { [_mm256_round_ps::<NEAREST>(a[0]), _mm256_round_ps::<NEAREST>(a[1])] }
    }

    #[inline(always)]
    fn pow2(self, n: Self::V) -> Self::V {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { [avx2_pow2(n[0]), avx2_pow2(n[1])] }
    }

    #[inline(always)]
    fn floats(self, from: Self::Long) -> Self::V {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { [_mm256_cvtepi32_ps(from[0]), _mm256_cvtepi32_ps(from[1])] }
    }

    #[inline(always)]
    fn halves(self, from: &[u8; 2 * LANES]) -> Self::V {
        let (low, high) = from.split_at(LANES);
        // SAFETY: `self` proves the instructions; each half is sixteen bytes, and the loads need not be aligned.
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(low.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(high.as_ptr().cast())),
            ]
        }
    }

    #[inline(always)]
    fn small(self, from: &[u8; LANES]) -> Self::V {
        // SAFETY: `self` proves the instructions; the load need not be aligned.
        unsafe {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            let high = _mm_srli_si128::<8>(bytes);
            [
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high)),
            ]
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn avx2_pow2(n: __m256) -> __m256 {
    let biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
}

impl Bytes for Avx2 {
    type B = [__m256i; 2];
    type Short = [__m256i; 2];
    type Long = [__m256i; 2];

    #[inline(always)]
    fn short(self) -> Self::Short {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    fn long(self) -> Self::Long {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; BYTES]) -> Self::B {
        let (low, high) = from.split_at(BYTES / 2);
        // SAFETY: `self` proves the instructions; each half is 32 bytes, and the loads need not be aligned.
        unsafe {
            [_mm256_loadu_si256(low.as_ptr().cast()), _mm256_loadu_si256(high.as_ptr().cast())]
        }
    }

    #[inline(always)]
    fn low(self, a: Self::B) -> Self::B {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            let mask = _mm256_set1_epi8(15);
            [_mm256_and_si256(a[0], mask), _mm256_and_si256(a[1], mask)]
        }
    }

    #[inline(always)]
    fn high(self, a: Self::B) -> Self::B {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { self.low([_mm256_srli_epi16::<4>(a[0]), _mm256_srli_epi16::<4>(a[1])]) }
    }

    #[inline(always)]
    fn with_fifth(self, a: Self::B, plane: Self::B, quad: usize) -> Self::B {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { with_plane(a, plane, quad, 16) }
    }

    #[inline(always)]
    fn with_sixth(self, a: Self::B, plane: Self::B, pair: usize) -> Self::B {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { with_plane(a, plane, 2 * pair, 48) }
    }

    #[inline(always)]
    fn dot(self, sum: Self::Short, weights: Self::B, x: [i8; 4]) -> Self::Short {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            let x = _mm256_set1_epi32(i32::from_le_bytes(x.map(|x| x as u8)));
            [
                _mm256_add_epi16(sum[0], _mm256_maddubs_epi16(weights[0], x)),
                _mm256_add_epi16(sum[1], _mm256_maddubs_epi16(weights[1], x)),
            ]
        }
    }

    #[inline(always)]
    fn widen(self, total: Self::Long, sum: Self::Short) -> Self::Long {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            [
                _mm256_add_epi32(total[0], _mm256_madd_epi16(sum[0], ones)),
                _mm256_add_epi32(total[1], _mm256_madd_epi16(sum[1], ones)),
            ]
        }
    }

    #[inline(always)]
    fn dot_signed(self, total: Self::Long, weights: Self::B, x: [i8; 4]) -> Self::Long {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            let x = _mm256_set1_epi32(i32::from_le_bytes(x.map(|x| x as u8)));
            // The sign of a weight moves to its input, so that the weights are unsigned.
            let [low, high] = weights;
            let low = _mm256_maddubs_epi16(_mm256_abs_epi8(low), _mm256_sign_epi8(x, low));
            let high = _mm256_maddubs_epi16(_mm256_abs_epi8(high), _mm256_sign_epi8(x, high));
            self.widen(total, [low, high])
        }
    }
}

impl Bytes for Avx512 {
    type B = [__m256i; 2];
    type Short = [__m256i; 2];
    type Long = [__m256i; 2];

    #[inline(always)]
    fn short(self) -> Self::Short {
        Avx2(()).short()
    }

    #[inline(always)]
    fn long(self) -> Self::Long {
        Avx2(()).long()
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; BYTES]) -> Self::B {
        Avx2(()).bytes(from)
    }

    #[inline(always)]
    fn low(self, a: Self::B) -> Self::B {
        Avx2(()).low(a)
    }

    #[inline(always)]
    fn high(self, a: Self::B) -> Self::B {
        Avx2(()).high(a)
    }

    #[inline(always)]
    fn with_fifth(self, a: Self::B, plane: Self::B, quad: usize) -> Self::B {
        Avx2(()).with_fifth(a, plane, quad)
    }

    #[inline(always)]
    fn with_sixth(self, a: Self::B, plane: Self::B, pair: usize) -> Self::B {
        Avx2(()).with_sixth(a, plane, pair)
    }

    #[inline(always)]
    fn dot(self, sum: Self::Short, weights: Self::B, x: [i8; 4]) -> Self::Short {
        Avx2(()).dot(sum, weights, x)
    }

    #[inline(always)]
    fn widen(self, total: Self::Long, sum: Self::Short) -> Self::Long {
        Avx2(()).widen(total, sum)
    }

    #[inline(always)]
    fn dot_signed(self, total: Self::Long, weights: Self::B, x: [i8; 4]) -> Self::Long {
        Avx2(()).dot_signed(total, weights, x)
    }
}

/// Bits of `plane` from bit `from` on moved to bit 4, those of `mask`, and put to `a`.
#[inline]
#[target_feature(enable = "avx2")]
fn with_plane(a: [__m256i; 2], plane: [__m256i; 2], from: usize, mask: i8) -> [__m256i; 2] {
    let mask = _mm256_set1_epi8(mask);
    let moved = |plane: __m256i| match from {
        0 => _mm256_slli_epi16::<4>(plane),
        1 => _mm256_slli_epi16::<3>(plane),
        2 => _mm256_slli_epi16::<2>(plane),
        3 => _mm256_slli_epi16::<1>(plane),
        4 => plane,
        5 => _mm256_srli_epi16::<1>(plane),
        6 => _mm256_srli_epi16::<2>(plane),
        _ => _mm256_srli_epi16::<3>(plane),
    };
    let with = |a, plane| _mm256_or_si256(a, _mm256_and_si256(moved(plane), mask));
    [with(a[0], plane[0]), with(a[1], plane[1])]
}
