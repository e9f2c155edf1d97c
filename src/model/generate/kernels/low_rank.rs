//! What a low-rank adapter adds to a product, a row at a time.

use super::simd::{Kernel, LANES, Line, Simd};

/// `out += s · B · (A · x)` for one row. Each element is a sum of its own, in an order that depends
/// on the adapter's shape alone.
#[derive(Debug)]
pub struct LowRank<'a> {
    /// As wide as the rows of `a`.
    pub x: &'a [f32],
    /// `(rank, x.len())`
    pub a: &'a [f32],
    /// `B` in panels of sixteen outputs, `(panels, rank)` lines.
    pub b: &'a [Line],
    /// `s`
    pub scale: f32,
    /// Working memory, `(rank)`.
    pub low: &'a mut [f32],
    /// `(panels × 16)`
    pub out: &'a mut [f32],
}

impl Kernel for LowRank<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, a, b, scale, low, out } = self;
        if low.is_empty() {
            return;
        }
        // Several sums side by side keep the multipliers busy.
        let (tiles, rest) = low.as_chunks_mut::<4>();
        let (wide, narrow) = a.split_at(tiles.len() * 4 * x.len());
        for (low, a) in tiles.iter_mut().zip(wide.chunks_exact(4 * x.len())) {
            *low = dots(simd, x, a, scale);
        }
        for (low, a) in rest.iter_mut().zip(narrow.chunks_exact(x.len())) {
            [*low] = dots(simd, x, a, scale);
        }
        let (out, _) = out.as_chunks_mut::<LANES>();
        let (tiles, rest) = out.as_chunks_mut::<4>();
        let (wide, narrow) = b.split_at(tiles.len() * 4 * low.len());
        for (out, b) in tiles.iter_mut().zip(wide.chunks_exact(4 * low.len())) {
            add(simd, low, b, out);
        }
        for (out, b) in rest.iter_mut().zip(narrow.chunks_exact(low.len())) {
            add(simd, low, b, std::array::from_mut(out));
        }
    }
}

/// The scaled products of `N` rows of `a` with `x`.
#[inline(always)]
fn dots<S: Simd, const N: usize>(simd: S, x: &[f32], a: &[f32], scale: f32) -> [f32; N] {
    let mut sums = [simd.splat(0.0); N];
    for start in (0..x.len()).step_by(LANES) {
        let part = start..x.len().min(start + LANES);
        let values = simd.load_part(&x[part.clone()]);
        for (sum, a) in sums.iter_mut().zip(a.chunks_exact(x.len())) {
            *sum = simd.fma(values, simd.load_part(&a[part.clone()]), *sum);
        }
    }
    let mut dots = [0.0; N];
    for (dot, sum) in dots.iter_mut().zip(sums) {
        *dot = scale * simd.sum(sum);
    }
    dots
}

/// Adds `N` panels of `b` times `low`.
#[inline(always)]
fn add<S: Simd, const N: usize>(simd: S, low: &[f32], b: &[Line], out: &mut [[f32; LANES]; N]) {
    let mut sums = [simd.splat(0.0); N];
    for (k, &low) in low.iter().enumerate() {
        let low = simd.splat(low);
        for (sum, panel) in sums.iter_mut().zip(b.chunks_exact(b.len() / N)) {
            *sum = simd.fma(low, simd.load(&panel[k].0), *sum);
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        simd.store(simd.add(simd.load(out), sum), out);
    }
}
