//! Seconds a GRPO step takes: 32 completions of 64 tokens from 25-token prompts (4 groups of 8),
//! advantages, one update, on a 1 M-parameter Qwen3. `grpo_baseline.py` makes the same step with TRL.
//!
//! ```text
//! cargo bench --bench grpo
//! ```

#![allow(clippy::print_stdout)] // the figures are what it is for

use std::sync::Arc;
use std::time::Instant;

use candle_core::Device;
use prompt_r1::engine::native::{NativeConfig, NativeEngine};
use prompt_r1::engine::{Engine, GenerateEvent, GenerateRequest, Sampling};
use prompt_r1::model::{Model, ModelConfig, Weights};
use prompt_r1::train::grpo::{Learner, Preset, Sample, Scaling, advantages};
use prompt_r1::train::memory;
use prompt_r1::train::run_folder::RunFolder;
use prompt_r1::trajectory::TokenTrace;

const GROUPS: usize = 4;
const GROUP_SIZE: usize = 8;
const PROMPT: usize = 25;
const COMPLETION: usize = 64;
const STEPS: usize = 30;

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
    memory::keep_freed();
    let shape = ModelConfig {
        vocab_size: 1024,
        hidden_size: 128,
        intermediate_size: 384,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        max_position_embeddings: 512,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: true,
    };
    let model = Model::new(shape.clone(), Weights::random(&shape, 0, &Device::Cpu)?);
    let folder = tempfile::tempdir()?;
    let config = Preset::Default.complete(toml::from_str(CONFIG)?)?;
    let mut learner = Learner::new(&config, &model, &RunFolder::open(folder.path())?)?;
    let engine = Arc::new(NativeEngine::new(&shape, model.weights(), &NativeConfig::default())?);

    let mut seconds = Vec::new();
    for step in 0..STEPS + 3 {
        let begun = Instant::now();
        let receivers: Vec<_> = (0..GROUPS * GROUP_SIZE)
            .map(|index| {
                let group = index / GROUP_SIZE;
                let prompt: Vec<u32> = (0..PROMPT)
                    .map(|at| ((step * 37 + group * 11 + at * 7) % 1000) as u32)
                    .collect();
                let seed = (step * 1000 + index) as u64;
                let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: None, seed };
                let events = engine.generate(GenerateRequest {
                    prompt: prompt.clone(),
                    sampling,
                    stop_ids: Vec::new(),
                    max_tokens: COMPLETION,
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
        let rewards: Vec<f64> =
            traces.iter().map(|trace| f64::from(trace.ids.iter().sum::<u32>() % 97)).collect();
        let advantages: Vec<f64> = rewards
            .chunks(GROUP_SIZE)
            .flat_map(|rewards| advantages(rewards, Scaling::Deviation, 1e-6).unwrap_or_default())
            .collect();
        let samples: Vec<Sample<'_>> = (traces.iter().zip(&advantages))
            .map(|(trace, &advantage)| Sample { trace, advantage })
            .collect();
        anyhow::ensure!(samples.len() == GROUPS * GROUP_SIZE, "a group has no variance");
        learner.step(&samples)?;
        engine.set_weights(&learner.model.merged()?)?;
        // The first steps warm up.
        if step >= 3 {
            seconds.push(begun.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[STEPS / 2];
    println!(
        "{median:.3} s a step ({:.3} to {:.3}, {STEPS} steps); {:.0} episodes/s, {:.0} sampled tokens/s",
        seconds[0],
        seconds[STEPS - 1],
        (GROUPS * GROUP_SIZE) as f64 / median,
        (GROUPS * GROUP_SIZE * COMPLETION) as f64 / median,
    );
    Ok(())
}
