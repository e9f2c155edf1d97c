//! Supervised training: make the assistant's tokens of given conversations likelier.
//!
//! The batch of a step is a function of the seed and the step's number, so a resumed run sees
//! exactly what an uninterrupted one would.

use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::dataset::world::demonstration::DemonstrationMix;
use crate::dataset::world::{Split, World, WorldConfig};
use crate::model::{Batch, Gradients, Model, Selection};
use crate::trajectory::TokenTrace;

use super::adamw::{AdamW, AdamWConfig, AdamWError, clip};
use super::error::TrainError;
use super::example::{ChatLine, chat, demonstration, question_and_answer};
use super::metrics::{MetricsLog, Values};
use super::run_folder::RunFolder;
use super::schedule::Schedule;
use super::start::{Start, StartConfig};

/// A supervised run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftConfig {
    /// Version of this file's format: 1.
    pub schema_version: u32,
    /// Folder of the run.
    pub output: PathBuf,
    /// Seed of everything random.
    #[serde(default)]
    pub seed: u64,
    /// Which model.
    pub model: StartConfig,
    /// What it learns.
    pub data: SftData,
    /// Optimizer steps.
    pub steps: u64,
    /// Conversations a step.
    #[serde(default = "defaults::batch_size")]
    pub batch_size: usize,
    /// Tokens computed at once; a step is cut into as many parts as it takes. Bounds the memory,
    /// not the result.
    #[serde(default = "defaults::micro_batch_tokens")]
    pub micro_batch_tokens: usize,
    /// Learning rate.
    #[serde(default)]
    pub schedule: Schedule,
    /// Decoupled weight decay of matrices.
    #[serde(default)]
    pub weight_decay: f64,
    /// Largest global norm of the gradient.
    #[serde(default = "defaults::clip_norm")]
    pub clip_norm: f64,
    /// Steps between two checkpoints.
    #[serde(default = "defaults::every")]
    pub checkpoint_every: u64,
    /// How many checkpoints are kept.
    #[serde(default = "defaults::keep")]
    pub keep_checkpoints: usize,
    /// Steps between two evaluations on held-out conversations.
    #[serde(default = "defaults::every")]
    pub eval_every: u64,
}

mod defaults {
    pub fn batch_size() -> usize {
        64
    }
    pub fn micro_batch_tokens() -> usize {
        8192
    }
    pub fn clip_norm() -> f64 {
        1.0
    }
    pub fn every() -> u64 {
        100
    }
    pub fn keep() -> usize {
        2
    }
}

/// Where conversations come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SftData {
    /// Single facts of the bundled world, for a large model that knows nothing else.
    WorldFacts {
        /// Which world.
        #[serde(default)]
        world: WorldConfig,
    },
    /// Demonstrations of answering questions about the bundled world.
    WorldDemonstrations {
        /// Which world.
        #[serde(default)]
        world: WorldConfig,
        /// What is demonstrated, and how well.
        #[serde(default)]
        mix: DemonstrationMix,
        /// How many.
        count: usize,
    },
    /// JSON Lines, each with `messages`: a list of `role` and `content`.
    Chat {
        /// The file.
        path: PathBuf,
        /// Held-out conversations of the same form.
        #[serde(default)]
        eval_path: Option<PathBuf>,
    },
}

/// Hears of a run's progress.
pub trait Progress {
    /// After each step: steps done, of how many, and what was measured.
    fn step(&mut self, done: u64, of: u64, values: &Values);

    /// Whether the run should stop after this step.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// How many conversations an evaluation takes.
const EVAL_EXAMPLES: usize = 256;
/// Steps without a finite gradient that are put up with in a row.
const MAX_BAD_STEPS: u32 = 5;

struct Examples {
    train: Vec<TokenTrace>,
    eval: Vec<TokenTrace>,
}

/// Runs `config` to its end, or on from its last checkpoint; returns the finished model's folder.
pub fn run_sft(
    config: &SftConfig,
    resume: bool,
    progress: &mut dyn Progress,
) -> Result<PathBuf, TrainError> {
    check(config)?;
    let run = RunFolder::open(&config.output)?;
    if !resume && !run.is_fresh() {
        return Err(TrainError::Occupied(config.output.display().to_string()));
    }
    let world = match &config.data {
        SftData::WorldFacts { world } | SftData::WorldDemonstrations { world, .. } => world.clone(),
        SftData::Chat { .. } => WorldConfig::default(),
    };
    let start = Start::prepare(&config.model, &run, &world, config.seed)?;
    let examples = examples(config, &start)?;
    let mut trainer = Trainer::new(config, &start, &run)?;
    let mut log = MetricsLog::open(run.root(), trainer.step)?;
    let mut order = Order::new(examples.train.len(), config.seed);
    while trainer.step < config.steps {
        let batch = order.batch(trainer.step, config.batch_size);
        let batch: Vec<&TokenTrace> = batch.iter().map(|&index| &examples.train[index]).collect();
        let mut values = trainer.update(&batch)?;
        let done = trainer.step;
        let last = done == config.steps;
        if (done.is_multiple_of(config.eval_every) || last) && !examples.eval.is_empty() {
            let held_out: Vec<&TokenTrace> = examples.eval.iter().collect();
            values.push(("eval_loss", trainer.evaluate(&held_out)?));
        }
        log.write(done, &values)?;
        progress.step(done, config.steps, &values);
        let cancelled = progress.is_cancelled();
        if done.is_multiple_of(config.checkpoint_every) || last || cancelled {
            trainer.checkpoint(&run)?;
        }
        if cancelled && !last {
            return Err(TrainError::Interrupted(done));
        }
    }
    start.save(&trainer.model, &run.model())?;
    Ok(run.model())
}

fn check(config: &SftConfig) -> Result<(), TrainError> {
    if config.schema_version != 1 {
        return Err(TrainError::Config(format!(
            "`schema_version` is {}, this program reads 1",
            config.schema_version
        )));
    }
    for (name, value) in [
        ("steps", config.steps),
        ("batch_size", config.batch_size as u64),
        ("checkpoint_every", config.checkpoint_every),
        ("eval_every", config.eval_every),
    ] {
        if value == 0 {
            return Err(TrainError::Config(format!("`{name}` must be at least 1")));
        }
    }
    Ok(())
}

fn examples(config: &SftConfig, start: &Start) -> Result<Examples, TrainError> {
    let text = &start.text;
    let mut made = match &config.data {
        SftData::WorldFacts { world } => {
            let world = World::generate(world)?;
            let train = world
                .single_facts()
                .filter(|fact| fact.trained)
                .map(|fact| question_and_answer(text, &fact.question, &fact.answer))
                .collect::<Result<Vec<_>, _>>()?;
            Examples { train, eval: Vec::new() }
        }
        SftData::WorldDemonstrations { world, mix, count } => {
            let world = World::generate(world)?;
            let protocol = start.protocol()?;
            let max_turns = crate::episode::Limits::default().max_turns;
            let make = |split, n, seed| {
                world
                    .demonstrations(mix, split, n, seed)?
                    .iter()
                    .map(|shown| Ok(demonstration(text, &protocol, max_turns, shown)?))
                    .collect::<Result<Vec<_>, TrainError>>()
            };
            Examples {
                train: make(Split::Train, *count, config.seed)?,
                eval: make(Split::Test, EVAL_EXAMPLES, config.seed)?,
            }
        }
        SftData::Chat { path, eval_path } => Examples {
            train: chats(path, start)?,
            eval: eval_path.as_deref().map_or(Ok(Vec::new()), |path| chats(path, start))?,
        },
    };
    let context = start.model.spec().max_position_embeddings;
    made.train.retain(|trace| trace.ids.len() <= context);
    made.eval.retain(|trace| trace.ids.len() <= context);
    made.eval.truncate(EVAL_EXAMPLES);
    if made.train.is_empty() {
        return Err(TrainError::Config(format!(
            "there is nothing to learn from: no conversation fits the context of {context} tokens"
        )));
    }
    Ok(made)
}

fn chats(path: &Path, start: &Start) -> Result<Vec<TokenTrace>, TrainError> {
    #[derive(Deserialize)]
    struct Row {
        messages: Vec<ChatLine>,
    }
    let text = std::fs::read_to_string(path).map_err(|error| {
        TrainError::Config(format!("cannot read `{}`: {error}", path.display()))
    })?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            let at = |reason: String| {
                TrainError::Config(format!(
                    "`{}` line {}: {reason}\nhint: each line is {{\"messages\": [{{\"role\": \"user\", \"content\": \"…\"}}, …]}}",
                    path.display(),
                    index + 1
                ))
            };
            let row: Row = serde_json::from_str(line).map_err(|error| at(error.to_string()))?;
            chat(&start.text, &row.messages).map_err(|error| at(error.to_string()))
        })
        .collect()
}

/// Goes through all examples in a new order each time round.
pub(super) struct Order {
    seed: u64,
    round: Option<u64>,
    order: Vec<usize>,
}

impl Order {
    pub(super) fn new(len: usize, seed: u64) -> Self {
        Self { seed, round: None, order: (0..len).collect() }
    }

    /// The examples of step `step`.
    pub(super) fn batch(&mut self, step: u64, size: usize) -> Vec<usize> {
        let len = self.order.len() as u64;
        (0..size as u64)
            .map(|index| {
                let position = step * size as u64 + index;
                let round = position / len;
                if self.round != Some(round) {
                    self.order = (0..len as usize).collect();
                    let seed = self.seed ^ round.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                    self.order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
                    self.round = Some(round);
                }
                self.order[(position % len) as usize]
            })
            .collect()
    }
}

struct Trainer<'a> {
    config: &'a SftConfig,
    model: Model,
    optimizer: AdamW,
    gradients: Gradients,
    step: u64,
    bad_steps: u32,
}

impl<'a> Trainer<'a> {
    fn new(config: &'a SftConfig, start: &Start, run: &RunFolder) -> Result<Self, TrainError> {
        let mut model = start.model.clone();
        let adamw = AdamWConfig { weight_decay: config.weight_decay, ..AdamWConfig::default() };
        let (step, optimizer) = match run.latest() {
            None => (0, AdamW::new(adamw, &model.trainable())?),
            Some((step, folder)) => {
                model.load_trainable(&folder.join("trainable.safetensors"))?;
                let path = folder.join("optimizer.safetensors");
                (step, AdamW::load(adamw, &model.trainable(), &path)?)
            }
        };
        let gradients = model.gradients()?;
        Ok(Self { config, model, optimizer, gradients, step, bad_steps: 0 })
    }

    fn update(&mut self, batch: &[&TokenTrace]) -> Result<Values, TrainError> {
        let begun = std::time::Instant::now();
        let targets: usize = batch.iter().map(|trace| trace.action_count()).sum();
        let weight = -1.0 / targets.max(1) as f32;
        self.gradients.clear()?;
        let mut loss = 0.0;
        for part in micro_batches(batch, self.config.micro_batch_tokens) {
            let (packed, selection) = pack(&part);
            let (scores, tape) = self.model.forward(&packed, &selection, 1.0)?;
            loss -= scores.log_probs.iter().map(|&p| f64::from(p)).sum::<f64>();
            let weights = vec![weight; selection.rows.len()];
            self.model.backward(tape, &weights, None, &mut self.gradients)?;
        }
        let rate = self.config.schedule.rate(self.step, self.config.steps);
        let norm = match clip(&mut self.gradients, self.config.clip_norm) {
            Ok(clipped) => {
                self.optimizer.step(self.model.trainable_mut(), &clipped, rate)?;
                self.bad_steps = 0;
                clipped.norm
            }
            Err(AdamWError::NonFinite) => {
                self.bad_steps += 1;
                if self.bad_steps >= MAX_BAD_STEPS {
                    return Err(TrainError::Diverged(self.bad_steps));
                }
                f64::NAN
            }
            Err(error) => return Err(error.into()),
        };
        self.step += 1;
        let tokens: usize = batch.iter().map(|trace| trace.ids.len()).sum();
        Ok(vec![
            ("loss", loss / targets.max(1) as f64),
            ("learning_rate", rate),
            ("gradient_norm", norm),
            ("tokens_per_second", tokens as f64 / begun.elapsed().as_secs_f64()),
        ])
    }

    /// Mean loss per assistant token, without a gradient.
    fn evaluate(&self, examples: &[&TokenTrace]) -> Result<f64, TrainError> {
        let (mut loss, mut targets) = (0.0, 0);
        for part in micro_batches(examples, self.config.micro_batch_tokens) {
            let (packed, selection) = pack(&part);
            let scores = self.model.score(&packed, &selection, 1.0)?;
            loss -= scores.log_probs.iter().map(|&p| f64::from(p)).sum::<f64>();
            targets += scores.log_probs.len();
        }
        Ok(loss / targets.max(1) as f64)
    }

    fn checkpoint(&self, run: &RunFolder) -> Result<(), TrainError> {
        run.checkpoint(self.step, self.config.keep_checkpoints, None, |folder| {
            self.model.save_trainable(&folder.join("trainable.safetensors"))?;
            self.optimizer.save(&folder.join("optimizer.safetensors"))?;
            Ok::<(), TrainError>(())
        })?;
        Ok(())
    }
}

/// Cuts `examples` into parts of at most `tokens` tokens, or of one example.
pub(super) fn micro_batches<'t>(
    examples: &[&'t TokenTrace],
    tokens: usize,
) -> Vec<Vec<&'t TokenTrace>> {
    let mut parts: Vec<Vec<&TokenTrace>> = Vec::new();
    let mut filled = 0;
    for &example in examples {
        let length = example.ids.len();
        match parts.last_mut() {
            Some(part) if filled + length <= tokens => {
                part.push(example);
                filled += length;
            }
            _ => {
                parts.push(vec![example]);
                filled = length;
            }
        }
    }
    parts
}

/// Packs conversations, selecting the rows that predict a sampled token.
pub(super) fn pack(examples: &[&TokenTrace]) -> (Batch, Selection) {
    let ids: Vec<&[u32]> = examples.iter().map(|trace| trace.ids.as_slice()).collect();
    let batch = Batch::pack(&ids);
    let mut selection = Selection::default();
    for (trace, &begin) in examples.iter().zip(&batch.starts) {
        for at in 1..trace.ids.len() {
            if trace.action_mask[at] {
                selection.rows.push((begin + at - 1) as u32);
                selection.targets.push(trace.ids[at]);
            }
        }
    }
    (batch, selection)
}
