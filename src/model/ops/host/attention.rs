//! Causal attention in host memory.
//!
//! A task is one head of one branch, or in the backward pass of one tree, whose branches add to the
//! same keys. It goes through blocks of query rows, so that a buffer holds one block's scores and
//! never all of them. Backward recomputes the probabilities from the stored log-sums.

use std::borrow::Cow;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::matmul::{Left, MatmulOutput, Right, Transposed, multiply};
use super::simd::{add, dot, exp, fma, max, multiversion, sum};
use crate::model::batch::Branch;
use crate::model::ops::host;
use crate::model::ops::types::{Attended, AttentionGradient, AttentionInputs, Layout};

/// Query rows of a block.
const BLOCK: usize = 32;

/// Attends.
pub(crate) fn forward(inputs: &AttentionInputs, layout: &Layout) -> Result<Attended> {
    let rows = inputs.q.dim(0)?;
    let (q, k, v) = (host::values(inputs.q)?, host::values(inputs.k)?, host::values(inputs.v)?);
    let (d, group) = (layout.head_dim, layout.group());
    let (wide, narrow) = (layout.heads * d, layout.kv_heads * d);
    let mut y = Vec::with_capacity(rows * wide);
    let mut log_sums = vec![0.0; rows * layout.heads];
    let (y_target, sums_target) = (
        MatmulOutput::fill(y.spare_capacity_mut(), wide),
        MatmulOutput::write(&mut log_sums, layout.heads),
    );
    let (q, k, v) = (&q[..], &k[..], &v[..]);
    let tasks: Vec<(&Branch, usize)> = layout
        .branches()
        .flat_map(|branch| (0..layout.heads).map(move |head| (branch, head)))
        .collect();
    tasks.into_par_iter().for_each(|(branch, head)| {
        let (first, past, length) = (branch.own().start, branch.past(), branch.len());
        let kv = (narrow, head / group * d, d);
        let (keys, key_stride) = along(branch, k, kv);
        let (values, value_stride) = along(branch, v, kv);
        let keys = Transposed::new(&keys, key_stride, length, d);
        let mut scores = vec![0.0; BLOCK.min(length - past) * length];
        for start in (past..length).step_by(BLOCK) {
            let end = length.min(start + BLOCK);
            let row = first + start - past;
            let shape = (end - start, end, d);
            let left = Left::rows(&q[row * wide + head * d..], wide);
            let mut sums = [0f32; BLOCK];
            // SAFETY: `scores` is this task's own; of `y` and the log-sums a task touches only its
            // own head's columns in its own branch's rows.
            unsafe {
                multiply(
                    shape,
                    left,
                    Right::Transposed(&keys),
                    MatmulOutput::write(&mut scores, end),
                );
                let seen = (start, inputs.window.unwrap_or(length));
                softmax(&mut scores, end, seen, layout.scale, &mut sums[..end - start]);
                let values = Right::Rows { values: &values, stride: value_stride };
                let target = y_target.skip(row * wide + head * d);
                multiply((end - start, d, end), Left::rows(&scores, end), values, target);
                for (i, log_sum) in sums[..end - start].iter().enumerate() {
                    *sums_target.skip((row + i) * layout.heads + head).values = *log_sum;
                }
            }
        }
    });
    // SAFETY: every head of every row was written.
    unsafe { y.set_len(rows * wide) };
    Ok(Attended {
        y: host::tensor(y, (rows, wide))?,
        log_sums: Some(host::tensor(log_sums, (rows, layout.heads))?),
    })
}

/// One head's columns of `x` for the rows on the path of `branch`, and how far apart these are.
/// `kv`: the width of a row of `x`, where the head begins in it, and the head's width.
fn along<'a>(branch: &Branch, x: &'a [f32], kv: (usize, usize, usize)) -> (Cow<'a, [f32]>, usize) {
    let (stride, at, d) = kv;
    if let [rows] = &branch.path[..] {
        return (Cow::Borrowed(&x[rows.start * stride + at..]), stride);
    }
    let mut gathered = Vec::with_capacity(branch.len() * d);
    for row in branch.path.iter().cloned().flatten() {
        gathered.extend_from_slice(&x[row * stride + at..][..d]);
    }
    (Cow::Owned(gathered), d)
}

/// Gradients for `d_y`.
pub(crate) fn backward(
    inputs: &AttentionInputs,
    layout: &Layout,
    output: &Attended,
    log_sums: &Tensor,
    d_y: &Tensor,
) -> Result<AttentionGradient> {
    let rows = inputs.q.dim(0)?;
    let (q, k, v) = (host::values(inputs.q)?, host::values(inputs.k)?, host::values(inputs.v)?);
    let (y, log_sums, d_y) =
        (host::values(&output.y)?, host::values(log_sums)?, host::values(d_y)?);
    let (wide, narrow) = (layout.heads * layout.head_dim, layout.kv_heads * layout.head_dim);
    let mut d_q = Vec::with_capacity(rows * wide);
    let (mut d_k, mut d_v) = (vec![0.0; rows * narrow], vec![0.0; rows * narrow]);
    let task = Task {
        layout,
        window: inputs.window,
        q: &q,
        k: &k,
        v: &v,
        y: &y,
        log_sums: &log_sums,
        d_y: &d_y,
        d_q: MatmulOutput::fill(d_q.spare_capacity_mut(), wide),
        d_k: MatmulOutput::add(&mut d_k, narrow),
        d_v: MatmulOutput::add(&mut d_v, narrow),
    };
    let tasks: Vec<(&[Branch], usize)> = layout
        .trees
        .iter()
        .flat_map(|tree| (0..layout.kv_heads).map(move |kv_head| (&tree[..], kv_head)))
        .collect();
    tasks.into_par_iter().for_each(|(tree, kv_head)| {
        tree.iter().for_each(|branch| task.run(branch, kv_head));
    });
    // SAFETY: every head of every row was written.
    unsafe { d_q.set_len(rows * wide) };
    Ok(AttentionGradient {
        d_q: host::tensor(d_q, (rows, wide))?,
        d_k: host::tensor(d_k, (rows, narrow))?,
        d_v: host::tensor(d_v, (rows, narrow))?,
    })
}

/// Data that the backward tasks share.
struct Task<'a> {
    layout: &'a Layout,
    window: Option<usize>,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    y: &'a [f32],
    log_sums: &'a [f32],
    d_y: &'a [f32],
    d_q: MatmulOutput,
    d_k: MatmulOutput,
    d_v: MatmulOutput,
}

impl Task<'_> {
    /// One key-value head of one branch, with all query heads that share it.
    fn run(&self, branch: &Branch, kv_head: usize) {
        let (d, heads, group) = (self.layout.head_dim, self.layout.heads, self.layout.group());
        let (wide, narrow) = (heads * d, self.layout.kv_heads * d);
        let scale = self.layout.scale;
        let (first, past, length) = (branch.own().start, branch.past(), branch.len());
        let kv = (narrow, kv_head * d, d);
        let (k, k_stride) = along(branch, self.k, kv);
        let (v, v_stride) = along(branch, self.v, kv);
        let keys = Transposed::new(&k, k_stride, length, d);
        let values = Transposed::new(&v, v_stride, length, d);
        // Rows of other branches are elsewhere: their part is computed here and added there.
        let mut apart = vec![0.0; if past > 0 { 2 * length * d } else { 0 }];
        let (d_k, d_v) = if past > 0 {
            let (d_k, d_v) = apart.split_at_mut(length * d);
            (MatmulOutput::add(d_k, d), MatmulOutput::add(d_v, d))
        } else {
            let at = first * narrow + kv_head * d;
            // SAFETY: the branch's own rows are there.
            unsafe { (self.d_k.skip(at), self.d_v.skip(at)) }
        };
        let mut probabilities = vec![0.0; BLOCK.min(length - past) * length];
        let mut d_scores = vec![0.0; BLOCK.min(length - past) * length];
        for head in kv_head * group..(kv_head + 1) * group {
            for start in (past..length).step_by(BLOCK) {
                let end = length.min(start + BLOCK);
                let (row, count) = (first + start - past, end - start);
                let at = row * wide + head * d;
                let (q, d_y) = (Left::rows(&self.q[at..], wide), Left::rows(&self.d_y[at..], wide));
                let (p, ds) = (&mut probabilities[..count * end], &mut d_scores[..count * end]);
                let mut sums = [0f32; BLOCK];
                for (i, log_sum) in sums[..count].iter_mut().enumerate() {
                    *log_sum = self.log_sums[(row + i) * heads + head];
                }
                // SAFETY: the buffers are this task's own; of the gradients a task touches only its
                // own heads' columns in its own tree's rows.
                unsafe {
                    multiply(
                        (count, end, d),
                        q,
                        Right::Transposed(&keys),
                        MatmulOutput::write(p, end),
                    );
                    multiply(
                        (count, end, d),
                        d_y,
                        Right::Transposed(&values),
                        MatmulOutput::write(ds, end),
                    );
                    score_gradients(
                        p,
                        ds,
                        end,
                        (start, self.window.unwrap_or(length)),
                        scale,
                        &sums[..count],
                        &self.y[at..],
                        &self.d_y[at..],
                        (wide, d),
                    );
                    let keys = Right::Rows { values: &k, stride: k_stride };
                    multiply((count, d, end), Left::rows(ds, end), keys, self.d_q.skip(at));
                    let queries = Right::Rows { values: &self.q[at..], stride: wide };
                    multiply((end, d, count), Left::columns(ds, end), queries, d_k);
                    let outputs = Right::Rows { values: &self.d_y[at..], stride: wide };
                    multiply((end, d, count), Left::columns(p, end), outputs, d_v);
                }
            }
        }
        let (d_k, d_v) = apart.split_at(apart.len() / 2);
        let rows = branch.path.iter().cloned().flatten();
        for ((row, d_k), d_v) in rows.zip(d_k.chunks_exact(d)).zip(d_v.chunks_exact(d)) {
            let at = row * narrow + kv_head * d;
            // SAFETY: a row's head is there, and only this task touches it.
            unsafe {
                add(std::slice::from_raw_parts_mut(self.d_k.skip(at).values, d), d_k);
                add(std::slice::from_raw_parts_mut(self.d_v.skip(at).values, d), d_v);
            }
        }
    }
}

multiversion! {
    /// Turns a block of products into probabilities. `seen` is the position of the first row and
    /// the window: row `i` attends to the values up to its position, at most as many as the window.
    /// `log_sums` gets the log of its sum of exponentials.
    fn softmax(scores: &mut [f32], width: usize, seen: (usize, usize), scale: f32, log_sums: &mut [f32]) {
        for (i, (row, log_sum)) in scores.chunks_exact_mut(width).zip(log_sums).enumerate() {
            let end = seen.0 + i + 1;
            let first = end.saturating_sub(seen.1);
            row[..first].fill(0.0);
            row[end..].fill(0.0);
            let seen = &mut row[first..end];
            let top = max(seen) * scale;
            for value in seen.iter_mut() {
                *value = exp::<FMA>(fma::<FMA>(*value, scale, -top));
            }
            let total = sum(seen);
            let inverse = 1.0 / total;
            for value in seen {
                *value *= inverse;
            }
            *log_sum = top + total.ln();
        }
    }
}

multiversion! {
    /// Products in `p` become probabilities, and products `dY·Vᵀ` in `ds` the gradient of the
    /// unscaled scores: `p·(ds − Σ dY·Y)·scale`.
    fn score_gradients(
        p: &mut [f32], ds: &mut [f32], width: usize, seen: (usize, usize), scale: f32, log_sums: &[f32],
        y: &[f32], d_y: &[f32], heads: (usize, usize),
    ) {
        let (stride, head_dim) = heads;
        let rows = p.chunks_exact_mut(width).zip(ds.chunks_exact_mut(width));
        for (i, ((p, ds), log_sum)) in rows.zip(log_sums).enumerate() {
            let at = i * stride..i * stride + head_dim;
            let mean = dot::<FMA>(&y[at.clone()], &d_y[at]);
            let end = seen.0 + i + 1;
            let first = end.saturating_sub(seen.1);
            for values in [&mut *p, &mut *ds] {
                values[..first].fill(0.0);
                values[end..].fill(0.0);
            }
            for (p, ds) in p[first..end].iter_mut().zip(&mut ds[first..end]) {
                *p = exp::<FMA>(fma::<FMA>(*p, scale, -log_sum));
                *ds = *p * (*ds - mean) * scale;
            }
        }
    }
}
