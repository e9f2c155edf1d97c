//! The product itself.

use rayon::prelude::*;

use super::super::Isa;
use super::super::bytes::BYTES;
use super::super::simd::{Kernel, LANES, Simd};
use super::inputs::Inputs;
use super::layout::{Form, GROUP, Matrix};

/// Below this many products of bytes and rows, a second thread does not pay.
const WORTH_SHARING: usize = 1 << 16;
/// Parts per thread, so that a thread that starts late takes fewer.
const PARTS: usize = 4;

/// `out = x · Wᵀ`, or `out += x · Wᵀ`; the rows of `out` are at least `matrix.columns()` wide.
/// Split between the threads of the current pool; the result is bit-identical with any number of
/// them, and for a row whatever the others are. `panels` is working memory.
pub fn multiply(
    isa: Isa,
    x: &Inputs,
    matrix: &Matrix,
    out: &mut [f32],
    add: bool,
    panels: &mut Vec<f32>,
) {
    let (rows, columns) = (x.rows, matrix.columns());
    if rows == 0 {
        return;
    }
    let stride = out.len() / rows;
    if rows == 1 && !add {
        return share(isa, x, matrix, &mut out[..columns]);
    }
    panels.resize(rows * columns, 0.0);
    share(isa, x, matrix, panels);
    for (panel, sums) in panels.chunks_exact(rows * LANES).enumerate() {
        for (row, sums) in sums.chunks_exact(LANES).enumerate() {
            let out = &mut out[row * stride + panel * LANES..][..LANES];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = if add { *out + sum } else { *sum };
            }
        }
    }
}

/// Computes all panels, `(panels, rows, 16)`.
fn share(isa: Isa, x: &Inputs, matrix: &Matrix, out: &mut [f32]) {
    let panel = x.rows * LANES;
    let count = out.len() / panel;
    let threads = rayon::current_num_threads();
    if threads == 1 || matrix.bytes() * x.rows < WORTH_SHARING {
        return multiply_panels(isa, x, matrix, 0, out);
    }
    let part = count.div_ceil(threads * PARTS);
    out.par_chunks_mut(part * panel)
        .enumerate()
        .for_each(|(index, out)| multiply_panels(isa, x, matrix, index * part, out));
}

/// Computes the panels from `first` on.
fn multiply_panels(isa: Isa, x: &Inputs, matrix: &Matrix, first: usize, out: &mut [f32]) {
    let (mut begin, mut out) = (0, out);
    for segment in &matrix.segments {
        let end = begin + segment.panels;
        let from = first.max(begin);
        let count = end.saturating_sub(from).min(out.len() / (x.rows * LANES));
        if count > 0 {
            let (part, rest) = out.split_at_mut(count * x.rows * LANES);
            let bytes = segment.form.panel_bytes(matrix.depth);
            let data = &segment.data[(from - begin) * bytes..][..count * bytes];
            isa.run(Panels { x, form: segment.form, data, out: part });
            out = rest;
        }
        begin = end;
    }
}

/// Panels of one form.
struct Panels<'a> {
    x: &'a Inputs,
    form: Form,
    data: &'a [u8],
    out: &'a mut [f32],
}

impl Kernel for Panels<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.form {
            Form { bits: 8, .. } => self.each::<S, 8, false, false>(simd),
            Form { bits: 6, .. } => self.each::<S, 6, false, true>(simd),
            Form { bits: 5, has_offset: false, .. } => self.each::<S, 5, false, false>(simd),
            Form { bits: 5, is_nested: false, .. } => self.each::<S, 5, true, false>(simd),
            Form { bits: 5, .. } => self.each::<S, 5, true, true>(simd),
            Form { has_offset: false, .. } => self.each::<S, 4, false, false>(simd),
            Form { is_nested: false, .. } => self.each::<S, 4, true, false>(simd),
            _ => self.each::<S, 4, true, true>(simd),
        }
    }
}

impl Panels<'_> {
    /// Walks panels, and rows in tiles, so that a panel stays in the nearest cache.
    #[inline(always)]
    fn each<S: Simd, const BITS: usize, const OFFSET: bool, const NESTED: bool>(self, simd: S) {
        let Self { x, form, data, out } = self;
        let panels = data.chunks_exact(form.panel_bytes(x.depth));
        for (panel, out) in panels.zip(out.chunks_exact_mut(x.rows * LANES)) {
            let (out, _) = out.as_chunks_mut::<LANES>();
            let mut row = 0;
            while row < x.rows {
                let tile = Tile { x, row, form, panel };
                match x.rows - row {
                    1 => {
                        tile.run::<S, BITS, OFFSET, NESTED, 1>(simd, &mut out[row..]);
                        row += 1;
                    }
                    2 | 3 => {
                        tile.run::<S, BITS, OFFSET, NESTED, 2>(simd, &mut out[row..]);
                        row += 2;
                    }
                    8.. if S::TILE == 8 => {
                        tile.run::<S, BITS, OFFSET, NESTED, 8>(simd, &mut out[row..]);
                        row += 8;
                    }
                    _ => {
                        tile.run::<S, BITS, OFFSET, NESTED, 4>(simd, &mut out[row..]);
                        row += 4;
                    }
                }
            }
        }
    }
}

/// Some rows of inputs against one panel.
struct Tile<'a> {
    x: &'a Inputs,
    row: usize,
    form: Form,
    panel: &'a [u8],
}

impl Tile<'_> {
    #[inline(always)]
    fn run<
        S: Simd,
        const BITS: usize,
        const OFFSET: bool,
        const NESTED: bool,
        const ROWS: usize,
    >(
        &self,
        simd: S,
        out: &mut [[f32; LANES]],
    ) {
        // Six bits are those that have two scales a group.
        let halved = BITS == 6;
        let form = Form {
            bits: BITS,
            bias: self.form.bias,
            has_offset: OFFSET,
            is_nested: NESTED,
            is_halved: halved,
        };
        let groups = self.x.depth / GROUP;
        let inputs: [Row<'_>; ROWS] = std::array::from_fn(|row| Row::new(self.x, self.row + row));
        let bias = f32::from(-form.bias);
        let mut totals = [simd.splat(0.0); ROWS];
        let mut outer = [simd.splat(1.0); 2];
        let mut rest = self.panel;
        for group in 0..groups {
            if NESTED && group % 8 == 0 {
                outer[0] = simd.halves(take(&mut rest));
                if OFFSET {
                    outer[1] = simd.mul(simd.halves(take(&mut rest)), simd.splat(-1.0));
                }
            }
            let mut scales = [scale::<S, NESTED>(simd, &mut rest, outer[0]); 2];
            if halved {
                scales[1] = scale::<S, NESTED>(simd, &mut rest, outer[0]);
            }
            let mut offset = outer[1];
            if OFFSET {
                offset = scale::<S, NESTED>(simd, &mut rest, outer[1]);
            }
            let (numbers, after) = rest.split_at(form.number_bytes());
            rest = after;
            let (numbers, _) = numbers.as_chunks::<BYTES>();
            let sums = sums::<S, BITS, ROWS>(simd, numbers, &inputs, group);
            for ((total, row), sums) in totals.iter_mut().zip(&inputs).zip(sums) {
                let x_scale = row.scales[group];
                let [low, high] = row.sums[group];
                if halved {
                    for ((sum, scale), x_sum) in sums.into_iter().zip(scales).zip([low, high]) {
                        let sum = simd.add(simd.floats(sum), simd.splat(bias * x_sum));
                        *total = simd.fma(sum, simd.mul(scale, simd.splat(x_scale)), *total);
                    }
                    continue;
                }
                let mut sum = simd.floats(sums[0]);
                if !OFFSET && BITS != 8 {
                    sum = simd.add(sum, simd.splat(bias * (low + high)));
                }
                *total = simd.fma(sum, simd.mul(scales[0], simd.splat(x_scale)), *total);
                if OFFSET {
                    *total = simd.fma(offset, simd.splat(x_scale * (low + high)), *total);
                }
            }
        }
        for (out, total) in out.iter_mut().zip(totals) {
            simd.store(total, out);
        }
    }
}

/// The next scales, or offsets, of a group.
#[inline(always)]
fn scale<S: Simd, const NESTED: bool>(simd: S, rest: &mut &[u8], outer: S::V) -> S::V {
    if NESTED { simd.mul(simd.small(take(rest)), outer) } else { simd.halves(take(rest)) }
}

/// The products of a group of numbers with the inputs of each row, unscaled: of the whole group, or
/// of its halves where it has two scales.
#[inline(always)]
fn sums<S: Simd, const BITS: usize, const ROWS: usize>(
    simd: S,
    numbers: &[[u8; BYTES]],
    inputs: &[Row<'_>; ROWS],
    group: usize,
) -> [[S::Long; 2]; ROWS] {
    let mut totals = [[simd.long(); 2]; ROWS];
    if BITS == 8 {
        for (quad, weights) in numbers.iter().enumerate().take(8) {
            let weights = simd.bytes(weights);
            for (total, row) in totals.iter_mut().zip(inputs) {
                total[0] = simd.dot_signed(total[0], weights, row.numbers[group][quad]);
            }
        }
        return totals;
    }
    let mut short = [[simd.short(); 2]; ROWS];
    for (quad, weights) in numbers.iter().enumerate().take(4) {
        let packed = simd.bytes(weights);
        let (mut low, mut high) = (simd.low(packed), simd.high(packed));
        if BITS == 5 {
            let plane = simd.bytes(&numbers[4]);
            low = simd.with_fifth(low, plane, quad);
            high = simd.with_fifth(high, plane, quad + 4);
        }
        if BITS == 6 {
            low = simd.with_sixth(low, simd.bytes(&numbers[4]), quad);
            high = simd.with_sixth(high, simd.bytes(&numbers[5]), quad);
        }
        // Sums stay below 2¹⁵: 8 × 2 × 15 × 127, 4 × 2 × 31 × 127 or 2 × 2 × 63 × 127.
        let second = if BITS == 6 { 1 } else { 0 };
        let is_full = if BITS == 4 { quad == 3 } else { quad % 2 == 1 };
        for ((short, total), row) in short.iter_mut().zip(&mut totals).zip(inputs) {
            let x = &row.numbers[group];
            short[0] = simd.dot(short[0], low, x[quad]);
            short[second] = simd.dot(short[second], high, x[quad + 4]);
            if is_full {
                for part in 0..=second {
                    total[part] = simd.widen(total[part], short[part]);
                    short[part] = simd.short();
                }
            }
        }
    }
    totals
}

/// A row of inputs, by groups.
#[derive(Clone, Copy)]
struct Row<'a> {
    numbers: &'a [[[i8; 4]; 8]],
    scales: &'a [f32],
    sums: &'a [[f32; 2]],
}

impl<'a> Row<'a> {
    #[inline(always)]
    fn new(x: &'a Inputs, row: usize) -> Self {
        let groups = x.depth / GROUP;
        let (quads, _) = x.numbers[row * x.depth..][..x.depth].as_chunks::<4>();
        Self {
            numbers: quads.as_chunks::<8>().0,
            scales: &x.scales[row * groups..][..groups],
            sums: x.sums[row * groups * 2..][..groups * 2].as_chunks::<2>().0,
        }
    }
}

/// The next `N` bytes, which it takes away.
#[inline(always)]
fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> &'a [u8; N] {
    match rest.split_first_chunk() {
        Some((first, after)) => {
            *rest = after;
            first
        }
        // A panel is as long as its form says.
        None => &[0; N],
    }
}
