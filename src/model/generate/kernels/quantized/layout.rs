//! The memory layout of quantised weights.
//!
//! Sixteen rows of a matrix make a panel. A panel is groups of 32 columns in order; in a group, the
//! whole numbers are in quads of four columns: the four of the first row, of the second, and so on,
//! so that a vector holds a quad of all sixteen rows. Of each number the low four bits come first,
//! quads 0 to 3 in the low and 4 to 7 in the high half of bytes; then further bits in planes.

use half::f16;

use crate::gguf::{TensorType, unpack};

use super::super::simd::LANES;

/// Columns that share a scale, or two.
pub(super) const GROUP: usize = 32;
/// Columns of a block that has a scale for its scales.
const SUPER: usize = 256;

/// Which bits and scales a matrix has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    /// Bits of a number: 4, 5, 6 or 8. Those of eight are signed.
    pub bits: usize,
    /// What is taken away from a number.
    pub bias: i8,
    /// Whether each group adds an offset.
    pub has_offset: bool,
    /// Whether scales and offsets are i8 with a scale for every eight groups; else they are
    /// half-precision floats.
    pub is_nested: bool,
    /// Whether each half of a group has its own scale.
    pub is_halved: bool,
}

impl Form {
    /// The form that represents a type exactly; `None` for those that stay f32.
    pub fn of(kind: TensorType) -> Option<Self> {
        let (bits, bias, has_offset, is_nested, is_halved) = match kind {
            TensorType::Q4_0 => (4, 8, false, false, false),
            TensorType::Q4_1 => (4, 0, true, false, false),
            TensorType::Q5_0 => (5, 16, false, false, false),
            TensorType::Q5_1 => (5, 0, true, false, false),
            TensorType::Q8_0 => (8, 0, false, false, false),
            TensorType::Q4_K => (4, 0, true, true, false),
            TensorType::Q5_K => (5, 0, true, true, false),
            TensorType::Q6_K => (6, 32, false, true, true),
            _ => return None,
        };
        Some(Self { bits, bias, has_offset, is_nested, is_halved })
    }

    /// Bytes of the numbers of a group of a panel.
    pub const fn number_bytes(self) -> usize {
        self.bits * GROUP * LANES / 8
    }

    /// Bytes of a group of a panel.
    pub const fn group_bytes(self) -> usize {
        let scales = 1 + self.is_halved as usize + self.has_offset as usize;
        let scale = if self.is_nested { 1 } else { 2 };
        scales * scale * LANES + self.number_bytes()
    }

    /// Bytes before every eight groups of a panel.
    pub const fn head_bytes(self) -> usize {
        if self.is_nested { (1 + self.has_offset as usize) * 2 * LANES } else { 0 }
    }

    /// Bytes of a panel.
    pub const fn panel_bytes(self, depth: usize) -> usize {
        depth / GROUP * self.group_bytes()
            + if self.is_nested { depth / SUPER * self.head_bytes() } else { 0 }
    }
}

/// Rows of a matrix as they are stored in a file.
#[derive(Debug, Clone, Copy)]
pub struct StoredRows<'a> {
    /// How they are stored.
    pub kind: TensorType,
    /// Whole rows.
    pub data: &'a [u8],
    /// Which of them comes at each place; in order, where it is `None`.
    pub order: Option<&'a [usize]>,
}

/// A part of a matrix in one form.
#[derive(Debug)]
pub(super) struct Segment {
    pub form: Form,
    pub data: Vec<u8>,
    pub panels: usize,
}

/// A quantised matrix `(columns, depth)`, of which `columns` is that of the product.
#[derive(Debug)]
pub struct Matrix {
    pub(super) segments: Vec<Segment>,
    pub(super) depth: usize,
}

impl Matrix {
    /// Packs matrices `(out, depth)`, one below the other. Each begins at a multiple of sixteen
    /// columns of the product; columns in between are 0. `None` where one is of a type that has no
    /// quantised form, or `depth` is not whole groups.
    pub fn new(depth: usize, matrices: &[StoredRows<'_>]) -> Option<Self> {
        let segments = matrices.iter().map(|rows| pack(depth, rows)).collect::<Option<_>>()?;
        Some(Self { segments, depth })
    }

    /// Columns of the product, padding included.
    pub fn columns(&self) -> usize {
        self.segments.iter().map(|segment| segment.panels * LANES).sum()
    }

    /// How many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(|segment| segment.data.len()).sum()
    }

    /// Writes the weights of column `column` of the product.
    pub fn read_row(&self, column: usize, out: &mut [f32]) {
        let (mut panel, lane) = (column / LANES, column % LANES);
        for segment in &self.segments {
            if panel < segment.panels {
                let bytes = segment.form.panel_bytes(self.depth);
                return segment.form.read(&segment.data[panel * bytes..][..bytes], lane, out);
            }
            panel -= segment.panels;
        }
    }
}

fn pack(depth: usize, rows: &StoredRows<'_>) -> Option<Segment> {
    let form = Form::of(rows.kind)?;
    let (len, bytes) = (rows.kind.block_len(), rows.kind.block_bytes());
    if !depth.is_multiple_of(len) {
        return None;
    }
    let row_bytes = depth / len * bytes;
    let count = rows.data.len() / row_bytes;
    let panels = count.div_ceil(LANES);
    let panel_bytes = form.panel_bytes(depth);
    let mut data = vec![0; panels * panel_bytes];
    for row in 0..count {
        let source = rows.order.map_or(row, |order| order[row]);
        let source = &rows.data[source * row_bytes..][..row_bytes];
        let panel = &mut data[row / LANES * panel_bytes..][..panel_bytes];
        for (index, block) in source.chunks_exact(bytes).enumerate() {
            form.write(panel, row % LANES, index, rows.kind, block)?;
        }
    }
    Some(Segment { form, data, panels })
}

impl Form {
    /// Where group `group` begins in a panel.
    fn group_at(self, group: usize) -> usize {
        group * self.group_bytes()
            + if self.is_nested { (group / 8 + 1) * self.head_bytes() } else { 0 }
    }

    /// Writes a block of row `lane` into its panel.
    fn write(
        self,
        panel: &mut [u8],
        lane: usize,
        index: usize,
        kind: TensorType,
        block: &[u8],
    ) -> Option<()> {
        let groups = unpack(kind, block)?;
        let first = index * kind.block_len() / GROUP;
        let (scale, offset) = outer_scales(kind, block);
        if self.is_nested {
            let head = self.group_at(first) - self.head_bytes();
            panel[head + 2 * lane..][..2].copy_from_slice(&scale.to_le_bytes());
            if self.has_offset {
                let at = head + 2 * LANES + 2 * lane;
                panel[at..][..2].copy_from_slice(&offset.to_le_bytes());
            }
        }
        // The whole number that an inner scale is, given the one around it.
        let inner = |product: f32, outer: f16| match outer.to_f32() {
            0.0 => 0,
            outer => (product / outer).round() as i8,
        };
        for group in 0..kind.block_len() / GROUP {
            let mut at = self.group_at(first + group);
            let parts = if self.is_halved { 2 } else { 1 };
            for part in 0..parts {
                let value = groups.scales[group * parts + part];
                if self.is_nested {
                    panel[at + lane] = inner(value, scale) as u8;
                    at += LANES;
                } else {
                    panel[at + 2 * lane..][..2].copy_from_slice(&scale.to_le_bytes());
                    at += 2 * LANES;
                }
            }
            if self.has_offset {
                if self.is_nested {
                    panel[at + lane] = inner(-groups.offsets[group], offset) as u8;
                    at += LANES;
                } else {
                    panel[at + 2 * lane..][..2].copy_from_slice(&offset.to_le_bytes());
                    at += 2 * LANES;
                }
            }
            let numbers = &groups.numbers[group * GROUP..][..GROUP];
            self.write_numbers(&mut panel[at..][..self.number_bytes()], lane, numbers);
        }
        Some(())
    }

    fn write_numbers(self, to: &mut [u8], lane: usize, numbers: &[i8]) {
        for (column, number) in numbers.iter().enumerate() {
            let (quad, byte) = (column / 4, lane * 4 + column % 4);
            if self.bits == 8 {
                to[quad * 64 + byte] = *number as u8;
                continue;
            }
            let bits = (number + self.bias) as u8;
            to[quad % 4 * 64 + byte] |= (bits & 15) << (quad / 4 * 4);
            match self.bits {
                5 => to[256 + byte] |= (bits >> 4) << quad,
                6 => to[256 + quad / 4 * 64 + byte] |= (bits >> 4) << (quad % 4 * 2),
                _ => {}
            }
        }
    }

    /// Reads row `lane` of a panel.
    fn read(self, panel: &[u8], lane: usize, out: &mut [f32]) {
        let half = |at: usize| f16::from_le_bytes([panel[at], panel[at + 1]]).to_f32();
        for (group, out) in out.chunks_exact_mut(GROUP).enumerate() {
            let mut at = self.group_at(group);
            let head = at - group % 8 * self.group_bytes() - self.head_bytes();
            let mut next = |outer: usize| {
                let value = if self.is_nested {
                    half(head + outer * 2 * LANES + 2 * lane) * f32::from(panel[at + lane] as i8)
                } else {
                    half(at + 2 * lane)
                };
                at += if self.is_nested { LANES } else { 2 * LANES };
                value
            };
            let first = next(0);
            let second = if self.is_halved { next(0) } else { first };
            let offset = if self.has_offset { next(1) } else { 0.0 };
            let offset = if self.is_nested { -offset } else { offset };
            let numbers = &panel[at..][..self.number_bytes()];
            for (column, out) in out.iter_mut().enumerate() {
                let (quad, byte) = (column / 4, lane * 4 + column % 4);
                let number = if self.bits == 8 {
                    numbers[quad * 64 + byte] as i8
                } else {
                    let low = numbers[quad % 4 * 64 + byte] >> (quad / 4 * 4) & 15;
                    let high = match self.bits {
                        5 => numbers[256 + byte] >> quad & 1,
                        6 => numbers[256 + quad / 4 * 64 + byte] >> (quad % 4 * 2) & 3,
                        _ => 0,
                    };
                    (low | high << 4) as i8 - self.bias
                };
                let scale = if column < GROUP / 2 { first } else { second };
                *out = scale * f32::from(number) + offset;
            }
        }
    }
}

/// The scale of a block and that of its offsets, as they are stored.
fn outer_scales(kind: TensorType, block: &[u8]) -> (f16, f16) {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]);
    match kind {
        TensorType::Q6_K => (half(208), f16::ZERO),
        _ => (half(0), half(2)),
    }
}
