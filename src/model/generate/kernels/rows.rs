//! The operations of a decoder on one row: normalise, rotate, gate, exponentiate.

use super::simd::{Kernel, LANES, Simd};

/// `out = x / √(mean(x²) + eps) × weight`
#[derive(Debug)]
pub struct RmsNorm<'a> {
    /// The row.
    pub x: &'a [f32],
    /// As long as the row.
    pub weight: &'a [f32],
    /// As long as the row.
    pub out: &'a mut [f32],
    /// Added to the mean square.
    pub eps: f32,
}

#[inline(always)]
fn inverse_rms<S: Simd>(simd: S, x: &[f32], eps: f32) -> f32 {
    let mut squares = simd.splat(0.0);
    for part in x.chunks(LANES) {
        let part = simd.load_part(part);
        squares = simd.fma(part, part, squares);
    }
    1.0 / (simd.sum(squares) / x.len() as f32 + eps).sqrt()
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let scale = simd.splat(inverse_rms(simd, self.x, self.eps));
        let parts = self.x.chunks(LANES).zip(self.weight.chunks(LANES));
        for ((x, weight), out) in parts.zip(self.out.chunks_mut(LANES)) {
            let scaled = simd.mul(simd.load_part(x), scale);
            simd.store_part(simd.mul(scaled, simd.load_part(weight)), out);
        }
    }
}

/// RMS norm, where there is one, and rotation, half-split, of consecutive heads in place.
#[derive(Debug)]
pub struct NormRotate<'a> {
    /// `(heads, head_dim)`
    pub heads: &'a mut [f32],
    /// `(head_dim)`, and what is added to the mean square.
    pub norm: Option<(&'a [f32], f32)>,
    /// Cosines, then sines, of the position's angles: `(2, head_dim / 2)`.
    pub angles: &'a [f32],
    /// Multiplies the result.
    pub scale: f32,
}

impl Kernel for NormRotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let half = self.angles.len() / 2;
        let (cosines, sines) = self.angles.split_at(half);
        for head in self.heads.chunks_exact_mut(2 * half) {
            let scale = match self.norm {
                Some((_, eps)) => inverse_rms(simd, head, eps) * self.scale,
                None => self.scale,
            };
            let scale = simd.splat(scale);
            let (low, high) = head.split_at_mut(half);
            for start in (0..half).step_by(LANES) {
                let part = start..half.min(start + LANES);
                let mut a = simd.mul(simd.load_part(&low[part.clone()]), scale);
                let mut b = simd.mul(simd.load_part(&high[part.clone()]), scale);
                if let Some((weight, _)) = self.norm {
                    let (low_weight, high_weight) = weight.split_at(half);
                    a = simd.mul(a, simd.load_part(&low_weight[part.clone()]));
                    b = simd.mul(b, simd.load_part(&high_weight[part.clone()]));
                }
                let cosine = simd.load_part(&cosines[part.clone()]);
                let sine = simd.load_part(&sines[part.clone()]);
                let minus_sine = simd.mul(sine, simd.splat(-1.0));
                let rotated = simd.fma(a, cosine, simd.mul(b, minus_sine));
                simd.store_part(rotated, &mut low[part.clone()]);
                let rotated = simd.fma(b, cosine, simd.mul(a, sine));
                simd.store_part(rotated, &mut high[part]);
            }
        }
    }
}

/// `out = f(gate) × up` with the activation `f(x) = x·σ(a·x + b·x³)`.
#[derive(Debug)]
pub struct Gated<'a> {
    /// The row's gate.
    pub gate: &'a [f32],
    /// As long as the gate.
    pub up: &'a [f32],
    /// As long as the gate.
    pub out: &'a mut [f32],
    /// `a` and `b`.
    pub polynomial: (f32, f32),
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let one = simd.splat(1.0);
        let (a, b) = (simd.splat(-self.polynomial.0), simd.splat(-self.polynomial.1));
        let parts = self.gate.chunks(LANES).zip(self.up.chunks(LANES));
        for ((gate, up), out) in parts.zip(self.out.chunks_mut(LANES)) {
            let (gate, up) = (simd.load_part(gate), simd.load_part(up));
            let argument = simd.mul(gate, simd.fma(b, simd.mul(gate, gate), a));
            let active = simd.div(gate, simd.add(one, simd.exp(argument)));
            simd.store_part(simd.mul(active, up), out);
        }
    }
}

/// Replaces each value by `exp((value − shift) × scale)`; returns their sum.
#[derive(Debug)]
pub struct Exponentials<'a> {
    /// The values.
    pub values: &'a mut [f32],
    /// Subtracted from each.
    pub shift: f32,
    /// Multiplies the difference.
    pub scale: f32,
}

impl Kernel for Exponentials<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let (minus_shift, scale) = (simd.splat(-self.shift), simd.splat(self.scale));
        let mut total = simd.splat(0.0);
        let (full, rest) = self.values.as_chunks_mut::<LANES>();
        for values in full {
            let exponent = simd.mul(simd.add(simd.load(values), minus_shift), scale);
            let exponential = simd.exp(exponent);
            total = simd.add(total, exponential);
            simd.store(exponential, values);
        }
        let mut sum = simd.sum(total);
        if !rest.is_empty() {
            let exponent = simd.mul(simd.add(simd.load_part(rest), minus_shift), scale);
            simd.store_part(simd.exp(exponent), rest);
            sum += rest.iter().sum::<f32>();
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::super::Isa;
    use super::*;

    #[test]
    fn exponentials_are_right_over_the_whole_range() {
        for isa in Isa::available() {
            let exponents: Vec<f32> = (-8_700..=8_800).map(|i| i as f32 * 0.01).collect();
            let mut values = exponents.clone();
            isa.run(Exponentials { values: &mut values, shift: 0.0, scale: 1.0 });
            for (value, exponent) in values.iter().zip(&exponents) {
                let expected = f64::from(*exponent).exp();
                let error = (f64::from(*value) - expected).abs() / expected;
                assert!(error < 3e-7, "{isa:?}: e^{exponent} is not {value}");
            }
        }
    }

    #[test]
    fn exponentials_at_the_edges() {
        for isa in Isa::available() {
            for len in [1, 16, 21] {
                let mut values = vec![f32::NEG_INFINITY; len];
                values[len - 1] = 2.0;
                let sum = isa.run(Exponentials { values: &mut values, shift: 2.0, scale: 3.0 });
                assert_eq!(sum, 1.0, "{isa:?}");
                assert!(values[..len - 1].iter().all(|&value| value == 0.0));
                values[0] = f32::NAN;
                let sum = isa.run(Exponentials { values: &mut values, shift: 0.0, scale: 1.0 });
                assert!(sum.is_nan(), "{isa:?}");
            }
        }
    }

    #[test]
    fn the_gate_saturates() {
        for isa in Isa::available() {
            let mut out = [0.0; 5];
            let gate = [-200.0, -1.0, 0.0, 1.0, 200.0];
            let polynomial = (1.0, 0.0);
            isa.run(Gated { gate: &gate, up: &[2.0; 5], out: &mut out, polynomial });
            let sigmoid = 1.0 / (1.0 + 1f32.exp());
            let expected = [0.0, -2.0 * sigmoid, 0.0, 2.0 * (1.0 - sigmoid), 400.0];
            for (got, expected) in out.iter().zip(expected) {
                assert!((got - expected).abs() < 1e-6, "{isa:?}: {got} is not {expected}");
            }
        }
    }
}
