//! Compares the engines on one random model of the bundled policy's shape, on a GPU of
//! Qwen3-0.6B's: tokens per second by concurrent sequences, and the time to the first token of each
//! turn of a long episode.
//!
//! ```text
//! cargo bench --bench generation
//! cargo bench --features cuda --bench generation -- cuda
//! ```
//!
//! `native` as a further argument leaves mistral.rs out.

#![allow(clippy::print_stdout)] // the tables are what it is for

use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use prompt_r1::engine::config::MistralRsConfig;
use prompt_r1::engine::config::NativeConfig;
use prompt_r1::engine::mistralrs::MistralRsEngine;
use prompt_r1::engine::native::NativeEngine;
use prompt_r1::engine::{Engine, GenerateEvent, GenerateRequest, Sampling};
use prompt_r1::model::{Spec, Weights};
use prompt_r1::tokenization::ChatTokenizer;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

mod shapes;

/// Provides the shape on a CPU, and the tokenizer that mistral.rs requires.
const POLICY: &str = "models/policy";
/// Most tokens sampled by each sequence.
const SAMPLED: usize = 64;
/// Shortest and longest prompt.
const PROMPTS: (usize, usize) = (20, 120);
/// How long each figure is measured at least, on a CPU and on a GPU, and how often; the median
/// counts.
const MEASURED: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(1)];
const ROUNDS: usize = 3;
/// Concurrent sequences, on a CPU and on a GPU.
const SEQUENCES: [&[u64]; 2] = [&[1, 8, 32], &[1, 8, 32, 128]];

/// Episodes and turns of the second table.
const EPISODES: u32 = 7;
const TURNS: u32 = 8;
/// Tokens of the opening, and of what is shown between two turns.
const OPENING: usize = 200;
const OBSERVED: usize = 150;

struct Engines {
    native: NativeEngine,
    /// As configured by default, and with as many sequences at once as the table asks for.
    mistralrs: Option<[MistralRsEngine; 2]>,
    is_on_gpu: bool,
    /// Tokens that prompts are made of: those that the tokenizer knows.
    vocabulary: u32,
    /// mistral.rs ends a sequence at these whether asked to or not.
    stop_ids: Vec<u32>,
}

impl Engines {
    async fn new() -> anyhow::Result<Self> {
        let policy = Path::new(POLICY);
        let bundled = Spec { max_position_embeddings: 4096, ..Spec::load(policy)? };
        let vocabulary = bundled.vocab_size as u32;
        let (shape, device, dtype) = match shapes::gpu()? {
            None => (bundled, Device::Cpu, DType::F32),
            Some((device, dtype)) => (shapes::qwen3_0_6b(), device, dtype),
        };
        let weights = Weights::random(&shape, 0, &Device::Cpu)?.to_dtype(dtype)?;
        let folder = tempfile::tempdir()?;
        weights.save(folder.path(), &shape)?;
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(policy.join(file), folder.path().join(file))?;
        }
        let weights = weights.to_device(&device)?;
        let is_on_gpu = !device.is_cpu();
        let native = NativeEngine::new(&shape, &weights, &NativeConfig::default())?;
        let mut mistralrs = None;
        if !std::env::args().any(|argument| argument == "native") {
            let config = MistralRsConfig { force_cpu: !is_on_gpu, ..MistralRsConfig::default() };
            let most = SEQUENCES[usize::from(is_on_gpu)].iter().max().copied().unwrap_or(1);
            let wide = MistralRsConfig { max_batch: most as usize, ..config.clone() };
            mistralrs = Some([
                MistralRsEngine::load(folder.path(), &config).await?,
                MistralRsEngine::load(folder.path(), &wide).await?,
            ]);
        }
        Ok(Self {
            native,
            mistralrs,
            is_on_gpu,
            vocabulary,
            stop_ids: ChatTokenizer::load(policy)?.tokenizer.stop_ids().to_vec(),
        })
    }

    fn all(&self) -> Vec<&dyn Engine> {
        let others = self.mistralrs.iter().flatten().map(|engine| engine as &dyn Engine);
        std::iter::once(&self.native as &dyn Engine).chain(others).collect()
    }

    fn tokens(&self, rng: &mut ChaCha8Rng, count: usize) -> Vec<u32> {
        (0..count).map(|_| rng.random_range(0..self.vocabulary)).collect()
    }

    fn request(&self, prompt: Vec<u32>, seed: u64, max_tokens: usize) -> GenerateRequest {
        let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: None, seed };
        let stop_ids = self.stop_ids.clone();
        GenerateRequest { prompt, sampling, stop_ids, max_tokens, stream: true }
    }
}

/// The tokens sampled, and the time to the first of them.
async fn run(engine: &dyn Engine, request: GenerateRequest) -> anyhow::Result<(Vec<u32>, f64)> {
    let begun = Instant::now();
    let mut events = engine.generate(request);
    let (mut ids, mut first) = (Vec::new(), None);
    while let Some(event) = events.recv().await {
        match event {
            GenerateEvent::Tokens(tokens) => {
                first.get_or_insert_with(|| begun.elapsed());
                ids.extend(tokens.iter().map(|token| token.id));
            }
            GenerateEvent::Done(_) => break,
            GenerateEvent::Failed(error) => return Err(error.into()),
        }
    }
    let first = first.ok_or_else(|| anyhow::anyhow!("no token was sampled"))?;
    Ok((ids, first.as_secs_f64() * 1e3))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Sampled tokens a second with `concurrency` clients, each sending its next request when the last
/// is done.
async fn rate(engines: &Engines, engine: &dyn Engine, concurrency: u64) -> anyhow::Result<f64> {
    let start = Instant::now();
    let measured = MEASURED[usize::from(engines.is_on_gpu)];
    let clients = (0..concurrency).map(|seed| async move {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut sampled = 0;
        while start.elapsed() < measured {
            let length = rng.random_range(PROMPTS.0..=PROMPTS.1);
            let prompt = engines.tokens(&mut rng, length);
            sampled += run(engine, engines.request(prompt, rng.random(), SAMPLED)).await?.0.len();
        }
        Ok::<_, anyhow::Error>(sampled)
    });
    let sampled = futures::future::try_join_all(clients).await?;
    Ok(sampled.iter().sum::<usize>() as f64 / start.elapsed().as_secs_f64())
}

async fn rates(engines: &Engines) -> anyhow::Result<()> {
    println!("| sequences | native (tok/s) | mistral.rs (tok/s) | mistral.rs, a batch of all |");
    println!("|---|---|---|---|");
    let each = engines.all();
    for &concurrency in SEQUENCES[usize::from(engines.is_on_gpu)] {
        let mut measured = vec![Vec::new(); each.len()];
        // The first round warms up.
        for round in 0..=ROUNDS {
            for (engine, rates) in each.iter().zip(&mut measured) {
                let rate = rate(engines, *engine, concurrency).await?;
                if round > 0 {
                    rates.push(rate);
                }
            }
        }
        let row: Vec<_> =
            measured.into_iter().map(|rates| format!("{:.0}", median(rates))).collect();
        println!("| {concurrency} | {} |", row.join(" | "));
    }
    Ok(())
}

/// Milliseconds to the first token of each turn, with the episode so far cached and recomputed.
async fn prefills(engines: &Engines, engine: &dyn Engine) -> anyhow::Result<Vec<(f64, f64)>> {
    let mut turns = vec![(Vec::new(), Vec::new()); TURNS as usize];
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for episode in 0..EPISODES {
        let mut ids = engines.tokens(&mut rng, OPENING);
        for turn in 0..TURNS {
            // With a different first token, no cached prefix matches a prompt.
            let mut anew = ids.clone();
            anew[0] = EPISODES + episode * TURNS + turn;
            ids[0] = episode;
            let (_, cold) = run(engine, engines.request(anew, 0, 1)).await?;
            let (sampled, kept) = run(engine, engines.request(ids.clone(), 0, SAMPLED)).await?;
            turns[turn as usize].0.push(kept);
            turns[turn as usize].1.push(cold);
            ids.extend(sampled);
            ids.extend(engines.tokens(&mut rng, OBSERVED));
        }
    }
    Ok(turns.into_iter().map(|(kept, cold)| (median(kept), median(cold))).collect())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let engines = Engines::new().await?;
    rates(&engines).await?;
    println!("\nMilliseconds to the first token of a turn\n");
    println!("| turn | tokens | native, kept | anew | mistral.rs, kept | anew |");
    println!("|---|---|---|---|---|---|");
    let mut all = Vec::new();
    for engine in engines.all().into_iter().take(2) {
        all.push(prefills(&engines, engine).await?);
    }
    for turn in 0..TURNS as usize {
        // As if every turn had used all its tokens.
        let tokens = OPENING + turn * (SAMPLED + OBSERVED);
        let row = all.iter().flat_map(|turns| [turns[turn].0, turns[turn].1]);
        let row: Vec<_> = row.map(|ms| format!("{ms:.1}")).collect();
        println!("| {} | {tokens} | {} |", turn + 1, row.join(" | "));
    }
    Ok(())
}
