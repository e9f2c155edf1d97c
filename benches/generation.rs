//! Tokens a second of each engine on one small random model, by number of sequences in flight.

#![allow(clippy::print_stdout)] // the table is what it is for

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use prompt_r1::engine::native::{NativeConfig, NativeEngine};
use prompt_r1::engine::{Engine, GenerateEvent, GenerateRequest, Sampling};
use prompt_r1::model::config::ModelConfig;
use prompt_r1::model::weights::Weights;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Tokens sampled by each sequence.
const SAMPLED: usize = 64;
/// Shortest and longest prompt.
const PROMPTS: (usize, usize) = (20, 120);
/// How long each figure is measured at least.
const MEASURED: Duration = Duration::from_secs(2);

/// About 0.9 M parameters.
fn model() -> ModelConfig {
    ModelConfig {
        vocab_size: 512,
        hidden_size: 128,
        intermediate_size: 384,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        max_position_embeddings: 1024,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: true,
    }
}

fn weights(config: &ModelConfig) -> anyhow::Result<Weights> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let make = |_: &str, shape: &[usize]| {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = match shape {
            [_] => vec![1.0; count],
            _ => (0..count).map(|_| rng.random_range(-0.05..0.05)).collect(),
        };
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    };
    Ok(Weights::build(config, make)?)
}

fn request(rng: &mut ChaCha8Rng) -> GenerateRequest {
    let len = rng.random_range(PROMPTS.0..=PROMPTS.1);
    GenerateRequest {
        prompt: (0..len).map(|_| rng.random_range(0..512)).collect(),
        sampling: Sampling { temperature: 1.0, top_p: 1.0, top_k: None, seed: rng.random() },
        stop_ids: Vec::new(),
        max_tokens: SAMPLED,
        stream: false,
    }
}

/// Sampled tokens a second with `concurrency` clients, each sending its next request when the last
/// is done.
async fn measure(engine: &dyn Engine, concurrency: usize) -> f64 {
    let start = Instant::now();
    let client = |seed: usize| async move {
        let mut rng = ChaCha8Rng::seed_from_u64(seed as u64);
        let mut sampled = 0;
        while start.elapsed() < MEASURED {
            let mut events = engine.generate(request(&mut rng));
            while let Some(event) = events.recv().await {
                if let GenerateEvent::Tokens(tokens) = event {
                    sampled += tokens.len();
                }
            }
        }
        sampled
    };
    let sampled: usize = futures::future::join_all((0..concurrency).map(client)).await.iter().sum();
    sampled as f64 / start.elapsed().as_secs_f64()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let config = model();
    let weights = weights(&config)?;
    let native = NativeEngine::new(&config, &weights, &NativeConfig::default())?;
    let engines: [(&str, &dyn Engine); 1] = [("native", &native)];
    println!("| sequences | {} |", engines.map(|(name, _)| format!("{name} (tok/s)")).join(" | "));
    println!("|---|{}", "---|".repeat(engines.len()));
    for concurrency in [1, 8, 32] {
        let mut row = format!("| {concurrency} |");
        for (_, engine) in engines {
            measure(engine, concurrency).await;
            row += &format!(" {:.0} |", measure(engine, concurrency).await);
        }
        println!("{row}");
    }
    Ok(())
}
