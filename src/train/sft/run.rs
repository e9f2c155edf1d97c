//! The loop of a supervised run.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::config::{SftConfig, SftData};
use super::data::examples;
use crate::train::checkpoint;
use crate::train::error::TrainError;
use crate::train::json_file;
use crate::train::metrics::{MetricsLog, Values};
use crate::train::optimize::{BadUpdates, ModelOptimizer};
use crate::train::order::Order;
use crate::train::origin::{self, Resume, Sources};
use crate::train::pack::{micro_batches, pack};
use crate::train::progress::Progress;
use crate::train::run_folder::RunFolder;
use crate::train::start::Start;
use crate::train::summary::RunSummary;
use crate::trajectory::TokenTrace;
use crate::world::WorldConfig;

/// Runs `config` to its end, or resumes it from its last checkpoint. Returns the finished model's
/// folder.
///
/// # Errors
/// Explains why the run could not start or continue. Earlier checkpoints stay usable.
pub fn run_sft(
    config: &SftConfig,
    resume: impl Into<Resume>,
    progress: &mut dyn Progress,
) -> Result<PathBuf, TrainError> {
    config.check()?;
    let run = RunFolder::open(&config.output)?;
    let mut summary = RunSummary::new("sft");
    let outcome = steps(config, resume.into(), &run, progress, &mut summary);
    summary.finish(run.root(), &outcome);
    outcome
}

fn steps(
    config: &SftConfig,
    resume: Resume,
    run: &RunFolder,
    progress: &mut dyn Progress,
    summary: &mut RunSummary,
) -> Result<PathBuf, TrainError> {
    if resume == Resume::No && !run.is_fresh() {
        return Err(TrainError::Occupied(config.output.display().to_string()));
    }
    let world = match &config.data {
        SftData::WorldFacts { world } | SftData::WorldDemonstrations { world, .. } => world.clone(),
        SftData::Chat { .. } => WorldConfig::default(),
    };
    let start = Start::prepare(&config.model, run, &world, config.seed)?;
    summary.device.clone_from(&start.device);
    let data: Vec<&PathBuf> = match &config.data {
        SftData::Chat { path, eval_path, .. } => [path].into_iter().chain(eval_path).collect(),
        _ => Vec::new(),
    };
    let (text, parts) = (start.text_files(), start.parts());
    let model = &start.folder;
    let sources = Sources { data: &data, model, text: &text, parts: &parts, noted: &[] };
    for change in origin::check(run, resume, config, sources)? {
        summary.note(format!("changed since the run began: {change}"));
    }
    let examples = examples(config, &start, summary)?;
    let mut trainer = Trainer::new(config, &start, run)?;
    summary.steps = trainer.step;
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
        summary.step(done, &values);
        progress.step(done, config.steps, &values);
        let cancelled = progress.is_cancelled();
        if done.is_multiple_of(config.checkpoint_every) || last || cancelled {
            trainer.checkpoint(run)?;
        }
        if cancelled && !last {
            return Err(TrainError::Interrupted(done));
        }
    }
    start.save(&trainer.learner.model, &run.model())?;
    Ok(run.model())
}

struct Trainer<'a> {
    config: &'a SftConfig,
    learner: ModelOptimizer,
    bad_updates: BadUpdates,
    step: u64,
}

impl<'a> Trainer<'a> {
    fn new(config: &'a SftConfig, start: &Start, run: &RunFolder) -> Result<Self, TrainError> {
        let (step, checkpoint) = run.latest().unzip();
        let model = start.model.clone();
        let learner = ModelOptimizer::new(
            model,
            config.weight_decay,
            config.clip_norm,
            checkpoint.as_deref(),
        )?;
        let SftState { bad_updates } = match &checkpoint {
            Some(folder) => SftState::load(folder)?,
            None => SftState::default(),
        };
        Ok(Self { config, learner, bad_updates, step: step.unwrap_or(0) })
    }

    fn update(&mut self, batch: &[&TokenTrace]) -> Result<Values, TrainError> {
        let begun = Instant::now();
        let targets: usize = batch.iter().map(|trace| trace.action_count()).sum();
        let weight = -1.0 / targets.max(1) as f32;
        self.learner.clear()?;
        let mut loss = 0.0;
        for part in micro_batches(batch, self.config.micro_batch_tokens) {
            let (packed, selection) = pack(&part);
            let (scores, tape) = self.learner.model.forward(&packed, &selection, 1.0)?;
            loss -= scores.log_probs.iter().map(|&p| f64::from(p)).sum::<f64>();
            let weights = vec![weight; selection.rows.len()];
            self.learner.backward(tape, &weights, None)?;
        }
        let loss = loss / targets.max(1) as f64;
        let rate = self.config.schedule.rate(self.step, self.config.steps);
        let norm = self.learner.update(rate, loss)?;
        self.bad_updates.count(norm.is_none())?;
        self.step += 1;
        let tokens: usize = batch.iter().map(|trace| trace.ids.len()).sum();
        Ok(vec![
            ("loss", loss),
            ("learning_rate", rate),
            ("gradient_norm", norm.unwrap_or(f64::NAN)),
            ("tokens_per_second", tokens as f64 / begun.elapsed().as_secs_f64()),
            ("seconds", begun.elapsed().as_secs_f64()),
        ])
    }

    /// Mean loss per assistant token, without a gradient.
    fn evaluate(&self, examples: &[&TokenTrace]) -> Result<f64, TrainError> {
        let (mut loss, mut targets) = (0.0, 0);
        for part in micro_batches(examples, self.config.micro_batch_tokens) {
            let (packed, selection) = pack(&part);
            let scores = self.learner.model.score(&packed, &selection, 1.0)?;
            loss -= scores.log_probs.iter().map(|&p| f64::from(p)).sum::<f64>();
            targets += scores.log_probs.len();
        }
        Ok(loss / targets.max(1) as f64)
    }

    fn checkpoint(&self, run: &RunFolder) -> Result<(), TrainError> {
        run.checkpoint(self.step, self.config.keep_checkpoints, None, |folder| {
            self.learner.save(folder)?;
            SftState { bad_updates: self.bad_updates }.save(folder)
        })?;
        Ok(())
    }
}

/// The state of a run in a checkpoint, besides model and optimizer.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct SftState {
    bad_updates: BadUpdates,
}

impl SftState {
    /// Checkpoints of earlier versions have none.
    fn load(folder: &Path) -> Result<Self, TrainError> {
        match json_file::read(&folder.join(checkpoint::STATE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            read => Ok(read?),
        }
    }

    fn save(&self, folder: &Path) -> Result<(), TrainError> {
        Ok(json_file::write(&folder.join(checkpoint::STATE), self)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use serde_json::json;

    use super::*;

    struct Quiet;

    impl Progress for Quiet {
        fn step(&mut self, _done: u64, _of: u64, _values: &Values) {}

        fn is_cancelled(&self) -> bool {
            false
        }
    }

    #[test]
    fn the_summary_counts_rows_that_are_not_learnt_and_steps_of_earlier_attempts() {
        let folder = tempfile::tempdir().unwrap();
        let row = |weight: u32| {
            json!({ "messages": [
                { "role": "user", "content": "Where?" },
                { "role": "assistant", "content": "Ferk", "weight": weight },
            ]})
        };
        for (name, rows) in [("train", [row(1), row(1)]), ("eval", [row(1), row(0)])] {
            let text = rows.map(|row| row.to_string() + "\n").concat();
            fs::write(folder.path().join(format!("{name}.jsonl")), text).unwrap();
        }
        let config: SftConfig = serde_json::from_value(json!({
            "schema_version": 1,
            "output": folder.path().join("run"),
            "steps": 1,
            "batch_size": 1,
            "model": { "path": "models/policy" },
            "data": {
                "kind": "chat",
                "path": folder.path().join("train.jsonl"),
                "eval_path": folder.path().join("eval.jsonl"),
            },
        }))
        .unwrap();
        for resume in [false, true] {
            run_sft(&config, resume, &mut Quiet).unwrap();
            let text = fs::read_to_string(folder.path().join("run/summary.json")).unwrap();
            let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(summary["steps"], 1, "resumed: {resume}");
            assert_eq!(summary["data"][0]["left_out"], 0);
            assert_eq!(summary["data"][1]["left_out"], 1);
        }
    }

    #[test]
    fn another_config_of_the_base_is_no_continuation() {
        let folder = tempfile::tempdir().unwrap();
        let world = json!({ "people": 12, "companies": 3, "cities": 6, "countries": 3 });
        let config: SftConfig = serde_json::from_value(json!({
            "schema_version": 1,
            "output": folder.path(),
            "steps": 1,
            "batch_size": 1,
            "model": { "new": {
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 8,
                "max_position_embeddings": 256,
            }},
            "data": { "kind": "world_facts", "world": world },
        }))
        .unwrap();
        run_sft(&config, false, &mut Quiet).unwrap();
        run_sft(&config, true, &mut Quiet).unwrap();
        let path = folder.path().join("start/config.json");
        let text = fs::read_to_string(&path).unwrap();
        let mut shape: serde_json::Value = serde_json::from_str(&text).unwrap();
        shape["rms_norm_eps"] = json!(0.25);
        fs::write(&path, shape.to_string()).unwrap();
        let error = run_sft(&config, true, &mut Quiet).unwrap_err().to_string();
        assert!(error.contains("the contents of `config.json`"), "{error}");
        run_sft(&config, Resume::Changed, &mut Quiet).unwrap();
    }

    #[test]
    fn bad_updates_are_counted_across_a_stop() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(SftState::load(folder.path()).unwrap(), SftState::default());
        let mut state = SftState::default();
        for _ in 0..4 {
            state.bad_updates.count(true).unwrap();
        }
        state.save(folder.path()).unwrap();
        let mut resumed = SftState::load(folder.path()).unwrap();
        assert!(matches!(resumed.bad_updates.count(true), Err(TrainError::Diverged(5))));
    }
}
