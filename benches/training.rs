//! Training tokens per second: forward, backward, clipping and AdamW of a 0.9 M-parameter Qwen3 on
//! 64 sequences of 64 tokens, every position scored. `training_baseline.py` makes the same step in
//! PyTorch.
//!
//! ```text
//! cargo bench --bench training
//! ```

#![allow(clippy::print_stdout)] // the figures are what it is for

mod shapes;

use std::time::Instant;

use candle_core::Device;
use prompt_r1::model::{Batch, Model, Selection, Spec, Weights};
use prompt_r1::train::adamw::{AdamW, AdamWConfig, clip};
use prompt_r1::train::memory;

const SEQUENCES: usize = 64;
const LENGTH: usize = 64;
const ROUNDS: usize = 5;
const STEPS: usize = 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    memory::retain_freed_memory();
    let config = Spec { vocab_size: 512, ..shapes::small() };
    let weights = Weights::random(&config, 0, &Device::Cpu)?;
    let mut model = Model::new(config, weights);
    let mut optimizer = AdamW::new(AdamWConfig::default(), &model.trainable())?;
    let mut gradients = model.gradients()?;
    let sequences: Vec<Vec<u32>> = (0..SEQUENCES)
        .map(|s| (0..LENGTH + 1).map(|i| ((s * 31 + i * i * 7) % 512) as u32).collect())
        .collect();
    let inputs: Vec<&[u32]> = sequences.iter().map(|s| &s[..LENGTH]).collect();
    let batch = Batch::pack(&inputs);
    let selection = Selection {
        rows: (0..batch.len() as u32).collect(),
        targets: sequences.iter().flat_map(|s| s[1..].to_vec()).collect(),
    };
    let slope = vec![-1.0 / selection.len() as f32; selection.len()];

    let mut step = || -> Result<f32, Box<dyn std::error::Error>> {
        gradients.clear()?;
        let (scores, tape) = model.forward(&batch, &selection, 1.0)?;
        model.backward(tape, &slope, None, &mut gradients)?;
        let clipped = clip(&mut gradients, 1.0)?;
        optimizer.step(model.trainable_mut(), &clipped, 1e-3)?;
        Ok(-scores.log_probs.iter().sum::<f32>() / scores.log_probs.len() as f32)
    };
    let first = step()?;
    let mut rates = Vec::new();
    let mut last = first;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..STEPS {
            last = step()?;
        }
        rates.push((STEPS * batch.len()) as f64 / start.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    println!(
        "{:.0} tokens/s (median of {ROUNDS} rounds of {STEPS} steps, {:.0} to {:.0}); loss {first:.4} to {last:.4}",
        rates[ROUNDS / 2],
        rates[0],
        rates[ROUNDS - 1],
    );
    Ok(())
}
