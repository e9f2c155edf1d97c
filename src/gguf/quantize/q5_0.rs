//! Q5_0: 32 numbers of five bits with a scale.

use super::fit::{Fit, Span};
use super::half_for;

const NUMBERS: Span = (-16.0, 15.0);

pub fn block(values: &[f32; 32]) -> [u8; 22] {
    let scale = half_for(Fit::symmetric(values, NUMBERS).scale, 1.0);
    let fit = Fit { scale: scale.to_f32(), minimum: 0.0 };
    let numbers = fit.numbers(values, NUMBERS).map(|number| (number - NUMBERS.0) as u8);
    let mut bytes = [0; 22];
    bytes[..2].copy_from_slice(&scale.to_le_bytes());
    for (i, number) in numbers.into_iter().enumerate() {
        bytes[2 + i / 8] |= number >> 4 << (i % 8);
        bytes[6 + i % 16] |= (number & 15) << (i / 16 * 4);
    }
    bytes
}
