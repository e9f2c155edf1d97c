//! A supervised LoRA step (forward, backward, clipping, AdamW), random weights in f32: tokens a
//! second and peak memory, with and without computing the layers again in the backward pass. The
//! second half of each sequence is scored; every projection has an adapter. `lora_baseline.py`
//! makes the same steps in PyTorch.
//!
//! ```text
//! cargo bench --bench lora                  # the shape of SmolLM2-135M, 8 × 256 tokens, rank 8
//! cargo bench --bench lora -- qwen3-0.6b    # 2 × 512 tokens, rank 16
//! ```

#![allow(clippy::print_stdout)] // the figures are what it is for

use std::time::Instant;

use anyhow::Context;
use candle_core::{DType, Device};
use prompt_r1::model::{
    Adapter, AdapterConfig, Batch, Model, Projection, Selection, Spec, Weights,
};
use prompt_r1::train::adamw::{AdamW, AdamWConfig, clip};
use prompt_r1::train::memory;

mod shapes;

const STEPS: usize = 5;

struct Case {
    spec: Spec,
    sequences: usize,
    length: usize,
    rank: usize,
}

fn main() -> anyhow::Result<()> {
    memory::retain_freed_memory();
    let is_large = std::env::args().any(|argument| argument == "qwen3-0.6b");
    let case = if is_large {
        Case { spec: shapes::qwen3_0_6b(), sequences: 2, length: 512, rank: 16 }
    } else {
        Case { spec: shapes::smollm2_135m(), sequences: 8, length: 256, rank: 8 }
    };
    let (spec, length) = (case.spec, case.length);
    let vocabulary = spec.vocab_size;
    let weights = Weights::random(&spec, 0, &Device::Cpu)?;
    let lora = AdapterConfig {
        rank: case.rank,
        alpha: 2.0 * case.rank as f64,
        targets: Projection::ALL.to_vec(),
    };
    let adapter = Adapter::new(&spec, lora, 0, DType::F32, &Device::Cpu)?;
    let mut model = Model::new(spec, weights).with_adapter(adapter);
    println!("loaded: {:.2} GiB", gib("VmRSS")?);
    let sequences: Vec<Vec<u32>> = (0..case.sequences)
        .map(|s| (0..length + 1).map(|i| ((s * 31 + i * i * 7) % vocabulary) as u32).collect())
        .collect();
    let batch = Batch::pack(&sequences.iter().map(|s| &s[..length]).collect::<Vec<_>>());
    let scored = |s: usize| (length / 2..length).map(move |i| (s, i));
    let selection = Selection {
        rows: (0..case.sequences).flat_map(scored).map(|(s, i)| (s * length + i) as u32).collect(),
        targets: (0..case.sequences).flat_map(scored).map(|(s, i)| sequences[s][i + 1]).collect(),
    };
    let slope = vec![-1.0 / selection.len() as f32; selection.len()];
    // The smaller one first: memory that the process has returned is not counted again.
    for recompute in [true, false] {
        model.set_recompute(recompute);
        std::fs::write("/proc/self/clear_refs", "5").context("cannot reset the peak")?;
        let mut optimizer = AdamW::new(AdamWConfig::default(), &model.trainable())?;
        let mut gradients = model.gradients()?;
        let mut seconds = Vec::new();
        for _ in 0..=STEPS {
            let begun = Instant::now();
            gradients.clear()?;
            let (_, tape) = model.forward(&batch, &selection, 1.0)?;
            model.backward(tape, &slope, None, &mut gradients)?;
            let clipped = clip(&mut gradients, 1.0)?;
            optimizer.step(model.trainable_mut(), &clipped, 1e-4)?;
            seconds.push(begun.elapsed().as_secs_f64());
        }
        // The first step also makes the room that the others use.
        let steps = &mut seconds[1..];
        steps.sort_by(f64::total_cmp);
        println!(
            "{}: {:.0} tokens/s (median of {STEPS} steps, {:.0} to {:.0}), peak {:.2} GiB",
            if recompute { "layers computed again" } else { "layers kept" },
            batch.len() as f64 / steps[STEPS / 2],
            batch.len() as f64 / steps[STEPS - 1],
            batch.len() as f64 / steps[0],
            gib("VmHWM")?,
        );
    }
    Ok(())
}

/// A line of the process's status, GiB.
fn gib(key: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("this needs Linux")?;
    let line = status.lines().find(|line| line.starts_with(key)).context("no such line")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no figure")?.parse()?;
    Ok(kib / f64::from(1 << 20))
}
