//! Sixteen lanes on aarch64: four NEON registers.

mod bytes;

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::simd::{LANES, Simd};

/// NEON. `DOTPROD` says whether the CPU also sums four products of bytes in one instruction.
#[derive(Debug, Clone, Copy)]
pub struct Neon<const DOTPROD: bool>(());

impl<const DOTPROD: bool> Neon<DOTPROD> {
    /// A proof that the CPU has it.
    pub fn detect() -> Option<Self> {
        let has_all = is_aarch64_feature_detected!("neon")
            && (!DOTPROD || is_aarch64_feature_detected!("dotprod"));
        has_all.then_some(Self(()))
    }
}

/// Calls an intrinsic for each of the four registers. Only for methods of [`Neon`].
macro_rules! each {
    ($intrinsic:path: $($v:expr),+) => {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            [
                $intrinsic($($v[0]),+),
                $intrinsic($($v[1]),+),
                $intrinsic($($v[2]),+),
                $intrinsic($($v[3]),+),
            ]
        }
    };
}
use each;

impl<const DOTPROD: bool> Simd for Neon<DOTPROD> {
    type V = [float32x4_t; 4];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { [vdupq_n_f32(x); 4] }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        // SAFETY: `self` proves the instructions; the reference covers what is read.
        unsafe {
            let from = from.as_ptr();
            [
                vld1q_f32(from),
                vld1q_f32(from.add(4)),
                vld1q_f32(from.add(8)),
                vld1q_f32(from.add(12)),
            ]
        }
    }

    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32; LANES]) {
        let to = to.as_mut_ptr();
        // SAFETY: `self` proves the instructions; the reference covers what is written.
        unsafe {
            vst1q_f32(to, v[0]);
            vst1q_f32(to.add(4), v[1]);
            vst1q_f32(to.add(8), v[2]);
            vst1q_f32(to.add(12), v[3]);
        }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        each!(vaddq_f32: a, b)
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        each!(vmulq_f32: a, b)
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        each!(vdivq_f32: a, b)
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        each!(vfmaq_f32: c, a, b)
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        // NEON's own maximum and minimum do not return `b` where one is not a number.
        let is_larger = each!(vcgtq_f32: a, b);
        each!(vbslq_f32: is_larger, a, b)
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        let is_smaller = each!(vcltq_f32: a, b);
        each!(vbslq_f32: is_smaller, a, b)
    }

    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        each!(vrndnq_f32: a)
    }

    #[inline(always)]
    fn pow2(self, n: Self::V) -> Self::V {
        each!(four_powers: n)
    }

    #[inline(always)]
    fn floats(self, from: Self::Long) -> Self::V {
        each!(vcvtq_f32_s32: from)
    }

    #[inline(always)]
    fn halves(self, from: &[u8; 2 * LANES]) -> Self::V {
        let (quads, _) = from.as_chunks::<8>();
        each!(four_halves: quads)
    }

    #[inline(always)]
    fn small(self, from: &[u8; LANES]) -> Self::V {
        // SAFETY: `self` proves the instructions; the reference covers what is read.
        let numbers = unsafe {
            let bytes = vld1q_s8(from.as_ptr().cast());
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            [
                vmovl_s16(vget_low_s16(low)),
                vmovl_high_s16(low),
                vmovl_s16(vget_low_s16(high)),
                vmovl_high_s16(high),
            ]
        };
        self.floats(numbers)
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn four_powers(n: float32x4_t) -> float32x4_t {
    let biased = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased))
}

/// Four half-precision floats.
#[inline]
#[target_feature(enable = "neon")]
fn four_halves(from: [u8; 8]) -> float32x4_t {
    let floats: float32x4_t;
    let halves = vcreate_u16(u64::from_le_bytes(from));
    // The intrinsic needs a type that is unstable in the oldest supported version of Rust.
    // SAFETY: the function's features include the instruction, which touches registers alone.
    unsafe {
        asm!(
            "fcvtl {floats:v}.4s, {halves:v}.4h",
            floats = lateout(vreg) floats,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    floats
}
