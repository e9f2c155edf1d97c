//! Matrix products on slices: a register-tiled kernel for AVX-512, the `gemm` crate elsewhere.
//!
//! One call is one thread's work; the operations split rows between threads.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::simd::{Level, level};

/// Columns of a tile: two AVX-512 registers.
const WIDTH: usize = 32;
/// Rows of a tile: with two registers of columns each, 28 sums stay in registers.
#[cfg(target_arch = "x86_64")]
const HEIGHT: usize = 14;
/// Terms summed before moving on: a strip of the right operand, 32 columns wide, stays in L1.
#[cfg(target_arch = "x86_64")]
const DEPTH: usize = 512;

/// Values from which on threads share the packing of a transposed operand.
const PARALLEL_PACKING: usize = 1 << 14;

/// The left operand: element `(i, j)` is at `i × row + j × column`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub values: &'a [f32],
    pub row: usize,
    pub column: usize,
}

impl<'a> Left<'a> {
    /// Rows one after another, `stride` apart.
    pub fn rows(values: &'a [f32], stride: usize) -> Self {
        Self { values, row: stride, column: 1 }
    }

    /// The transpose of rows that are `stride` apart.
    pub fn columns(values: &'a [f32], stride: usize) -> Self {
        Self { values, row: 1, column: stride }
    }

    fn check(&self, m: usize, k: usize) {
        assert!((m - 1) * self.row + (k - 1) * self.column < self.values.len());
    }
}

/// The right operand.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// `(k, n)`, rows `stride` apart.
    Rows { values: &'a [f32], stride: usize },
    /// `(n, k)`, to be read transposed.
    Transposed(&'a Transposed<'a>),
}

/// A right operand given transposed, `(n, k)`, laid out for the kernel once and used many times.
pub(crate) struct Transposed<'a> {
    source: &'a [f32],
    stride: usize,
    n: usize,
    k: usize,
    /// Strips of 32 columns, each `(k, 32)`. Empty when the kernel is not used.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "for AVX-512"))]
    strips: Vec<f32>,
}

impl<'a> Transposed<'a> {
    /// `source` holds `n` rows of `k`, `stride` apart.
    pub fn new(source: &'a [f32], stride: usize, n: usize, k: usize) -> Self {
        assert!(n > 0 && k > 0 && (n - 1) * stride + k <= source.len());
        let mut strips = Vec::new();
        if level() == Level::Avx512 {
            strips = vec![0.0; n.div_ceil(WIDTH) * WIDTH * k];
            let pack = |(index, strip): (usize, &mut [f32])| {
                let first = index * WIDTH;
                // A few terms of all columns at a time: what is written stays in L1.
                for (block, terms) in strip.chunks_mut(16 * WIDTH).enumerate() {
                    for (column, j) in (first..n.min(first + WIDTH)).enumerate() {
                        let row = &source[j * stride + block * 16..j * stride + k];
                        for (out, value) in terms[column..].iter_mut().step_by(WIDTH).zip(row) {
                            *out = *value;
                        }
                    }
                }
            };
            if n * k < PARALLEL_PACKING {
                strips.chunks_exact_mut(WIDTH * k).enumerate().for_each(pack);
            } else {
                strips.par_chunks_exact_mut(WIDTH * k).enumerate().for_each(pack);
            }
        }
        Self { source, stride, n, k, strips }
    }
}

/// The result: `m` rows, `stride` apart, each `n` wide. A pointer, since tasks write disjoint
/// columns of the same rows.
#[derive(Clone, Copy)]
pub(crate) struct MatmulOutput {
    pub values: *mut f32,
    pub stride: usize,
    /// Add to the present values, or overwrite them.
    pub add: bool,
}

// SAFETY: a pointer to f32. The functions that write through it are unsafe, and require of their
// callers that no two threads write to one place.
unsafe impl Send for MatmulOutput {}
// SAFETY: as for `Send`.
unsafe impl Sync for MatmulOutput {}

impl MatmulOutput {
    /// Overwrites `values`.
    pub fn write(values: &mut [f32], stride: usize) -> Self {
        Self { values: values.as_mut_ptr(), stride, add: false }
    }

    /// Overwrites `values`, which need not be initialised.
    pub fn fill(values: &mut [MaybeUninit<f32>], stride: usize) -> Self {
        Self { values: values.as_mut_ptr().cast(), stride, add: false }
    }

    /// Adds to `values`.
    pub fn add(values: &mut [f32], stride: usize) -> Self {
        Self { add: true, ..Self::write(values, stride) }
    }

    /// The same rows from `offset` values further on.
    ///
    /// # Safety
    /// `offset` stays within the allocation.
    pub unsafe fn skip(self, offset: usize) -> Self {
        // SAFETY: the caller keeps `offset` within the allocation.
        Self { values: unsafe { self.values.add(offset) }, ..self }
    }
}

/// `target (+)= left · right`, with `m` rows, `n` columns and `k` terms a sum.
///
/// # Safety
/// `target` must be valid for `m` rows of `n`, and not be accessed by others meanwhile.
pub(crate) unsafe fn multiply(
    (m, n, k): (usize, usize, usize),
    left: Left,
    right: Right,
    target: MatmulOutput,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(k > 0);
    left.check(m, k);
    match right {
        Right::Rows { values, stride } => assert!((k - 1) * stride + n <= values.len()),
        Right::Transposed(right) => assert!(n <= right.n && k == right.k),
    }
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        let (values, row, strip) = match right {
            Right::Rows { values, stride } => (values.as_ptr(), stride, WIDTH),
            Right::Transposed(right) => (right.strips.as_ptr(), WIDTH, WIDTH * k),
        };
        let mut start = 0;
        while start < k {
            let depth = (k - start).min(DEPTH);
            let tiles = avx512::Tiles {
                // SAFETY: `start` is below `k`, and `k` columns were checked above.
                left: unsafe { left.values.as_ptr().add(start * left.column) },
                left_row: left.row,
                left_column: left.column,
                // SAFETY: likewise, of `k` rows.
                right: unsafe { values.add(start * row) },
                right_row: row,
                right_strip: strip,
                target: MatmulOutput { add: target.add || start > 0, ..target },
            };
            // SAFETY: the CPU has AVX-512; the operands were checked above.
            unsafe { avx512::product(m, n, depth, &tiles) };
            start += depth;
        }
        return;
    }
    let (values, row, column) = match right {
        Right::Rows { values, stride } => (values.as_ptr(), stride, 1),
        Right::Transposed(right) => (right.source.as_ptr(), 1, right.stride),
    };
    // SAFETY: the operands were checked above; the caller guarantees the target.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            target.values,
            1,
            target.stride as isize,
            target.add,
            left.values.as_ptr(),
            left.column as isize,
            left.row as isize,
            values,
            column as isize,
            row as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{HEIGHT, MatmulOutput, WIDTH};

    /// Operands by pointer; strides in values.
    pub(super) struct Tiles {
        pub left: *const f32,
        pub left_row: usize,
        pub left_column: usize,
        pub right: *const f32,
        pub right_row: usize,
        /// From one strip of 32 columns to the next.
        pub right_strip: usize,
        pub target: MatmulOutput,
    }

    /// From this stride on, rows fall on too few sets of the caches: strips are copied first.
    const WIDE: usize = 512;

    /// # Safety
    /// The CPU has AVX-512F; pointers are valid for the product's extent.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn product(m: usize, n: usize, k: usize, tiles: &Tiles) {
        let rows = m.div_ceil(HEIGHT);
        let copies = tiles.right_row >= WIDE && rows >= 4;
        let mut copy = vec![0f32; if copies { k * WIDTH } else { 0 }];
        for strip in 0..n.div_ceil(WIDTH) {
            let columns = (n - strip * WIDTH).min(WIDTH);
            let (mut right, mut right_row) =
                (tiles.right.wrapping_add(strip * tiles.right_strip), tiles.right_row);
            if copies {
                for (row, copy) in copy.chunks_exact_mut(WIDTH).enumerate() {
                    // SAFETY: a row of this strip, within the extent that the caller guarantees.
                    unsafe {
                        let from = right.add(row * right_row);
                        std::ptr::copy_nonoverlapping(from, copy.as_mut_ptr(), columns);
                    }
                }
                (right, right_row) = (copy.as_ptr(), WIDTH);
            }
            for tile in 0..rows {
                // Rows are split evenly, so that no tile has a single row.
                let (start, end) = (m * tile / rows, m * (tile + 1) / rows);
                // SAFETY: within the extent that the caller guarantees.
                unsafe {
                    let part = Tiles {
                        left: tiles.left.add(start * tiles.left_row),
                        right,
                        right_row,
                        target: tiles.target.skip(start * tiles.target.stride + strip * WIDTH),
                        ..*tiles
                    };
                    macro_rules! by_height {
                        ($($height:literal)*) => {
                            match end - start {
                                $($height => one::<$height>(k, columns, &part),)*
                                _ => {}
                            }
                        };
                    }
                    by_height!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
                }
            }
        }
    }

    /// One tile of `M` rows and at most 32 columns.
    ///
    /// # Safety
    /// As for [`product`].
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn one<const M: usize>(k: usize, columns: usize, tiles: &Tiles) {
        let mask = |from: usize| -> __mmask16 {
            let count = columns.saturating_sub(from).min(16);
            ((1u32 << count) - 1) as u16
        };
        let (mask0, mask1) = (mask(0), mask(16));
        let mut sums = [[_mm512_setzero_ps(); 2]; M];
        let (mut left, mut right) = (tiles.left, tiles.right);
        // SAFETY: within the caller's extent; masked lanes are not touched in memory.
        unsafe {
            macro_rules! accumulate {
                ($first:expr, $second:expr) => {
                    for _ in 0..k {
                        let (first, second) = ($first, $second);
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let value = _mm512_set1_ps(*left.add(row * tiles.left_row));
                            sums[0] = _mm512_fmadd_ps(value, first, sums[0]);
                            sums[1] = _mm512_fmadd_ps(value, second, sums[1]);
                        }
                        left = left.wrapping_add(tiles.left_column);
                        right = right.wrapping_add(tiles.right_row);
                    }
                };
            }
            if columns == WIDTH {
                accumulate!(_mm512_loadu_ps(right), _mm512_loadu_ps(right.add(16)));
            } else {
                accumulate!(
                    _mm512_maskz_loadu_ps(mask0, right),
                    _mm512_maskz_loadu_ps(mask1, right.wrapping_add(16))
                );
            }
            for (row, [mut first, mut second]) in sums.into_iter().enumerate() {
                let target = tiles.target.values.add(row * tiles.target.stride);
                let next = target.wrapping_add(16);
                if tiles.target.add {
                    first = _mm512_add_ps(first, _mm512_maskz_loadu_ps(mask0, target));
                    second = _mm512_add_ps(second, _mm512_maskz_loadu_ps(mask1, next));
                }
                _mm512_mask_storeu_ps(target, mask0, first);
                _mm512_mask_storeu_ps(next, mask1, second);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 % 1013) as f32 - 506.0) / 506.0).collect()
    }

    #[test]
    fn agrees_with_three_loops() {
        for (m, n, k) in [
            (1, 1, 1),
            (3, 5, 2),
            (14, 32, 16),
            (15, 33, 7),
            (29, 64, 300),
            (40, 17, 513),
            (2, 16, 9),
        ] {
            let (a, b) = (values(m * k), values(k * n));
            let mut expected = vec![0.0f64; m * n];
            for i in 0..m {
                for j in 0..n {
                    for t in 0..k {
                        expected[i * n + j] += f64::from(a[i * k + t]) * f64::from(b[t * n + j]);
                    }
                }
            }
            let a_t: Vec<f32> = (0..k * m).map(|i| a[i % m * k + i / m]).collect();
            let b_t: Vec<f32> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
            let packed = Transposed::new(&b_t, k, n, k);
            for left in [Left::rows(&a, k), Left::columns(&a_t, m)] {
                for right in [Right::Rows { values: &b, stride: n }, Right::Transposed(&packed)] {
                    // Rows further apart than their width: the values between them must not change.
                    let stride = n + 3;
                    let mut out = vec![1.0f32; m * stride];
                    // SAFETY: `out` holds `m` rows of `stride`, at least `n`.
                    unsafe {
                        multiply((m, n, k), left, right, MatmulOutput::add(&mut out, stride))
                    };
                    for (index, value) in out.iter().enumerate() {
                        let (i, j) = (index / stride, index % stride);
                        let exact = 1.0 + if j < n { expected[i * n + j] } else { 0.0 };
                        assert!((f64::from(*value) - exact).abs() < 2e-4, "{m} {n} {k} at {i},{j}");
                    }
                    // SAFETY: as above.
                    unsafe {
                        multiply((m, n, k), left, right, MatmulOutput::write(&mut out, stride))
                    };
                    assert!((f64::from(out[0]) - expected[0]).abs() < 1e-4);
                }
            }
        }
    }
}
