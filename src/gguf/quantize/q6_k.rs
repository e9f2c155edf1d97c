//! Q6_K: sixteen groups of 16 numbers of six bits. Their scales have eight bits, and are multiplied
//! by a scale of the block.

use std::array::from_fn;

use half::f16;

use super::fit::{Fit, Span, furthest};
use super::half_for;

const NUMBERS: Span = (-32.0, 31.0);

/// The scales of groups.
const SCALES: Span = (-128.0, 127.0);

type Values = [[f32; 16]; 16];

pub fn block(values: &[f32; 256]) -> [u8; 210] {
    let values: Values = from_fn(|i| from_fn(|j| values[16 * i + j]));
    let scales = values.each_ref().map(|values| Fit::symmetric(values, NUMBERS).scale);
    // There is one more multiple below 0 than above: the scale that is furthest from 0 has it.
    let scale = half_for(furthest(scales.into_iter()), SCALES.0);
    let first = Block::new(&values, &scales, scale);
    let better = first.least_squares(&values).map(|scale| Block::new(&values, &scales, scale));
    better.filter(|better| better.error < first.error).unwrap_or(first).bytes()
}

/// A group: its scale as a multiple of the block's, and its numbers; all whole.
struct Group {
    multiple: f32,
    numbers: [f32; 16],
    error: f32,
}

impl Group {
    /// The best with a scale about `scale`.
    fn new(values: &[f32; 16], scale: f32, block: f32) -> Self {
        let nearest = if block == 0.0 { 0.0 } else { (scale / block).round() };
        let mut best = Self::with(values, 0.0, block);
        for by in [0.0, -1.0, 1.0] {
            let group = Self::with(values, (nearest + by).clamp(SCALES.0, SCALES.1), block);
            if group.error < best.error {
                best = group;
            }
        }
        best
    }

    fn with(values: &[f32; 16], multiple: f32, block: f32) -> Self {
        let fit = Fit { scale: block * multiple, minimum: 0.0 };
        let numbers = fit.numbers(values, NUMBERS);
        Self { multiple, numbers, error: fit.error(values, &numbers) }
    }
}

struct Block {
    scale: f16,
    groups: [Group; 16],
    error: f32,
}

impl Block {
    fn new(values: &Values, scales: &[f32; 16], scale: f16) -> Self {
        let groups: [Group; 16] = from_fn(|i| Group::new(&values[i], scales[i], scale.to_f32()));
        let error = groups.iter().map(|group| group.error).sum();
        Self { scale, groups, error }
    }

    /// The scale that is best for the groups as they are, if there is one and a half holds it.
    fn least_squares(&self, values: &Values) -> Option<f16> {
        let (mut ss, mut sx) = (0.0, 0.0);
        for (group, values) in self.groups.iter().zip(values) {
            for (number, x) in group.numbers.iter().zip(values) {
                let s = f64::from(group.multiple * number);
                ss += s * s;
                sx += s * f64::from(*x);
            }
        }
        Some(f16::from_f64(sx / ss)).filter(|scale| scale.is_finite())
    }

    fn bytes(&self) -> [u8; 210] {
        let number = |i: usize| (self.groups[i / 16].numbers[i % 16] - NUMBERS.0) as u8;
        let mut bytes = [0; 210];
        for half in 0..2 {
            for i in 0..32 {
                let [a, b, c, d] = [0, 32, 64, 96].map(|at| number(half * 128 + at + i));
                bytes[half * 64 + i] = a & 15 | c << 4;
                bytes[half * 64 + 32 + i] = b & 15 | d << 4;
                bytes[128 + half * 32 + i] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
            }
        }
        for (byte, group) in bytes[192..208].iter_mut().zip(&self.groups) {
            *byte = group.multiple as i8 as u8;
        }
        bytes[208..].copy_from_slice(&self.scale.to_le_bytes());
        bytes
    }
}
