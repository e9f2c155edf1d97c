//! Peak memory of a LoRA step (forward, backward, clipping, AdamW) at the shape of Qwen3-0.6B, with
//! random weights in f32: 1,024 tokens, the second half scored, rank 16 on every projection.
//!
//! ```text
//! cargo bench --bench lora_memory
//! ```

#![allow(clippy::print_stdout)] // the figures are what it is for

use std::time::Instant;

use anyhow::Context;
use candle_core::{DType, Device};
use prompt_r1::model::{Adapter, AdapterConfig, Batch, Model, Projection, Selection, Weights};
use prompt_r1::train::adamw::{AdamW, AdamWConfig, clip};

mod shapes;

const SEQUENCES: usize = 2;
const LENGTH: usize = 512;

fn main() -> anyhow::Result<()> {
    let config = shapes::qwen3_0_6b();
    let weights = Weights::random(&config, 0, &Device::Cpu)?;
    let lora = AdapterConfig { rank: 16, alpha: 32.0, targets: Projection::ALL.to_vec() };
    let adapter = Adapter::new(&config, lora, 0, DType::F32, &Device::Cpu)?;
    let mut model = Model::new(config, weights).with_adapter(adapter);
    println!("loaded: {:.1} GiB", memory("VmRSS")?);
    let sequences: Vec<Vec<u32>> = (0..SEQUENCES)
        .map(|s| (0..LENGTH + 1).map(|i| ((s * 31 + i * i * 7) % 150_000) as u32).collect())
        .collect();
    let batch = Batch::pack(&sequences.iter().map(|s| &s[..LENGTH]).collect::<Vec<_>>());
    let scored = |s: usize| (LENGTH / 2..LENGTH).map(move |i| (s, i));
    let selection = Selection {
        rows: (0..SEQUENCES).flat_map(scored).map(|(s, i)| (s * LENGTH + i) as u32).collect(),
        targets: (0..SEQUENCES).flat_map(scored).map(|(s, i)| sequences[s][i + 1]).collect(),
    };
    let slope = vec![-1.0 / selection.len() as f32; selection.len()];
    // The smaller one first: memory that the process has returned is not counted again.
    for recompute in [true, false] {
        model.set_recompute(recompute);
        std::fs::write("/proc/self/clear_refs", "5").context("cannot reset the peak")?;
        let begun = Instant::now();
        let mut optimizer = AdamW::new(AdamWConfig::default(), &model.trainable())?;
        let mut gradients = model.gradients()?;
        let (scores, tape) = model.forward(&batch, &selection, 1.0)?;
        model.backward(tape, &slope, None, &mut gradients)?;
        let clipped = clip(&mut gradients, 1.0)?;
        optimizer.step(model.trainable_mut(), &clipped, 1e-4)?;
        println!(
            "{}: peak {:.1} GiB, {:.0} s, loss {:.3}",
            if recompute { "with recomputation" } else { "without" },
            memory("VmHWM")?,
            begun.elapsed().as_secs_f64(),
            -scores.log_probs.iter().sum::<f32>() / scores.log_probs.len() as f32,
        );
    }
    Ok(())
}

/// A line of the process's status, GiB.
fn memory(key: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("this needs Linux")?;
    let line = status.lines().find(|line| line.starts_with(key)).context("no such line")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no figure")?.parse()?;
    Ok(kib / f64::from(1 << 20))
}
