//! The native engine on a GGUF file: tokens a second alone, of eight sequences, of a prompt, and
//! episodes a second. `benches/llama_cpp.py` runs it beside llama.cpp.

#![allow(clippy::print_stdout)] // the figures are what it is for

use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use futures::future::join_all;
use prompt_r1::engine::config::NativeConfig;
use prompt_r1::engine::native::NativeEngine;
use prompt_r1::engine::{Engine, GenerateEvent, GenerateRequest, Sampling};
use prompt_r1::gguf::Gguf;
use prompt_r1::model::Spec;

// As in `llama_cpp.py`.
const SAMPLED: usize = 64;
const PROMPT: usize = 256;
const SEQUENCES: usize = 8;
const TURNS: usize = 3;
const SHOWN: usize = 100;

struct Bench {
    engine: NativeEngine,
    vocabulary: usize,
    seed: usize,
}

impl Bench {
    fn ids(&mut self, count: usize) -> Vec<u32> {
        self.seed += 1;
        let (seed, room) = (self.seed * 7919, self.vocabulary - 2000);
        (0..count).map(|i| 1000 + ((seed + i * i * 31 + i * 17) % room) as u32).collect()
    }

    async fn complete(&self, prompt: Vec<u32>, max_tokens: usize) -> Vec<u32> {
        let sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: None, seed: 0 };
        let request =
            GenerateRequest { prompt, sampling, stop_ids: Vec::new(), max_tokens, stream: false };
        let (mut events, mut ids) = (self.engine.generate(request), Vec::new());
        while let Some(event) = events.recv().await {
            if let GenerateEvent::Tokens(tokens) = event {
                ids.extend(tokens.iter().map(|token| token.id));
            }
        }
        ids
    }

    async fn measure(&mut self) -> serde_json::Value {
        let prompt = self.ids(8);
        let start = Instant::now();
        self.complete(prompt, SAMPLED).await;
        let alone = SAMPLED as f64 / start.elapsed().as_secs_f64();

        let prompts: Vec<Vec<u32>> = (0..SEQUENCES).map(|_| self.ids(8)).collect();
        let start = Instant::now();
        join_all(prompts.into_iter().map(|prompt| self.complete(prompt, SAMPLED))).await;
        let eight = (SEQUENCES * SAMPLED) as f64 / start.elapsed().as_secs_f64();

        let ids = self.ids(PROMPT);
        let start = Instant::now();
        self.complete(ids, 1).await;
        let prompt = PROMPT as f64 / start.elapsed().as_secs_f64();

        let start = Instant::now();
        let mut ids = self.ids(PROMPT);
        for _ in 0..TURNS {
            let reply = self.complete(ids.clone(), SAMPLED).await;
            ids.extend(reply);
            ids.extend(self.ids(SHOWN));
        }
        let episode = 1.0 / start.elapsed().as_secs_f64();
        serde_json::json!({ "alone": alone, "eight": eight, "prompt": prompt, "episode": episode })
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // `cargo bench` adds a flag of its own; without a file there is nothing to measure.
    let Some(path) = std::env::args().skip(1).find(|arg| !arg.starts_with('-')) else {
        println!("name a GGUF file, or run benches/llama_cpp.py");
        return Ok(());
    };
    let file = Gguf::open(Path::new(&path))?;
    let spec = Spec::from_gguf(&file)?;
    let engine = NativeEngine::from_gguf(&spec, &file, &NativeConfig::default())?;
    drop(file);
    println!("{}", serde_json::json!({ "vocabulary": spec.vocab_size }));
    let mut bench = Bench { engine, vocabulary: spec.vocab_size, seed: 0 };
    for line in std::io::stdin().lock().lines() {
        line?;
        println!("{}", bench.measure().await);
    }
    Ok(())
}
