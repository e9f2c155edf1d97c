//! The weights of a file.

use std::ops::Range;

/// How the values of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the format's own names")]
#[allow(non_camel_case_types)]
pub enum TensorType {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    BF16,
}

impl TensorType {
    /// Every type.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::BF16,
    ];

    /// Its number in a file.
    pub fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2_K => 10,
            Self::Q3_K => 11,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::BF16 => 30,
        }
    }

    /// The type with this number.
    pub(super) fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.id() == id)
    }

    /// How many values a block holds.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => 256,
        }
    }

    /// How many bytes a block takes.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }
}

/// The name of a type that the format knows and this program does not.
pub(super) fn unsupported_name(id: u32) -> Option<&'static str> {
    Some(match id {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        34 => "TQ1_0",
        35 => "TQ2_0",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        39 => "MXFP4",
        40 => "NVFP4",
        _ => return None,
    })
}

/// What the directory says of a tensor, checked.
#[derive(Debug, Clone)]
pub(super) struct TensorInfo {
    pub kind: TensorType,
    /// Slowest dimension first.
    pub shape: Vec<usize>,
    /// Where its data lies in the file.
    pub data: Range<usize>,
}

impl TensorInfo {
    pub fn view<'a>(&'a self, bytes: &'a [u8]) -> TensorView<'a> {
        TensorView { kind: self.kind, shape: &self.shape, data: &bytes[self.data.clone()] }
    }
}

/// A tensor as it lies in the file.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    /// How its values are stored.
    pub kind: TensorType,
    /// Its shape, slowest dimension first: a matrix is `(rows, columns)`. A row is whole blocks.
    pub shape: &'a [usize],
    /// Its data.
    pub data: &'a [u8],
}

impl TensorView<'_> {
    /// How many values it has.
    pub fn len(self) -> usize {
        self.data.len() / self.kind.block_bytes() * self.kind.block_len()
    }

    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.data.is_empty()
    }

    /// How many bytes a row takes.
    pub fn row_bytes(self) -> usize {
        let columns = self.shape.last().copied().unwrap_or(1);
        columns / self.kind.block_len() * self.kind.block_bytes()
    }

    /// Its values in f32.
    pub fn to_f32(self) -> Vec<f32> {
        let mut values = vec![0.0; self.len()];
        super::dequantize(self.kind, self.data, &mut values);
        values
    }
}
