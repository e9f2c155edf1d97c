//! Products of small whole numbers on aarch64.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Neon, each};
use crate::model::generate::kernels::bytes::{BYTES, Bytes};

impl<const DOTPROD: bool> Bytes for Neon<DOTPROD> {
    const TILE: usize = 4;

    type B = [uint8x16_t; 4];
    // Products are added to 32 bits at once.
    type Short = [int32x4_t; 4];
    type Long = [int32x4_t; 4];

    #[inline(always)]
    fn short(self) -> Self::Short {
        self.long()
    }

    #[inline(always)]
    fn long(self) -> Self::Long {
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe { [vdupq_n_s32(0); 4] }
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; BYTES]) -> Self::B {
        let from = from.as_ptr();
        // SAFETY: `self` proves the instructions; the reference covers what is read.
        unsafe {
            [vld1q_u8(from), vld1q_u8(from.add(16)), vld1q_u8(from.add(32)), vld1q_u8(from.add(48))]
        }
    }

    #[inline(always)]
    fn low(self, a: Self::B) -> Self::B {
        // SAFETY: `self` proves that the CPU has the instructions.
        let mask = unsafe { [vdupq_n_u8(15); 4] };
        each!(vandq_u8: a, mask)
    }

    #[inline(always)]
    fn high(self, a: Self::B) -> Self::B {
        each!(vshrq_n_u8::<4>: a)
    }

    #[inline(always)]
    fn with_fifth(self, a: Self::B, plane: Self::B, quad: usize) -> Self::B {
        self.with_plane(a, plane, quad, 16)
    }

    #[inline(always)]
    fn with_sixth(self, a: Self::B, plane: Self::B, pair: usize) -> Self::B {
        self.with_plane(a, plane, 2 * pair, 48)
    }

    #[inline(always)]
    fn dot(self, sum: Self::Short, weights: Self::B, x: [i8; 4]) -> Self::Short {
        // Weights have at most six bits: read as signed, they are the same numbers.
        self.dot_signed(sum, weights, x)
    }

    #[inline(always)]
    fn widen(self, total: Self::Long, sum: Self::Short) -> Self::Long {
        each!(vaddq_s32: total, sum)
    }

    #[inline(always)]
    fn dot_signed(self, total: Self::Long, weights: Self::B, x: [i8; 4]) -> Self::Long {
        // SAFETY: `self` proves that the CPU has the instructions.
        let x = unsafe { [vdupq_n_s32(i32::from_le_bytes(x.map(|x| x as u8))); 4] };
        if DOTPROD { each!(dot: total, weights, x) } else { each!(dot_in_steps: total, weights, x) }
    }
}

impl<const DOTPROD: bool> Neon<DOTPROD> {
    /// Bits of `plane` from bit `from` on moved to bit 4, those of `mask`, and put to `a`.
    #[inline(always)]
    fn with_plane(
        self,
        a: [uint8x16_t; 4],
        plane: [uint8x16_t; 4],
        from: usize,
        mask: u8,
    ) -> [uint8x16_t; 4] {
        // SAFETY: `self` proves that the CPU has the instructions.
        let (shift, mask) = unsafe { ([vdupq_n_s8(4 - from as i8); 4], [vdupq_n_u8(mask); 4]) };
        // A negative shift is one to the right.
        let moved = each!(vshlq_u8: plane, shift);
        let bits = each!(vandq_u8: moved, mask);
        each!(vorrq_u8: a, bits)
    }
}

/// Adds to each lane the four products of its bytes, which are signed.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(mut sum: int32x4_t, weights: uint8x16_t, x: int32x4_t) -> int32x4_t {
    // The intrinsic is unstable.
    // SAFETY: the function's features include the instruction, which touches registers alone.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {weights:v}.16b, {x:v}.16b",
            sum = inlateout(vreg) sum,
            weights = in(vreg) weights,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// As [`dot`], without its instruction. Two products fit sixteen bits, since no input is −128.
#[inline]
#[target_feature(enable = "neon")]
fn dot_in_steps(sum: int32x4_t, weights: uint8x16_t, x: int32x4_t) -> int32x4_t {
    let (weights, x) = (vreinterpretq_s8_u8(weights), vreinterpretq_s8_s32(x));
    let low = vmull_s8(vget_low_s8(weights), vget_low_s8(x));
    let high = vmull_high_s8(weights, x);
    vpadalq_s16(sum, vpaddq_s16(low, high))
}
