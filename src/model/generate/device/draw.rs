//! Draws tokens from logits on a device.
//!
//! Copying all logits of a large vocabulary to the host takes longer than computing them. When the
//! whole distribution is sampled, the sums of blocks of tokens are copied first, and then only the
//! block that was drawn.

use candle_core::{D, DType, Device, Result, Tensor};
use half::bf16;
use rayon::prelude::*;

use crate::model::generate::decode::Draw;
use crate::model::generate::sampler;
use crate::model::ops::composed::softmax;
use crate::trajectory::SampledToken;

/// Tokens of a block.
const BLOCK: usize = 256;

/// Draws from each row of `logits` `(rows, vocab)`. `scratch` is reused between calls.
pub(super) fn draw(
    logits: &Tensor,
    scratch: &mut Vec<f32>,
    draws: &mut [Draw<'_>],
) -> Result<Vec<SampledToken>> {
    let is_whole = |draw: &Draw<'_>| draw.sampling.top_p >= 1.0 && draw.sampling.top_k.is_none();
    if draws.iter().all(|draw| is_greedy(draw) || is_whole(draw)) {
        return draw_by_block(logits, draws);
    }
    let (_, vocab) = logits.dims2()?;
    copy_to_host(logits, scratch)?;
    let rows = scratch.par_chunks_exact_mut(vocab).zip(draws);
    Ok(rows.map(|(row, draw)| sampler::sample(row, &draw.sampling, draw.rng)).collect())
}

fn is_greedy(draw: &Draw<'_>) -> bool {
    draw.sampling.temperature <= 0.0
}

/// The same as [`sampler::sample`], which goes through all tokens, up to rounding.
fn draw_by_block(logits: &Tensor, draws: &mut [Draw<'_>]) -> Result<Vec<SampledToken>> {
    let (rows, vocab) = logits.dims2()?;
    let device = logits.device();
    let temperature = |draw: &Draw<'_>| match is_greedy(draw) {
        true => 1.0,
        false => draw.sampling.temperature,
    };
    let temperatures: Vec<f32> = draws.iter().map(temperature).collect();
    let temperatures = Tensor::from_vec(temperatures, (rows, 1), device)?;
    let z = logits.to_dtype(DType::F32)?.broadcast_div(&temperatures)?;
    let best = match draws.iter().any(is_greedy) {
        true => z.argmax(D::Minus1)?.to_vec1::<u32>()?,
        false => Vec::new(),
    };
    let blocks = vocab.div_ceil(BLOCK);
    let weights = softmax(&z)?
        .pad_with_zeros(1, 0, blocks * BLOCK - vocab)?
        .reshape((rows * blocks, BLOCK))?;
    let sums = weights.sum(1)?.to_vec1::<f32>()?;

    let mut chosen = Vec::with_capacity(rows);
    for (row, (draw, sums)) in draws.iter_mut().zip(sums.chunks_exact(blocks)).enumerate() {
        let total: f64 = sums.iter().map(|&sum| f64::from(sum)).sum();
        let (block, place) = if is_greedy(draw) {
            let id = best[row] as usize;
            (id / BLOCK, DrawnId::Token(id % BLOCK))
        } else {
            let (block, rest) = walk(sums, sampler::point(draw.rng) * total);
            (block, DrawnId::Point(rest))
        };
        chosen.push((block, place, total));
    }
    let indices: Vec<u32> =
        chosen.iter().enumerate().map(|(row, (block, ..))| (row * blocks + block) as u32).collect();
    let weights = weights.index_select(&Tensor::new(indices, device)?, 0)?.flatten_all()?;
    let weights = weights.to_vec1::<f32>()?;
    let tokens = chosen.into_iter().zip(weights.chunks_exact(BLOCK));
    Ok(tokens
        .map(|((block, place, total), weights)| {
            let at = match place {
                DrawnId::Token(at) => at,
                DrawnId::Point(point) => walk(weights, point).0,
            };
            let log_prob = (f64::from(weights[at]) / total).ln() as f32;
            SampledToken { id: (block * BLOCK + at) as u32, log_prob }
        })
        .collect())
}

/// The position of a token within a block.
enum DrawnId {
    Token(usize),
    Point(f64),
}

/// The first index at which the running sum passes `point`, and the distance of the point from the
/// start of that index. If rounding, or weights that are not numbers, leave none, the last index
/// with any weight.
fn walk(weights: &[f32], mut point: f64) -> (usize, f64) {
    let mut last = (0, 0.0);
    for (index, &weight) in weights.iter().enumerate() {
        let weight = f64::from(weight);
        if weight > point {
            return (index, point);
        }
        if weight > 0.0 {
            last = (index, weight);
        }
        point -= weight;
    }
    last
}

/// Copies in the tensor's own type and widens here: a widened copy would take twice as long.
fn copy_to_host(tensor: &Tensor, values: &mut Vec<f32>) -> Result<()> {
    let flat = tensor.flatten_all()?;
    if flat.dtype() == DType::BF16 {
        let narrow = flat.to_vec1::<bf16>()?;
        values.resize(narrow.len(), 0.0);
        values.par_iter_mut().zip(narrow).with_min_len(1 << 14).for_each(|(to, from)| {
            *to = from.to_f32();
        });
    } else {
        *values = flat.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec1()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::tests::devices;
    use crate::sampling::Sampling;

    /// Logits of a vocabulary whose size is no multiple of the block, with the likeliest tokens far
    /// apart.
    fn logits(rows: usize, vocab: usize) -> Vec<f32> {
        let logit = |i: usize| ((i * 2_654_435_761 % 1_000_003) as f32 / 100_000.0) - 5.0;
        (0..rows * vocab).map(|i| if i % 7 == 0 { f32::NEG_INFINITY } else { logit(i) }).collect()
    }

    #[test]
    fn draws_what_the_host_would_draw() {
        let (rows, vocab) = (40, 1_000);
        let samplings: Vec<Sampling> = (0..rows)
            .map(|row| Sampling {
                temperature: [0.0, 0.5, 1.0, 2.0][row % 4],
                top_p: 1.0,
                top_k: None,
                seed: row as u64,
            })
            .collect();
        let narrowed = |top_p| samplings.iter().map(move |s| Sampling { top_p, ..*s }).collect();
        for device in devices() {
            for samplings in [samplings.clone(), narrowed(0.8)] {
                let values = logits(rows, vocab);
                let mut rngs: Vec<_> = samplings.iter().map(sampler::generator).collect();
                let mut draws: Vec<Draw<'_>> = samplings
                    .iter()
                    .zip(&mut rngs)
                    .map(|(&sampling, rng)| Draw { sampling, rng })
                    .collect();
                let tensor = Tensor::from_vec(values.clone(), (rows, vocab), &device).unwrap();
                let mut scratch = Vec::new();
                // Twice, because the generators advance.
                for _ in 0..2 {
                    draw(&tensor, &mut scratch, &mut draws).unwrap();
                }
                let drawn = draw(&tensor, &mut scratch, &mut draws).unwrap();
                for (row, token) in drawn.iter().enumerate() {
                    let mut rng = sampler::generator(&samplings[row]);
                    let mut expected = None;
                    for _ in 0..3 {
                        let mut logits = values[row * vocab..][..vocab].to_vec();
                        expected = Some(sampler::sample(&mut logits, &samplings[row], &mut rng));
                    }
                    let expected = expected.unwrap();
                    assert_eq!(token.id, expected.id, "row {row}");
                    assert!((token.log_prob - expected.log_prob).abs() < 1e-4, "row {row}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_shows_and_does_not_panic() {
        let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: None, seed: 0 };
        let mut rng = sampler::generator(&sampling);
        let logits = Tensor::from_vec(vec![f32::NAN; 300], (1, 300), &Device::Cpu).unwrap();
        let mut draws = [Draw { sampling, rng: &mut rng }];
        let drawn = draw(&logits, &mut Vec::new(), &mut draws).unwrap();
        assert!(drawn[0].log_prob.is_nan());
    }
}
