//! Sixteen lanes in plain Rust, for CPUs without a specialised set.

use half::f16;

use super::bytes::{BYTES, Bytes};
use super::simd::{LANES, Simd};

/// Whether multiply-adds are fused. Without hardware support, that is a slow call.
pub const IS_FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

/// Plain Rust.
#[derive(Debug, Clone, Copy)]
pub struct Portable;

impl Simd for Portable {
    type V = [f32; LANES];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Self::V {
        *from
    }

    #[inline(always)]
    fn store(self, v: Self::V, to: &mut [f32; LANES]) {
        *to = v;
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        if IS_FUSED {
            std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
        } else {
            std::array::from_fn(|i| a[i] * b[i] + c[i])
        }
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        a.map(f32::round_ties_even)
    }

    #[inline(always)]
    fn pow2(self, n: Self::V) -> Self::V {
        n.map(|n| f32::from_bits(((n as i32 + 127) << 23) as u32))
    }

    #[inline(always)]
    fn floats(self, from: Self::Long) -> Self::V {
        from.map(|n| n as f32)
    }

    #[inline(always)]
    fn halves(self, from: &[u8; 2 * LANES]) -> Self::V {
        std::array::from_fn(|i| f16::from_le_bytes([from[2 * i], from[2 * i + 1]]).to_f32())
    }

    #[inline(always)]
    fn small(self, from: &[u8; LANES]) -> Self::V {
        from.map(|byte| f32::from(byte as i8))
    }
}

impl Bytes for Portable {
    const TILE: usize = 4;

    type B = [u8; BYTES];
    type Short = [i32; LANES];
    type Long = [i32; LANES];

    #[inline(always)]
    fn short(self) -> Self::Short {
        [0; LANES]
    }

    #[inline(always)]
    fn long(self) -> Self::Long {
        [0; LANES]
    }

    #[inline(always)]
    fn bytes(self, from: &[u8; BYTES]) -> Self::B {
        *from
    }

    #[inline(always)]
    fn low(self, a: Self::B) -> Self::B {
        a.map(|byte| byte & 15)
    }

    #[inline(always)]
    fn high(self, a: Self::B) -> Self::B {
        a.map(|byte| byte >> 4)
    }

    #[inline(always)]
    fn with_fifth(self, a: Self::B, plane: Self::B, quad: usize) -> Self::B {
        std::array::from_fn(|i| a[i] | (plane[i] >> quad & 1) << 4)
    }

    #[inline(always)]
    fn with_sixth(self, a: Self::B, plane: Self::B, pair: usize) -> Self::B {
        std::array::from_fn(|i| a[i] | (plane[i] >> (2 * pair) & 3) << 4)
    }

    #[inline(always)]
    fn dot(self, sum: Self::Short, weights: Self::B, x: [i8; 4]) -> Self::Short {
        let (lanes, _) = weights.as_chunks::<4>();
        std::array::from_fn(|lane| {
            let products = lanes[lane].iter().zip(x).map(|(&w, x)| i32::from(w) * i32::from(x));
            sum[lane] + products.sum::<i32>()
        })
    }

    #[inline(always)]
    fn widen(self, total: Self::Long, sum: Self::Short) -> Self::Long {
        std::array::from_fn(|lane| total[lane] + sum[lane])
    }

    #[inline(always)]
    fn dot_signed(self, total: Self::Long, weights: Self::B, x: [i8; 4]) -> Self::Long {
        let (lanes, _) = weights.as_chunks::<4>();
        std::array::from_fn(|lane| {
            let products =
                lanes[lane].iter().zip(x).map(|(&w, x)| i32::from(w as i8) * i32::from(x));
            total[lane] + products.sum::<i32>()
        })
    }
}
