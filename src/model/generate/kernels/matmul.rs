//! `x · Wᵀ` for few rows: weights repacked once into panels that stream through the cache.

use super::Isa;
use super::simd::{Kernel, LANES, Line, Simd};

/// A weight matrix laid out for [`Matmul`]: panels of columns, each ordered by input.
#[derive(Debug, Clone)]
pub struct Packed {
    lines: Vec<Line>,
    panel_lines: usize,
    depth: usize,
    columns: usize,
}

impl Packed {
    /// Packs matrices `(out, depth)`, row-major, one below the other. Each begins at a multiple of
    /// sixteen columns of the product; columns in between are 0.
    pub fn new(isa: Isa, depth: usize, matrices: &[&[f32]]) -> Self {
        let panel_lines = isa.panel_lines();
        let panel = panel_lines * LANES;
        let outs = matrices.iter().map(|matrix| matrix.len() / depth);
        let columns: usize = outs.map(|out| out.next_multiple_of(LANES)).sum();
        let columns = columns.next_multiple_of(panel);
        let mut lines = vec![Line::ZERO; columns / LANES * depth];
        let mut column = 0;
        for matrix in matrices {
            for weights in matrix.chunks_exact(depth) {
                let (panel_index, line, lane) =
                    (column / panel, column % panel / LANES, column % LANES);
                let lines = &mut lines[panel_index * depth * panel_lines + line..];
                for (line, &weight) in lines.iter_mut().step_by(panel_lines).zip(weights) {
                    line.0[lane] = weight;
                }
                column += 1;
            }
            column = column.next_multiple_of(LANES);
        }
        Self { lines, panel_lines, depth, columns }
    }

    /// Columns of the product, padding included: the stride of its rows.
    pub fn columns(&self) -> usize {
        self.columns
    }
}

/// `out = x · Wᵀ`, or `out += x · Wᵀ`. Each element is one chain of multiply-adds over the inputs
/// in order.
#[derive(Debug)]
pub struct Matmul<'a> {
    /// `(rows, stride)`, of which the first `depth` columns are read.
    pub x: &'a [f32],
    /// Stride of the rows of `x`.
    pub stride: usize,
    /// The weights.
    pub weight: &'a Packed,
    /// `(rows, weight.columns())`; says how many rows there are.
    pub out: &'a mut [f32],
    /// Whether to add to `out`.
    pub add: bool,
}

impl Kernel for Matmul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.weight.panel_lines {
            4 => self.panels::<S, 4, 4>(simd),
            2 => self.panels::<S, 3, 2>(simd),
            _ => self.panels::<S, 2, 1>(simd),
        }
    }
}

impl Matmul<'_> {
    /// Walks panels, and rows in tiles of `ROWS`, so that a panel stays in the nearest cache.
    #[inline(always)]
    fn panels<S: Simd, const ROWS: usize, const LINES: usize>(self, simd: S) {
        let Self { x, stride, weight, out, add } = self;
        let (depth, columns) = (weight.depth, weight.columns);
        let rows = out.len() / columns;
        if rows == 0 {
            return;
        }
        for (index, panel) in weight.lines.chunks_exact(depth * LINES).enumerate() {
            let mut first = 0;
            while first < rows {
                let mut tile = Tile {
                    x: &x[first * stride..],
                    stride,
                    panel,
                    out: &mut out[first * columns + index * LINES * LANES..],
                    columns,
                    add,
                };
                let count = ROWS.min(rows - first);
                match count {
                    1 => tile.run::<S, 1, LINES>(simd),
                    2 => tile.run::<S, 2, LINES>(simd),
                    3 => tile.run::<S, 3, LINES>(simd),
                    _ => tile.run::<S, 4, LINES>(simd),
                }
                first += count;
            }
        }
    }
}

/// Some rows against one panel.
struct Tile<'a> {
    x: &'a [f32],
    stride: usize,
    panel: &'a [Line],
    out: &'a mut [f32],
    columns: usize,
    add: bool,
}

impl Tile<'_> {
    #[inline(always)]
    fn run<S: Simd, const ROWS: usize, const LINES: usize>(&mut self, simd: S) {
        let mut sums = [[simd.splat(0.0); LINES]; ROWS];
        let (panel, _) = self.panel.as_chunks::<LINES>();
        let rows: [&[f32]; ROWS] =
            std::array::from_fn(|row| &self.x[row * self.stride..][..panel.len()]);
        for (k, lines) in panel.iter().enumerate() {
            let mut weights = [simd.splat(0.0); LINES];
            for (weight, line) in weights.iter_mut().zip(lines) {
                *weight = simd.load(&line.0);
            }
            for (row, sums) in rows.iter().zip(&mut sums) {
                let x = simd.splat(row[k]);
                for (sum, &weight) in sums.iter_mut().zip(&weights) {
                    *sum = simd.fma(x, weight, *sum);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            let (out, _) = self.out[row * self.columns..].as_chunks_mut::<LANES>();
            for (out, &sum) in out.iter_mut().zip(sums) {
                let sum = if self.add { simd.add(simd.load(out), sum) } else { sum };
                simd.store(sum, out);
            }
        }
    }
}
