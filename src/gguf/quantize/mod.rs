//! Numbers into the types that this program writes.
//!
//! A quantised block has the numbers, scales and offsets with the least squared error that a search
//! finds: where the inputs of a matrix are independent, that is the least error of its product.

use half::f16;
use rayon::prelude::*;

use super::finite::halves;
use super::tensor::TensorType;

mod fit;
mod q4_k;
mod q5_0;
mod q6_k;
#[cfg(test)]
mod tests;

/// The blocks of `values`; `None` for a type that can only be read. What the type cannot hold gives
/// a block that is not finite.
///
/// # Panics
/// When `values` are not whole blocks.
pub fn quantize(kind: TensorType, values: &[f32]) -> Option<Vec<u8>> {
    assert!(values.len().is_multiple_of(kind.block_len()), "not whole blocks");
    match kind {
        TensorType::F32 => Some(values.iter().flat_map(|x| x.to_le_bytes()).collect()),
        TensorType::F16 => {
            Some(values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect())
        }
        TensorType::Q5_0 => Some(blocks(kind, values, q5_0::block)),
        TensorType::Q8_0 => Some(blocks(kind, values, q8_0)),
        TensorType::Q4_K => Some(blocks(kind, values, q4_k::block)),
        TensorType::Q6_K => Some(blocks(kind, values, q6_k::block)),
        _ => None,
    }
}

/// Every block, on all cores.
fn blocks<const LEN: usize, const BYTES: usize>(
    kind: TensorType,
    values: &[f32],
    block: impl Fn(&[f32; LEN]) -> [u8; BYTES] + Sync,
) -> Vec<u8> {
    let one = |values: &[f32; LEN]| {
        let mut bytes = block(values);
        // The searches leave out what is not a number, and would hide it.
        if !values.iter().all(|x| x.is_finite()) {
            for &at in halves(kind) {
                bytes[at..at + 2].copy_from_slice(&f16::NAN.to_le_bytes());
            }
        }
        bytes
    };
    let blocks: Vec<[u8; BYTES]> = values.as_chunks().0.par_iter().map(one).collect();
    blocks.into_flattened()
}

/// A block: the scale, and what it is multiplied by.
fn q8_0(values: &[f32; 32]) -> [u8; 34] {
    let largest = values.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut block = [0; 34];
    block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (byte, x) in block[2..].iter_mut().zip(values) {
        *byte = (x * inverse).round() as i8 as u8;
    }
    block
}

/// The scale by which `most` stands for `largest`. Where halves are coarse it is rounded up, since
/// `largest` would be beyond `most` otherwise.
fn half_for(largest: f32, most: f32) -> f16 {
    if largest == 0.0 {
        return f16::ZERO;
    }
    let half = f16::from_f32(largest / most);
    let is_too_small = (largest / half.to_f32()).abs() > most.abs() + 0.5;
    // The next bits are those of the next half, further from 0.
    if is_too_small { f16::from_bits(half.to_bits() + 1) } else { half }
}
