//! The output head: log-probabilities of given targets and entropies, without keeping logits.
//!
//! Rows are projected onto the vocabulary a chunk at a time; backward projects each chunk again.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::linear::{accumulate_weight, product};
use super::matmul::{Right, Target, Transposed};
use super::simd::{dot, exp, fma, max, multiversion, sum};
use super::{host, portable};
use crate::model::batch::TokenScores;

/// Most bytes of logits that exist at a time.
const MOST_BYTES: usize = 64 << 20;
/// Bytes of logits that a small vocabulary's chunks aim at: within the last cache.
const AIM_BYTES: usize = 4 << 20;

/// Rows of a chunk.
pub(super) fn chunk_rows(vocab: usize) -> usize {
    let fit = |bytes: usize| bytes / (4 * vocab.max(1));
    fit(AIM_BYTES).max(64).min(fit(MOST_BYTES).max(1))
}

/// What forward and backward both read.
pub(crate) struct Head<'a> {
    /// Selected rows after the last norm, `(rows, width)`.
    pub hidden: &'a Tensor,
    /// `(vocab, width)`
    pub weight: &'a Tensor,
    /// One token for each row.
    pub targets: &'a [u32],
    /// Logits are divided by it.
    pub temperature: f32,
}

/// Gradients of the scores, one for each row.
#[derive(Clone, Copy)]
pub(crate) struct ScoreGradients<'a> {
    pub log_probs: &'a [f32],
    pub entropies: Option<&'a [f32]>,
}

/// Scores, and the log-sum of each row's logits over temperature.
pub(crate) fn forward(head: &Head) -> Result<(TokenScores, Vec<f32>)> {
    let rows = head.targets.len();
    let mut scores =
        TokenScores { log_probs: Vec::with_capacity(rows), entropies: Vec::with_capacity(rows) };
    let mut log_sums = Vec::with_capacity(rows);
    if !host::is_host(head.hidden) {
        portable::head(head, &mut scores)?;
        return Ok((scores, log_sums));
    }
    let (vocab, width) = head.weight.dims2()?;
    let (hidden, weight) = (host::values(head.hidden)?, host::values(head.weight)?);
    let right = Transposed::new(&weight, width, vocab, width);
    let chunk = chunk_rows(vocab);
    let mut logits = vec![0.0; chunk.min(rows) * vocab];
    for (hidden, targets) in hidden.chunks(chunk * width).zip(head.targets.chunks(chunk)) {
        let logits = &mut logits[..targets.len() * vocab];
        let shape = (targets.len(), vocab, width);
        // Safety: the logits have that shape.
        unsafe {
            product(Target::write(logits, vocab), shape, hidden, Right::Transposed(&right), None);
        }
        let rows: Vec<[f32; 3]> = logits
            .par_chunks_exact_mut(vocab)
            .zip(targets)
            .map(|(row, &target)| {
                let value = row[target as usize] / head.temperature;
                let [log_sum, mean] = log_sum_and_mean(row, 1.0 / head.temperature);
                [value - log_sum, log_sum - mean, log_sum]
            })
            .collect();
        for [log_prob, entropy, log_sum] in rows {
            scores.log_probs.push(log_prob);
            scores.entropies.push(entropy);
            log_sums.push(log_sum);
        }
    }
    Ok((scores, log_sums))
}

/// The gradient of the hidden rows; adds that of the projection into `d_weight` unless it is frozen.
pub(crate) fn backward(
    head: &Head,
    scores: &TokenScores,
    log_sums: &[f32],
    gradient: ScoreGradients,
    mut d_weight: Option<&mut Tensor>,
) -> Result<Tensor> {
    if !host::is_host(head.hidden) {
        return portable::head_backward(head, gradient, d_weight);
    }
    let rows = head.targets.len();
    let (vocab, width) = head.weight.dims2()?;
    let (hidden, weight) = (host::values(head.hidden)?, host::values(head.weight)?);
    let packed = Transposed::new(&weight, width, vocab, width);
    let chunk = chunk_rows(vocab);
    let mut logits = vec![0.0; chunk.min(rows) * vocab];
    let mut d_hidden = vec![0.0; rows * width];
    for (index, d_hidden) in d_hidden.chunks_mut(chunk * width).enumerate() {
        let first = index * chunk;
        let hidden = &hidden[first * width..first * width + d_hidden.len()];
        let count = d_hidden.len() / width;
        let logits = &mut logits[..count * vocab];
        let (shape, right) = ((count, vocab, width), Right::Transposed(&packed));
        // Safety: the logits have that shape.
        unsafe { product(Target::write(logits, vocab), shape, hidden, right, None) };
        logits.par_chunks_exact_mut(vocab).enumerate().for_each(|(i, row)| {
            let row_gradient = RowGradient {
                log_prob: gradient.log_probs[first + i],
                entropy: gradient.entropies.map_or(0.0, |all| all[first + i]),
                entropy_value: scores.entropies[first + i],
                log_sum: log_sums[first + i],
            };
            logit_gradients(row, 1.0 / head.temperature, row_gradient);
            row[head.targets[first + i] as usize] += row_gradient.log_prob / head.temperature;
        });
        let right = Right::Rows { values: &weight, stride: width };
        // Safety: the chunk of hidden rows has that shape.
        unsafe {
            let shape = (count, width, vocab);
            product(Target::write(d_hidden, width), shape, logits, right, None);
        }
        if let Some(d_weight) = d_weight.as_deref_mut() {
            let shape = (count, vocab, width);
            host::update(d_weight, |d_weight| accumulate_weight(d_weight, shape, logits, hidden))?;
        }
    }
    host::tensor(d_hidden, (rows, width))
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
    /// `ln Σ eᶻ` and `Σ p·z` for `z = row × scale`. Overwrites the row.
    fn log_sum_and_mean(row: &mut [f32], scale: f32) -> [f32; 2] {
        let top = max(row) * scale;
        // With z − top kept apart from its exponential, the mean needs no second buffer: Σ e·(z − top)
        // is summed a block at a time.
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
        [top + total.ln(), top + weighted / total]
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
