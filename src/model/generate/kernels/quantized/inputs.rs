//! Inputs rounded to eight bits.

use super::super::Isa;
use super::super::simd::{Kernel, LANES, Simd};
use super::layout::GROUP;

/// Rows of inputs: whole numbers in −127..=127, with a scale for each group of 32.
#[derive(Debug, Default)]
pub struct Inputs {
    pub(super) rows: usize,
    pub(super) depth: usize,
    /// `(rows, depth)`
    pub(super) numbers: Vec<i8>,
    /// `(rows, depth / 32)`
    pub(super) scales: Vec<f32>,
    /// The sums of the numbers, `(rows, depth / 32, 2)`: one for each half of a group.
    pub(super) sums: Vec<f32>,
}

impl Inputs {
    /// Rounds `rows` rows: the first `depth` values of every `stride`.
    pub fn round(&mut self, isa: Isa, x: &[f32], stride: usize, depth: usize, rows: usize) {
        let groups = rows * depth / GROUP;
        self.rows = rows;
        self.depth = depth;
        self.numbers.resize(rows * depth, 0);
        self.scales.resize(groups, 0.0);
        self.sums.resize(groups * 2, 0.0);
        for row in 0..rows {
            let groups = row * depth / GROUP..(row + 1) * depth / GROUP;
            isa.run(Round {
                x: &x[row * stride..][..depth],
                numbers: &mut self.numbers[row * depth..][..depth],
                scales: &mut self.scales[groups.clone()],
                sums: &mut self.sums[groups.start * 2..groups.end * 2],
            });
        }
    }
}

struct Round<'a> {
    x: &'a [f32],
    numbers: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Kernel for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // Added to a small number, it leaves the number rounded to even in the lowest bits.
        const ROUNDER: f32 = 12_582_912.0;
        let (x, _) = self.x.as_chunks::<LANES>();
        let (numbers, _) = self.numbers.as_chunks_mut::<LANES>();
        let (sums, _) = self.sums.as_chunks_mut::<2>();
        let groups = x.chunks_exact(2).zip(numbers.chunks_exact_mut(2));
        for ((x, numbers), (scale, sums)) in groups.zip(self.scales.iter_mut().zip(sums)) {
            let (a, b) = (simd.load(&x[0]), simd.load(&x[1]));
            let minus = simd.splat(-1.0);
            let a = simd.max(a, simd.mul(a, minus));
            let b = simd.max(b, simd.mul(b, minus));
            let largest = simd.largest(simd.max(a, b));
            // Rounded, what is not finite would become 0, which is plausible.
            let mut is_finite = true;
            for x in x.as_flattened() {
                is_finite &= x.is_finite();
            }
            *scale = if is_finite { largest / 127.0 } else { f32::NAN };
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            for ((x, numbers), sum) in x.iter().zip(numbers).zip(sums) {
                let mut total = 0;
                for (number, x) in numbers.iter_mut().zip(x) {
                    *number = (x * inverse + ROUNDER).to_bits() as i8;
                    total += i32::from(*number);
                }
                *sum = total as f32;
            }
        }
    }
}
