//! Whether stored values are finite numbers, without unpacking them.

use half::{bf16, f16};

use super::tensor::{TensorType, TensorView};

impl TensorView<'_> {
    /// Whether all its values are finite.
    pub fn is_finite(self) -> bool {
        is_finite(self.kind, self.data)
    }
}

/// Whether all values of whole blocks are finite. The whole numbers of quantised types are, so
/// their scales decide.
pub fn is_finite(kind: TensorType, data: &[u8]) -> bool {
    let mut blocks = data.chunks_exact(kind.block_bytes());
    match kind {
        TensorType::F32 => data.as_chunks().0.iter().all(|x| f32::from_le_bytes(*x).is_finite()),
        TensorType::BF16 => data.as_chunks().0.iter().all(|x| bf16::from_le_bytes(*x).is_finite()),
        _ => blocks.all(|block| halves(kind).iter().all(|&at| is_finite_half(block, at))),
    }
}

/// Where the scales, and the scales of minimums, lie in a block.
pub(super) fn halves(kind: TensorType) -> &'static [usize] {
    match kind {
        TensorType::F32 | TensorType::BF16 => &[],
        TensorType::F16 | TensorType::Q4_0 | TensorType::Q5_0 | TensorType::Q8_0 => &[0],
        TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K => &[0, 2],
        TensorType::Q2_K => &[80, 82],
        TensorType::Q3_K => &[108],
        TensorType::Q6_K => &[208],
    }
}

fn is_finite_half(block: &[u8], at: usize) -> bool {
    f16::from_le_bytes([block[at], block[at + 1]]).is_finite()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::dequantize;

    /// A block whose two bytes at any place are those of an infinite half counts as what it unpacks
    /// to.
    #[test]
    fn blocks_are_finite_if_their_values_are() {
        for kind in TensorType::ALL {
            let plain = vec![0x11; kind.block_bytes()];
            assert!(is_finite(kind, &plain), "{kind:?}");
            for at in (0..kind.block_bytes() - 1).step_by(2) {
                let mut block = plain.clone();
                block[at..at + 2].copy_from_slice(&[0x80, 0x7f]);
                let mut values = vec![0.0; kind.block_len()];
                dequantize(kind, &block, &mut values);
                let expected = values.iter().all(|x| x.is_finite());
                assert_eq!(is_finite(kind, &block), expected, "{kind:?} at {at}");
            }
        }
    }
}
