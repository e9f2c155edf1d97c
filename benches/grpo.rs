//! Seconds a GRPO step takes: completions of single prompts, advantages, one update. On the CPU 32
//! completions of 64 tokens from 25-token prompts (4 groups of 8), on a 1 M-parameter Qwen3; on a
//! GPU 64 of 256 tokens from 128-token prompts (8 groups of 8), at the shape of Qwen3-0.6B in bf16
//! over f32 masters, all weights trained. With `smollm2`, 32 completions of 64 tokens from 64-token
//! prompts at the shape of SmolLM2-135M, a LoRA adapter of rank 8 on every projection.
//! `grpo_baseline.py` makes the steps on the CPU with TRL.
//!
//! ```text
//! cargo bench --bench grpo
//! cargo bench --bench grpo -- smollm2
//! cargo bench --features cuda --bench grpo -- cuda
//! ```

#![allow(clippy::print_stdout)] // the figures are what it is for

use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device};
use prompt_r1::engine::config::NativeConfig;
use prompt_r1::engine::native::NativeEngine;
use prompt_r1::engine::{Engine, GenerateEvent, GenerateRequest, Sampling};
use prompt_r1::model::{Adapter, AdapterConfig, Model, Projection, Spec, Weights};
use prompt_r1::train::grpo::{Preset, Sample, Scaling, Trainer, advantages};
use prompt_r1::train::memory;
use prompt_r1::train::run_folder::RunFolder;
use prompt_r1::trajectory::TokenTrace;

mod shapes;

const GROUP_SIZE: usize = 8;
/// Steps that warm up before those that count.
const WARM_UP: usize = 3;

/// What is measured.
struct Case {
    shape: Spec,
    device: Device,
    dtype: DType,
    groups: usize,
    prompt: usize,
    completion: usize,
    steps: usize,
    /// The rank of the adapter that is trained, on every projection; without one, all weights are.
    rank: Option<usize>,
}

impl Case {
    fn chosen() -> anyhow::Result<Self> {
        if std::env::args().any(|argument| argument == "smollm2") {
            return Ok(Self {
                shape: shapes::smollm2_135m(),
                device: Device::Cpu,
                dtype: DType::F32,
                groups: 4,
                prompt: 64,
                completion: 64,
                steps: 5,
                rank: Some(8),
            });
        }
        Ok(match shapes::gpu()? {
            None => Self {
                shape: shapes::small(),
                device: Device::Cpu,
                dtype: DType::F32,
                groups: 4,
                prompt: 25,
                completion: 64,
                steps: 30,
                rank: None,
            },
            Some((device, dtype)) => Self {
                shape: shapes::qwen3_0_6b(),
                device,
                dtype,
                groups: 8,
                prompt: 128,
                completion: 256,
                steps: 5,
                rank: None,
            },
        })
    }

    fn episodes(&self) -> usize {
        self.groups * GROUP_SIZE
    }
}

const CONFIG: &str = r#"
    schema_version = 1
    output = "unused"
    model = { path = "unused" }
    tasks = { kind = "world", questions = ["single"] }
    large_model = { path = "unused" }
    schedule = { peak = 1e-5 }
    steps = 1000
"#;

fn main() -> anyhow::Result<()> {
    memory::retain_freed_memory();
    let case = Case::chosen()?;
    let weights = Weights::random(&case.shape, 0, &Device::Cpu)?;
    let weights = weights.to_device(&case.device)?.to_dtype(case.dtype)?;
    let mut model = Model::new(case.shape.clone(), weights);
    if let Some(rank) = case.rank {
        let lora =
            AdapterConfig { rank, alpha: 2.0 * rank as f64, targets: Projection::ALL.to_vec() };
        model = model.with_adapter(Adapter::new(&case.shape, lora, 0, case.dtype, &case.device)?);
    }
    let folder = tempfile::tempdir()?;
    let config = Preset::Default.complete(toml::from_str(CONFIG)?)?;
    let mut trainer = Trainer::local(&config, &model, &RunFolder::open(folder.path())?)?;
    let engine =
        Arc::new(NativeEngine::new(&case.shape, model.weights(), &NativeConfig::default())?);

    let (mut seconds, mut sampling_seconds) = (Vec::new(), Vec::new());
    for step in 0..case.steps + WARM_UP {
        let begun = Instant::now();
        let receivers: Vec<_> = (0..case.episodes())
            .map(|index| {
                let group = index / GROUP_SIZE;
                let prompt: Vec<u32> = (0..case.prompt)
                    .map(|at| ((step * 37 + group * 11 + at * 7) % 1000) as u32)
                    .collect();
                let seed = (step * 1000 + index) as u64;
                let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: None, seed };
                let events = engine.generate(GenerateRequest {
                    prompt: prompt.clone(),
                    sampling,
                    stop_ids: Vec::new(),
                    max_tokens: case.completion,
                    stream: false,
                });
                (prompt, events)
            })
            .collect();
        let mut traces = Vec::new();
        for (prompt, mut events) in receivers {
            let mut trace = TokenTrace::default();
            trace.push_context(&prompt);
            while let Some(event) = events.blocking_recv() {
                match event {
                    GenerateEvent::Tokens(tokens) => {
                        tokens.into_iter().for_each(|token| trace.push_action(token));
                    }
                    GenerateEvent::Failed(error) => return Err(error.into()),
                    GenerateEvent::Done(_) => break,
                }
            }
            traces.push(trace);
        }
        let sampled = begun.elapsed().as_secs_f64();
        let rewards: Vec<f64> =
            traces.iter().map(|trace| f64::from(trace.ids.iter().sum::<u32>() % 97)).collect();
        let advantages: Vec<f64> = rewards
            .chunks(GROUP_SIZE)
            .flat_map(|rewards| advantages(rewards, Scaling::Deviation, 1e-6).unwrap_or_default())
            .collect();
        let samples: Vec<Sample<'_>> = (traces.iter().zip(&advantages))
            .map(|(trace, &advantage)| Sample { trace, advantage })
            .collect();
        anyhow::ensure!(samples.len() == case.episodes(), "a group has no variance");
        let figures = trainer.step(&samples)?;
        engine.set_weights(&trainer.policy().merged()?);
        case.device.synchronize()?;
        if step >= WARM_UP {
            seconds.push(begun.elapsed().as_secs_f64());
            sampling_seconds.push(sampled);
        } else if step == 0 {
            let gap = figures.rollout_logprob_diff().unwrap_or(f64::NAN);
            println!("log-probabilities of rollout and trainer differ by {gap:.1e} at the mean");
        }
    }
    seconds.sort_by(f64::total_cmp);
    sampling_seconds.sort_by(f64::total_cmp);
    let (median, sampling) = (seconds[case.steps / 2], sampling_seconds[case.steps / 2]);
    println!(
        "{median:.3} s a step ({:.3} to {:.3}, {} steps), {sampling:.3} s of it sampling; \
         {:.0} episodes/s, {:.0} sampled tokens/s, {:.0} while sampling",
        seconds[0],
        seconds[case.steps - 1],
        case.steps,
        case.episodes() as f64 / median,
        (case.episodes() * case.completion) as f64 / median,
        (case.episodes() * case.completion) as f64 / sampling,
    );
    Ok(())
}
