//! The output head in host memory.
//!
//! Logits exist for one block of rows and tokens at a time; backward recomputes each block.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::linear::{accumulate_weight, product};
use super::matmul::{MatmulOutput, Right, Transposed};
use super::simd::{dot, exp, fma, max, multiversion, sum};
use crate::model::batch::TokenScores;
use crate::model::ops::host;
use crate::model::ops::types::{Head, ScoreGradients};

/// Rows and tokens of the block of logits that exists at a time: 16 MiB.
const ROWS: usize = 1024;
const TOKENS: usize = 4096;

/// Scores, and the log-sum of each row's logits over temperature.
pub(crate) fn forward(head: &Head) -> Result<(TokenScores, Vec<f32>)> {
    let rows = head.targets.len();
    let mut scores =
        TokenScores { log_probs: Vec::with_capacity(rows), entropies: Vec::with_capacity(rows) };
    let mut log_sums = Vec::with_capacity(rows);
    let (vocab, width) = head.weight.dims2()?;
    let (hidden, weight) = (host::values(head.hidden)?, host::values(head.weight)?);
    let scale = 1.0 / head.temperature;
    let mut logits = vec![0.0; ROWS.min(rows) * TOKENS.min(vocab)];
    let mut sums = vec![Sums::NONE; rows];
    scores.log_probs.resize(rows, 0.0);
    for first in (0..vocab).step_by(TOKENS) {
        let tokens = TOKENS.min(vocab - first);
        let right = Transposed::new(&weight[first * width..], width, tokens, width);
        let states = sums.chunks_mut(ROWS).zip(scores.log_probs.chunks_mut(ROWS));
        for (index, (sums, log_probs)) in states.enumerate() {
            let (from, shape) = (index * ROWS, (sums.len(), tokens, width));
            let logits = &mut logits[..sums.len() * tokens];
            let target = MatmulOutput::write(logits, tokens);
            // SAFETY: the logits have that shape.
            unsafe {
                product(target, shape, &hidden[from * width..], Right::Transposed(&right), None);
            }
            logits
                .par_chunks_exact_mut(tokens)
                .zip(&head.targets[from..])
                .zip(sums.par_iter_mut().zip(log_probs))
                .for_each(|((row, &target), (sums, log_prob))| {
                    if let Some(logit) =
                        (target as usize).checked_sub(first).and_then(|at| row.get(at))
                    {
                        *log_prob = logit * scale;
                    }
                    *sums = sums.with(row_sums(row, scale));
                });
        }
    }
    for (log_prob, sums) in scores.log_probs.iter_mut().zip(sums) {
        let log_sum = sums.top + sums.total.ln();
        *log_prob -= log_sum;
        scores.entropies.push(log_sum - sums.top - sums.weighted / sums.total);
        log_sums.push(log_sum);
    }
    Ok((scores, log_sums))
}

/// The gradient of the hidden rows; adds that of the projection into `d_weight` unless it is
/// frozen.
pub(crate) fn backward(
    head: &Head,
    scores: &TokenScores,
    log_sums: &[f32],
    gradient: ScoreGradients,
    mut d_weight: Option<&mut Tensor>,
) -> Result<Tensor> {
    let rows = head.targets.len();
    let (vocab, width) = head.weight.dims2()?;
    let (hidden, weight) = (host::values(head.hidden)?, host::values(head.weight)?);
    let mut logits = vec![0.0; ROWS.min(rows) * TOKENS.min(vocab)];
    let mut d_hidden = vec![0.0; rows * width];
    for first in (0..vocab).step_by(TOKENS) {
        let tokens = TOKENS.min(vocab - first);
        let block = &weight[first * width..(first + tokens) * width];
        let packed = Transposed::new(block, width, tokens, width);
        for (index, d_hidden) in d_hidden.chunks_mut(ROWS * width).enumerate() {
            let (from, count) = (index * ROWS, d_hidden.len() / width);
            let hidden = &hidden[from * width..(from + count) * width];
            let logits = &mut logits[..count * tokens];
            let (shape, right) = ((count, tokens, width), Right::Transposed(&packed));
            // SAFETY: the logits have that shape.
            unsafe { product(MatmulOutput::write(logits, tokens), shape, hidden, right, None) };
            logits.par_chunks_exact_mut(tokens).enumerate().for_each(|(i, row)| {
                let at = from + i;
                let row_gradient = RowGradient {
                    log_prob: gradient.log_probs[at],
                    entropy: gradient.entropies.map_or(0.0, |all| all[at]),
                    entropy_value: scores.entropies[at],
                    log_sum: log_sums[at],
                };
                logit_gradients(row, 1.0 / head.temperature, row_gradient);
                let target = (head.targets[at] as usize).checked_sub(first);
                if let Some(logit) = target.and_then(|target| row.get_mut(target)) {
                    *logit += row_gradient.log_prob / head.temperature;
                }
            });
            let right = Right::Rows { values: block, stride: width };
            let shape = (count, width, tokens);
            // SAFETY: the rows have that shape.
            unsafe { product(MatmulOutput::add(d_hidden, width), shape, logits, right, None) };
            if let Some(d_weight) = d_weight.as_deref_mut() {
                host::update(d_weight, |d_weight| {
                    let d_weight = &mut d_weight[first * width..(first + tokens) * width];
                    accumulate_weight(d_weight, (count, tokens, width), logits, hidden);
                })?;
            }
        }
    }
    host::tensor(d_hidden, (rows, width))
}

/// Running sums over the tokens of a row seen so far, with `z` the logits over temperature.
#[derive(Debug, Clone, Copy)]
struct Sums {
    /// The largest `z`.
    top: f32,
    /// `Σ e^(z − top)`
    total: f32,
    /// `Σ e^(z − top)·(z − top)`
    weighted: f32,
}

impl Sums {
    const NONE: Self = Self { top: f32::NEG_INFINITY, total: 0.0, weighted: 0.0 };

    /// Both together.
    fn with(self, other: Self) -> Self {
        if self.total == 0.0 {
            return other;
        }
        let top = self.top.max(other.top);
        let moved = |part: Self| {
            let shift = part.top - top;
            let factor = shift.exp();
            (factor * part.total, factor * (part.weighted + shift * part.total))
        };
        let (a, b) = (moved(self), moved(other));
        Self { top, total: a.0 + b.0, weighted: a.1 + b.1 }
    }
}

/// Gradients and values of one row's scores.
#[derive(Clone, Copy)]
struct RowGradient {
    log_prob: f32,
    entropy: f32,
    entropy_value: f32,
    log_sum: f32,
}

multiversion! {
    /// The sums over one row of logits, which it overwrites.
    fn row_sums(row: &mut [f32], scale: f32) -> Sums {
        let top = max(row) * scale;
        let (mut total, mut weighted) = (0.0, 0.0);
        let mut exponentials = [0f32; 256];
        for block in row.chunks_mut(256) {
            let exponentials = &mut exponentials[..block.len()];
            for (value, e) in block.iter_mut().zip(exponentials.iter_mut()) {
                *value = fma::<FMA>(*value, scale, -top);
                *e = exp::<FMA>(*value);
            }
            total += sum(exponentials);
            weighted += dot::<FMA>(exponentials, block);
        }
        Sums { top, total, weighted }
    }
}

multiversion! {
    // d ln p_t / dz_j = δ_tj − p_j, and dH / dz_j = −p_j·(ln p_j + H). The caller adds the δ.
    fn logit_gradients(row: &mut [f32], scale: f32, gradient: RowGradient) {
        let RowGradient { log_prob, entropy, entropy_value, log_sum } = gradient;
        for value in row {
            let ln_p = fma::<FMA>(*value, scale, -log_sum);
            let pull = fma::<FMA>(entropy, ln_p + entropy_value, log_prob);
            *value = -exp::<FMA>(ln_p) * pull * scale;
        }
    }
}
