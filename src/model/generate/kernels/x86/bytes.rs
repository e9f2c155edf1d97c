//! Products of small whole numbers on x86-64.

use std::arch::x86_64::*;

use super::{Avx2, Avx512};
use crate::model::generate::kernels::bytes::{BYTES, Bytes};

impl Bytes for Avx2 {
    const TILE: usize = 4;

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
        // SAFETY: `self` proves the instructions; each half is 32 bytes, and the loads need not be
        // aligned.
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

/// AVX-512 VNNI: sixteen sums of four products in one instruction.
#[derive(Debug, Clone, Copy)]
pub struct Vnni(());

impl Vnni {
    /// A proof that the CPU has it.
    pub fn detect() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni");
        has_all.then_some(Self(()))
    }
}

impl Bytes for Vnni {
    const TILE: usize = 8;

    type B = __m512i;
    // Products are added to 32 bits at once.
    type Short = __m512i;
    type Long = __m512i;

    #[inline(always)]
    fn short(self) -> Self::Short {
        self.long()
    }

    #[inline(always)]
    fn long(self) -> Self::Long {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; BYTES]) -> Self::B {
        // SAFETY: `self` proves the instructions; the reference covers what is read.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn low(self, a: Self::B) -> Self::B {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { _mm512_and_si512(a, _mm512_set1_epi8(15)) }
    }

    #[inline(always)]
    fn high(self, a: Self::B) -> Self::B {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { self.low(_mm512_srli_epi16::<4>(a)) }
    }

    #[inline(always)]
    fn with_fifth(self, a: Self::B, plane: Self::B, quad: usize) -> Self::B {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { with_wide_plane(a, plane, quad, 16) }
    }

    #[inline(always)]
    fn with_sixth(self, a: Self::B, plane: Self::B, pair: usize) -> Self::B {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { with_wide_plane(a, plane, 2 * pair, 48) }
    }

    #[inline(always)]
    fn dot(self, sum: Self::Short, weights: Self::B, x: [i8; 4]) -> Self::Short {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { _mm512_dpbusd_epi32(sum, weights, quad_in_each_lane(x)) }
    }

    #[inline(always)]
    fn widen(self, total: Self::Long, sum: Self::Short) -> Self::Long {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { _mm512_add_epi32(total, sum) }
    }

    #[inline(always)]
    fn dot_signed(self, total: Self::Long, weights: Self::B, x: [i8; 4]) -> Self::Long {
        // The weights with 128 added are unsigned; what that adds is taken away.
        let added: i32 = x.iter().map(|&x| 128 * i32::from(x)).sum();
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            let unsigned = _mm512_xor_si512(weights, _mm512_set1_epi8(-128));
            let total = _mm512_dpbusd_epi32(total, unsigned, quad_in_each_lane(x));
            _mm512_sub_epi32(total, _mm512_set1_epi32(added))
        }
    }
}

/// Byte arithmetic whose results AVX-512 takes.
pub trait Wide: Bytes {
    /// The sums in one register.
    fn wide(self, sums: Self::Long) -> __m512i;
}

impl Wide for Avx2 {
    #[inline(always)]
    fn wide(self, sums: Self::Long) -> __m512i {
        // SAFETY: only `Avx512` calls it, which proves AVX-512.
        unsafe { _mm512_inserti64x4::<1>(_mm512_castsi256_si512(sums[0]), sums[1]) }
    }
}

impl Wide for Vnni {
    #[inline(always)]
    fn wide(self, sums: Self::Long) -> __m512i {
        sums
    }
}

impl<B: Wide> Bytes for Avx512<B> {
    const TILE: usize = B::TILE;

    type B = B::B;
    type Short = B::Short;
    type Long = B::Long;

    #[inline(always)]
    fn short(self) -> Self::Short {
        self.0.short()
    }

    #[inline(always)]
    fn long(self) -> Self::Long {
        self.0.long()
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; BYTES]) -> Self::B {
        self.0.bytes(from)
    }

    #[inline(always)]
    fn low(self, a: Self::B) -> Self::B {
        self.0.low(a)
    }

    #[inline(always)]
    fn high(self, a: Self::B) -> Self::B {
        self.0.high(a)
    }

    #[inline(always)]
    fn with_fifth(self, a: Self::B, plane: Self::B, quad: usize) -> Self::B {
        self.0.with_fifth(a, plane, quad)
    }

    #[inline(always)]
    fn with_sixth(self, a: Self::B, plane: Self::B, pair: usize) -> Self::B {
        self.0.with_sixth(a, plane, pair)
    }

    #[inline(always)]
    fn dot(self, sum: Self::Short, weights: Self::B, x: [i8; 4]) -> Self::Short {
        self.0.dot(sum, weights, x)
    }

    #[inline(always)]
    fn widen(self, total: Self::Long, sum: Self::Short) -> Self::Long {
        self.0.widen(total, sum)
    }

    #[inline(always)]
    fn dot_signed(self, total: Self::Long, weights: Self::B, x: [i8; 4]) -> Self::Long {
        self.0.dot_signed(total, weights, x)
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

/// As [`with_plane`], in one register.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn with_wide_plane(a: __m512i, plane: __m512i, from: usize, mask: i8) -> __m512i {
    let moved = match from {
        0 => _mm512_slli_epi16::<4>(plane),
        1 => _mm512_slli_epi16::<3>(plane),
        2 => _mm512_slli_epi16::<2>(plane),
        3 => _mm512_slli_epi16::<1>(plane),
        4 => plane,
        5 => _mm512_srli_epi16::<1>(plane),
        6 => _mm512_srli_epi16::<2>(plane),
        _ => _mm512_srli_epi16::<3>(plane),
    };
    _mm512_or_si512(a, _mm512_and_si512(moved, _mm512_set1_epi8(mask)))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn quad_in_each_lane(x: [i8; 4]) -> __m512i {
    _mm512_set1_epi32(i32::from_le_bytes(x.map(|x| x as u8)))
}
