//! Numbers into the types that this program writes.

use half::f16;

use super::tensor::TensorType;

/// The blocks of `values`; `None` for a type that can only be read.
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
        TensorType::Q8_0 => Some(values.chunks_exact(kind.block_len()).flat_map(q8_0).collect()),
        _ => None,
    }
}

/// A block: the scale, and what it is multiplied by.
fn q8_0(values: &[f32]) -> impl Iterator<Item = u8> {
    let largest = values.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let numbers = values.iter().map(move |x| (x * inverse).round() as i8 as u8);
    f16::from_f32(scale).to_le_bytes().into_iter().chain(numbers)
}
