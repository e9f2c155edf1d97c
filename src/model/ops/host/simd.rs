//! Compiles loops for several instruction sets, and has their shared arithmetic.
//!
//! The crate is built for the oldest CPU of its target. On x86-64 each loop is therefore also
//! compiled for AVX2 and AVX-512, and the widest that this CPU has is called. On aarch64 the target
//! itself has NEON, with fused multiply-add.
#![allow(clippy::needless_range_loop, reason = "loops over lanes index several arrays")]

/// Instruction sets that the loops are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// What the target guarantees.
    Base,
    /// 8 lanes, fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 16 lanes, fused multiply-add.
    Avx512,
}

/// The widest level of this CPU.
#[inline]
pub(crate) fn level() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
        {
            return Level::Avx512;
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return Level::Avx2;
        }
    }
    Level::Base
}

/// Defines a function whose body is compiled for each [`Level`]. Inside, `FMA` says whether fused
/// multiply-add is one instruction.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "slices and numbers of one inner loop")]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, clippy::needless_range_loop)]
            fn body<const FMA: bool>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body::<true>($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    body::<true>($($arg),*)
                }
                match $crate::model::ops::host::simd::level() {
                    // SAFETY: `level` found these instructions on this CPU.
                    $crate::model::ops::host::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: `level` found these instructions on this CPU.
                    $crate::model::ops::host::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::model::ops::host::simd::Level::Base => {}
                }
            }
            body::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    };
}
pub(crate) use multiversion;

/// `a·b + c`, rounded once where that is one instruction.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Separate partial sums, so that a sum can use every lane.
const LANES: usize = 32;

/// The sum of the lanes, halving.
#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `Σ values`.
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] += block[lane];
        }
    }
    rest.iter().sum::<f32>() + fold(lanes)
}

/// `Σ a·b`. The slices have one length.
#[inline(always)]
pub(crate) fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (blocks_a, rest_a) = a.as_chunks::<LANES>();
    let (blocks_b, rest_b) = b.as_chunks::<LANES>();
    for (block_a, block_b) in blocks_a.iter().zip(blocks_b) {
        for lane in 0..LANES {
            lanes[lane] = fma::<FMA>(block_a[lane], block_b[lane], lanes[lane]);
        }
    }
    let mut total = 0.0;
    for (x, y) in rest_a.iter().zip(rest_b) {
        total = fma::<FMA>(*x, *y, total);
    }
    total + fold(lanes)
}

/// `Σ a·b·c`. The slices have one length.
#[inline(always)]
pub(crate) fn dot3<const FMA: bool>(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (blocks_a, rest_a) = a.as_chunks::<LANES>();
    let (blocks_b, rest_b) = b.as_chunks::<LANES>();
    let (blocks_c, rest_c) = c.as_chunks::<LANES>();
    for ((block_a, block_b), block_c) in blocks_a.iter().zip(blocks_b).zip(blocks_c) {
        for lane in 0..LANES {
            lanes[lane] = fma::<FMA>(block_a[lane] * block_b[lane], block_c[lane], lanes[lane]);
        }
    }
    let mut total = 0.0;
    for ((x, y), z) in rest_a.iter().zip(rest_b).zip(rest_c) {
        total = fma::<FMA>(x * y, *z, total);
    }
    total + fold(lanes)
}

/// The largest value; −∞ for none.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] = if block[lane] > lanes[lane] { block[lane] } else { lanes[lane] };
        }
    }
    let mut best = f32::NEG_INFINITY;
    for &value in lanes.iter().chain(rest) {
        best = if value > best { value } else { best };
    }
    best
}

/// eˣ to about one unit in the last place; 0 below −87.3, capped above 88.7. NaN stays NaN.
///
/// x = n·ln 2 + r with |r| ≤ ½·ln 2; eʳ by the Taylor-like polynomial of Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // Adding and taking away 1.5·2²³ rounds to the nearest integer, in every instruction set.
    const MAGIC: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > 88.722_83 { 88.722_83 } else { x };
    let clamped = if clamped < -87.336_54 { -87.336_54 } else { clamped };
    let shifted = fma::<FMA>(clamped, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = fma::<FMA>(n, -LN2_HIGH, clamped);
    let r = fma::<FMA>(n, -LN2_LOW, r);
    let mut p = 1.987_569_1e-4;
    p = fma::<FMA>(p, r, 1.398_199_9e-3);
    p = fma::<FMA>(p, r, 8.333_452e-3);
    p = fma::<FMA>(p, r, 4.166_579_6e-2);
    p = fma::<FMA>(p, r, 1.666_666_5e-1);
    p = fma::<FMA>(p, r, 0.5);
    let e = fma::<FMA>(p, r * r, r) + 1.0;
    // 2ⁿ in two factors: n may be 128, which one exponent cannot hold.
    let n = shifted.to_bits().wrapping_sub(MAGIC.to_bits()) as i32;
    let half = n >> 1;
    let low = f32::from_bits(((half + 127) as u32) << 23);
    let high = f32::from_bits(((n - half + 127) as u32) << 23);
    let value = e * low * high;
    if x < -87.336_54 { 0.0 } else { value }
}

multiversion! {
    /// `values[i] += other[i]`.
    pub(crate) fn add(values: &mut [f32], other: &[f32]) {
        for (value, other) in values.iter_mut().zip(other) {
            *value += other;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    multiversion! {
        fn exp_all(values: &mut [f32]) {
            for value in values {
                *value = exp::<FMA>(*value);
            }
        }
    }

    #[test]
    fn exp_agrees_with_the_standard_library() {
        let inputs: Vec<f32> =
            (0..200_000).map(|i| -87.3 + i as f32 * (175.9 / 200_000.0)).collect();
        let mut wide = inputs.clone();
        exp_all(&mut wide);
        for (x, wide) in inputs.into_iter().zip(wide) {
            let exact = f64::from(x).exp();
            for value in [wide, exp::<false>(x)] {
                let error = (f64::from(value) - exact).abs() / exact;
                assert!(error < 2.0 * f64::from(f32::EPSILON), "exp({x}) = {value}, not {exact}");
            }
        }
    }

    #[test]
    fn exp_at_the_ends() {
        assert_eq!(exp::<false>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<false>(-100.0), 0.0);
        assert_eq!(exp::<false>(0.0), 1.0);
        assert!(exp::<false>(1000.0).is_finite() && exp::<false>(1000.0) > 3e38);
        assert!(exp::<false>(f32::NAN).is_nan());
    }

    #[test]
    fn sums_of_every_length() {
        for n in 0..100 {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let expected = (0..n).map(|i| (i * i) as f32).sum::<f32>();
            assert_eq!(dot::<false>(&a, &a), expected);
            let ones = vec![1.0; n];
            assert_eq!(dot3::<false>(&a, &ones, &a), expected);
            assert_eq!(sum(&a), (0..n).map(|i| i as f32).sum::<f32>());
            assert_eq!(max(&a), if n == 0 { f32::NEG_INFINITY } else { (n - 1) as f32 });
        }
    }
}
