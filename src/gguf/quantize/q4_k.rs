//! Q4_K: eight groups of 32 numbers of four bits. Their scales and minimums have six bits, and are
//! multiplied by a scale and a minimum of the block.

use std::array::from_fn;

use half::f16;

use super::fit::{Fit, Span};
use super::half_for;

const NUMBERS: Span = (0.0, 15.0);

/// The largest scale or minimum of a group.
const MAX_SCALE: f32 = 63.0;

type Values = [[f32; 32]; 8];

pub fn block(values: &[f32; 256]) -> [u8; 144] {
    let values: Values = from_fn(|i| from_fn(|j| values[32 * i + j]));
    let fits = values.each_ref().map(|values| Fit::affine(values, NUMBERS.1));
    let most = |of: fn(&Fit) -> f32| half_for(fits.iter().map(of).fold(0.0, f32::max), MAX_SCALE);
    let first = Block::new(&values, &fits, most(|fit| fit.scale), most(|fit| fit.minimum));
    let better = first.least_squares(&values);
    let better = better.map(|(scale, minimum)| Block::new(&values, &fits, scale, minimum));
    better.filter(|better| better.error < first.error).unwrap_or(first).bytes()
}

/// A group: its scale and minimum as multiples of the block's, and its numbers; all whole.
struct Group {
    multiples: Fit,
    numbers: [f32; 32],
    error: f32,
}

impl Group {
    /// The best with a scale and a minimum about those of `fit`. Where rounding changes the scale,
    /// another minimum than the nearest may be better.
    fn new(values: &[f32; 32], fit: Fit, block: Fit) -> Self {
        let about = |x: f32, unit: f32| {
            let nearest = if unit > 0.0 { (x / unit).round() } else { 0.0 };
            [0.0, -1.0, 1.0].map(|by| (nearest + by).clamp(0.0, MAX_SCALE))
        };
        let mut best = Self::with(values, Fit::default(), block);
        for scale in about(fit.scale, block.scale) {
            for minimum in about(fit.minimum, block.minimum) {
                let group = Self::with(values, Fit { scale, minimum }, block);
                if group.error < best.error {
                    best = group;
                }
            }
        }
        best
    }

    fn with(values: &[f32; 32], multiples: Fit, block: Fit) -> Self {
        let scale = block.scale * multiples.scale;
        let fit = Fit { scale, minimum: block.minimum * multiples.minimum };
        let numbers = fit.numbers(values, NUMBERS);
        Self { multiples, numbers, error: fit.error(values, &numbers) }
    }
}

struct Block {
    scale: f16,
    minimum: f16,
    groups: [Group; 8],
    error: f32,
}

impl Block {
    fn new(values: &Values, fits: &[Fit; 8], scale: f16, minimum: f16) -> Self {
        let block = Fit { scale: scale.to_f32(), minimum: minimum.to_f32() };
        let groups: [Group; 8] = from_fn(|i| Group::new(&values[i], fits[i], block));
        let error = groups.iter().map(|group| group.error).sum();
        Self { scale, minimum, groups, error }
    }

    /// The scale and the minimum that are best for the groups as they are, if there are such and
    /// halves hold them.
    fn least_squares(&self, values: &Values) -> Option<(f16, f16)> {
        // Value `x` is about `scale × s − minimum × m`. In f64, the differences below stay exact.
        let (mut ss, mut sm, mut mm, mut sx, mut mx) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (group, values) in self.groups.iter().zip(values) {
            let m = f64::from(group.multiples.minimum);
            for (number, x) in group.numbers.iter().zip(values) {
                let (s, x) = (f64::from(group.multiples.scale * number), f64::from(*x));
                ss += s * s;
                sm += s * m;
                mm += m * m;
                sx += s * x;
                mx += m * x;
            }
        }
        let determinant = ss * mm - sm * sm;
        let (scale, minimum) = match determinant > 0.0 {
            true => ((mm * sx - sm * mx) / determinant, (sm * sx - ss * mx) / determinant),
            false => (sx / ss, self.minimum.to_f64()),
        };
        let (scale, minimum) = (f16::from_f64(scale), f16::from_f64(minimum));
        let is_held = |x: f16| x.is_finite() && x >= f16::ZERO;
        (is_held(scale) && is_held(minimum)).then_some((scale, minimum))
    }

    fn bytes(&self) -> [u8; 144] {
        let mut bytes = [0; 144];
        bytes[..2].copy_from_slice(&self.scale.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.minimum.to_le_bytes());
        bytes[4..16].copy_from_slice(&self.multiples());
        let pairs = self.groups.as_chunks::<2>().0;
        for (bytes, [low, high]) in bytes[16..].chunks_exact_mut(32).zip(pairs) {
            for (i, byte) in bytes.iter_mut().enumerate() {
                *byte = low.numbers[i] as u8 | (high.numbers[i] as u8) << 4;
            }
        }
        bytes
    }

    /// The scales and minimums of the groups. Each of the first four groups' has a byte, with the
    /// upper two bits of another group's above it; the lower four bits of those share a byte.
    fn multiples(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        for i in 0..4 {
            let [first, last] = [i, i + 4].map(|group| self.groups[group].multiples);
            let (scale, minimum) = (last.scale as u8, last.minimum as u8);
            bytes[i] = first.scale as u8 | scale >> 4 << 6;
            bytes[i + 4] = first.minimum as u8 | minimum >> 4 << 6;
            bytes[i + 8] = scale & 15 | minimum << 4;
        }
        bytes
    }
}
