//! Quantised values back into numbers.
//!
//! Every quantised type is groups of whole numbers, with a scale and an offset for each group.
//! Blocks are unpacked into that form, and other code knows no other.

use half::{bf16, f16};

use super::tensor::TensorType;

/// The most values that a block holds.
const MAX_BLOCK: usize = 256;

/// A block, unpacked: value `i` is `scales[i / group] × numbers[i] + offsets[i / group]`.
#[derive(Debug, Clone)]
pub struct Groups {
    /// How many values share a scale: 16 or 32.
    pub group: usize,
    /// The whole numbers; as many as the block's length count.
    pub numbers: [i8; MAX_BLOCK],
    /// A scale for each group.
    pub scales: [f32; MAX_BLOCK / 16],
    /// An offset for each group.
    pub offsets: [f32; MAX_BLOCK / 16],
}

impl Groups {
    const EMPTY: Self =
        Self { group: 32, numbers: [0; MAX_BLOCK], scales: [0.0; 16], offsets: [0.0; 16] };
}

/// Writes the values of whole blocks into `out`.
///
/// # Panics
/// When `data` is not the blocks of `out.len()` values.
pub fn dequantize(kind: TensorType, data: &[u8], out: &mut [f32]) {
    let (len, bytes) = (kind.block_len(), kind.block_bytes());
    assert_eq!((out.len() / len * bytes, out.len() % len), (data.len(), 0), "not whole blocks");
    match kind {
        TensorType::F32 => {
            for (out, bytes) in out.iter_mut().zip(data.as_chunks().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        TensorType::F16 => {
            for (out, bytes) in out.iter_mut().zip(data.as_chunks().0) {
                *out = f16::from_le_bytes(*bytes).to_f32();
            }
        }
        TensorType::BF16 => {
            for (out, bytes) in out.iter_mut().zip(data.as_chunks().0) {
                *out = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
        _ => {
            let mut groups = Groups::EMPTY;
            for (block, out) in data.chunks_exact(bytes).zip(out.chunks_exact_mut(len)) {
                unpack_into(kind, block, &mut groups);
                let numbers = groups.numbers.chunks_exact(groups.group);
                let parts = out.chunks_exact_mut(groups.group).zip(numbers);
                for ((out, numbers), (scale, offset)) in
                    parts.zip(groups.scales.iter().zip(&groups.offsets))
                {
                    for (out, &number) in out.iter_mut().zip(numbers) {
                        *out = scale * f32::from(number) + offset;
                    }
                }
            }
        }
    }
}

/// Unpacks a block of a quantised type; `None` for the floating-point types.
///
/// # Panics
/// When `block` is not one block of that type.
pub fn unpack(kind: TensorType, block: &[u8]) -> Option<Groups> {
    let is_float = matches!(kind, TensorType::F32 | TensorType::F16 | TensorType::BF16);
    (!is_float).then(|| {
        let mut groups = Groups::EMPTY;
        unpack_into(kind, block, &mut groups);
        groups
    })
}

fn unpack_into(kind: TensorType, block: &[u8], to: &mut Groups) {
    assert_eq!(block.len(), kind.block_bytes(), "not one block");
    to.offsets = [0.0; 16];
    to.group = match kind {
        TensorType::Q2_K | TensorType::Q3_K | TensorType::Q6_K => 16,
        _ => 32,
    };
    match kind {
        TensorType::F32 | TensorType::F16 | TensorType::BF16 => {}
        TensorType::Q4_0 => {
            to.scales[0] = half_at(block, 0);
            nibbles(&block[2..18], 8, &mut to.numbers);
        }
        TensorType::Q4_1 => {
            to.scales[0] = half_at(block, 0);
            to.offsets[0] = half_at(block, 2);
            nibbles(&block[4..20], 0, &mut to.numbers);
        }
        TensorType::Q5_0 => {
            to.scales[0] = half_at(block, 0);
            nibbles(&block[6..22], 16, &mut to.numbers);
            fifth_bits(&block[2..6], &mut to.numbers);
        }
        TensorType::Q5_1 => {
            to.scales[0] = half_at(block, 0);
            to.offsets[0] = half_at(block, 2);
            nibbles(&block[8..24], 0, &mut to.numbers);
            fifth_bits(&block[4..8], &mut to.numbers);
        }
        TensorType::Q8_0 => {
            to.scales[0] = half_at(block, 0);
            for (number, &byte) in to.numbers.iter_mut().zip(&block[2..34]) {
                *number = byte as i8;
            }
        }
        TensorType::Q2_K => unpack_q2_k(block, to),
        TensorType::Q3_K => unpack_q3_k(block, to),
        TensorType::Q4_K => {
            six_bit_scales(block, to);
            for (part, bytes) in block[16..144].chunks_exact(32).enumerate() {
                for (i, byte) in bytes.iter().enumerate() {
                    to.numbers[part * 64 + i] = (byte & 15) as i8;
                    to.numbers[part * 64 + 32 + i] = (byte >> 4) as i8;
                }
            }
        }
        TensorType::Q5_K => {
            six_bit_scales(block, to);
            let high = &block[16..48];
            for (part, bytes) in block[48..176].chunks_exact(32).enumerate() {
                for (i, byte) in bytes.iter().enumerate() {
                    let bits = high[i] >> (2 * part);
                    to.numbers[part * 64 + i] = (byte & 15 | (bits & 1) << 4) as i8;
                    to.numbers[part * 64 + 32 + i] = (byte >> 4 | (bits & 2) << 3) as i8;
                }
            }
        }
        TensorType::Q6_K => unpack_q6_k(block, to),
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Sixteen bytes: the first half of 32 numbers in the low four bits, the second in the high ones.
fn nibbles(bytes: &[u8], shift: i8, numbers: &mut [i8]) {
    let (low, high) = numbers.split_at_mut(16);
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = (byte & 15) as i8 - shift;
        *high = (byte >> 4) as i8 - shift;
    }
}

/// Adds the fifth bit of 32 numbers, the first number's lowest.
fn fifth_bits(bytes: &[u8], numbers: &mut [i8]) {
    for (i, number) in numbers.iter_mut().take(32).enumerate() {
        *number += (bytes[i / 8] >> (i % 8) & 1) as i8 * 16;
    }
}

/// Scales and minimums of eight groups, in six bits each, as of Q4_K and Q5_K.
fn six_bit_scales(block: &[u8], to: &mut Groups) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let packed = &block[4..16];
    for i in 0..4 {
        to.scales[i] = scale * f32::from(packed[i] & 63);
        to.offsets[i] = -(minimum * f32::from(packed[i + 4] & 63));
        let upper = packed[i + 8] & 15 | packed[i] >> 6 << 4;
        to.scales[i + 4] = scale * f32::from(upper);
        let upper = packed[i + 8] >> 4 | packed[i + 4] >> 6 << 4;
        to.offsets[i + 4] = -(minimum * f32::from(upper));
    }
}

fn unpack_q2_k(block: &[u8], to: &mut Groups) {
    let (scale, minimum) = (half_at(block, 80), half_at(block, 82));
    for (i, packed) in block[..16].iter().enumerate() {
        to.scales[i] = scale * f32::from(packed & 15);
        to.offsets[i] = -(minimum * f32::from(packed >> 4));
    }
    for (i, number) in to.numbers.iter_mut().enumerate() {
        let (half, part, at) = (i / 128, i % 128 / 32, i % 32);
        *number = (block[16 + half * 32 + at] >> (2 * part) & 3) as i8;
    }
}

fn unpack_q3_k(block: &[u8], to: &mut Groups) {
    let scale = half_at(block, 108);
    let packed = &block[96..108];
    for i in 0..16 {
        let low = if i < 8 { packed[i] & 15 } else { packed[i - 8] >> 4 };
        let high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
        to.scales[i] = scale * f32::from((low | high << 4) as i8 - 32);
    }
    for (i, number) in to.numbers.iter_mut().enumerate() {
        let (half, part, at) = (i / 128, i % 128 / 32, i % 32);
        let low = (block[32 + half * 32 + at] >> (2 * part) & 3) as i8;
        // A set bit means that nothing is subtracted.
        let high = (block[at] >> (half * 4 + part) & 1) as i8;
        *number = low - 4 * (1 - high);
    }
}

fn unpack_q6_k(block: &[u8], to: &mut Groups) {
    let scale = half_at(block, 208);
    for (to, &packed) in to.scales.iter_mut().zip(&block[192..208]) {
        *to = scale * f32::from(packed as i8);
    }
    for half in 0..2 {
        let (low, high) = (&block[half * 64..][..64], &block[128 + half * 32..][..32]);
        let numbers = &mut to.numbers[half * 128..][..128];
        for (i, bits) in high.iter().enumerate() {
            numbers[i] = (low[i] & 15 | (bits & 3) << 4) as i8 - 32;
            numbers[i + 32] = (low[i + 32] & 15 | (bits >> 2 & 3) << 4) as i8 - 32;
            numbers[i + 64] = (low[i] >> 4 | (bits >> 4 & 3) << 4) as i8 - 32;
            numbers[i + 96] = (low[i + 32] >> 4 | (bits >> 6) << 4) as i8 - 32;
        }
    }
}
