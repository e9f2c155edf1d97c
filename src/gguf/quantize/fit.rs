//! The scale and the minimum of a group of values with the least squared error.
//!
//! Which whole numbers are best depends on the scale, and the best scale on the numbers. So several
//! scales are tried; each gives numbers, and these give the scale that is best for them.

use std::array::from_fn;

/// Added and subtracted, this rounds small numbers to whole ones. Unlike `round`, every CPU does
/// that for many numbers at once.
const ROUNDING: f32 = 12_582_912.0;

/// The share of the values' range that a starting scale clips on one side. A negative share extends
/// the range beyond the values instead.
const BEYOND: [f32; 5] = [-0.02, 0.01, 0.04, 0.08, 0.12];

/// How far from 0 a start places the value that is furthest from it, by the distance of the least
/// number.
const STEPS: [f32; 8] = [0.94, 0.97, 1.0, 1.03, 1.06, 1.1, 1.15, 1.2];

/// The least and the largest whole number.
pub type Span = (f32, f32);

/// Value `i` is `scale × numbers[i] − minimum`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fit {
    pub scale: f32,
    pub minimum: f32,
}

impl Fit {
    /// The best with a minimum of at least 0 and numbers from 0 to `top`.
    pub fn affine<const N: usize>(values: &[f32; N], top: f32) -> Self {
        let low = values.iter().fold(0.0, |low: f32, x| low.min(*x));
        let high = values.iter().fold(low, |high, x| high.max(*x));
        let range = high - low;
        let start = |below: f32, above: f32| Self {
            scale: range * (1.0 - below - above) / top,
            minimum: (0.0 - low - range * below).max(0.0),
        };
        let starts = BEYOND.into_iter().flat_map(|a| BEYOND.map(|b| start(a, b)));
        start(0.0, 0.0).improved(values, (0.0, top), starts, Self::with_minimum)
    }

    /// The best without a minimum. Its scale may be negative.
    pub fn symmetric<const N: usize>(values: &[f32; N], span: Span) -> Self {
        let largest = furthest(values.iter().copied());
        let start = |end: f32| Self { scale: largest / end, minimum: 0.0 };
        let starts = STEPS.into_iter().flat_map(|by| [by, -by]).map(|by| start(span.0 * by));
        start(span.0).improved(values, span, starts, Self::without_minimum)
    }

    /// The best of this one and of what `least_squares` makes of the numbers of the others.
    fn improved<const N: usize>(
        self,
        values: &[f32; N],
        span: Span,
        starts: impl Iterator<Item = Self>,
        least_squares: impl Fn(&[f32; N], &[f32; N]) -> Option<Self>,
    ) -> Self {
        let error = |fit: Self| fit.error(values, &fit.numbers(values, span));
        let fits = starts.filter_map(|start| least_squares(values, &start.numbers(values, span)));
        let mut best = (error(self), self);
        for fit in fits {
            let error = error(fit);
            if error < best.0 {
                best = (error, fit);
            }
        }
        best.1
    }

    /// The best for these numbers with a minimum of at least 0. `None` if all numbers are equal.
    fn with_minimum<const N: usize>(values: &[f32; N], numbers: &[f32; N]) -> Option<Self> {
        let (count, n, x) = (N as f32, sum::<N>(|i| numbers[i]), sum::<N>(|i| values[i]));
        let nn = sum::<N>(|i| numbers[i] * numbers[i]);
        let nx = sum::<N>(|i| numbers[i] * values[i]);
        let determinant = count * nn - n * n;
        let minimum = (n * nx - nn * x) / determinant;
        let fit = match minimum >= 0.0 {
            true => Self { scale: (count * nx - n * x) / determinant, minimum },
            false => Self { scale: nx / nn, minimum: 0.0 },
        };
        (determinant > 0.0 && fit.scale > 0.0).then_some(fit)
    }

    /// The best for these numbers without a minimum. `None` if all numbers are 0.
    fn without_minimum<const N: usize>(values: &[f32; N], numbers: &[f32; N]) -> Option<Self> {
        let nn = sum::<N>(|i| numbers[i] * numbers[i]);
        let nx = sum::<N>(|i| numbers[i] * values[i]);
        (nn > 0.0).then_some(Self { scale: nx / nn, minimum: 0.0 })
    }

    /// The whole numbers that give the values with the least error.
    pub fn numbers<const N: usize>(self, values: &[f32; N], (low, high): Span) -> [f32; N] {
        // The inverse of a scale below the normal numbers could be infinite.
        let inverse = if self.scale.is_normal() { 1.0 / self.scale } else { 0.0 };
        let within = |x: f32| ((x + self.minimum) * inverse).max(low).min(high);
        values.map(|x| within(x) + ROUNDING - ROUNDING)
    }

    /// The squared error with these numbers.
    pub fn error<const N: usize>(self, values: &[f32; N], numbers: &[f32; N]) -> f32 {
        sum::<N>(|i| {
            let error = self.scale * numbers[i] - self.minimum - values[i];
            error * error
        })
    }
}

/// The value that is furthest from 0.
pub fn furthest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |most: f32, x| if x.abs() > most.abs() { x } else { most })
}

/// The sum of `N` terms, eight sums at once: a single one would be added up one by one.
fn sum<const N: usize>(term: impl Fn(usize) -> f32) -> f32 {
    let terms: [f32; N] = from_fn(term);
    let mut sums = [0.0; 8];
    for part in terms.as_chunks::<8>().0 {
        sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
    sums.iter().sum()
}
