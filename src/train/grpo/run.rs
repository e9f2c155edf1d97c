//! The loop of a run: sample, learn, measure, keep.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::runtime::Runtime;

use super::collect::Collected;
use super::config::{GrpoConfig, TaskConfig};
use super::evaluate::{ClassResult, Evaluation};
use super::guard::{Figures, Watch};
use super::learner::Learner;
use super::report;
use super::rollout::Rollouts;
use super::tasks::Tasks;
use crate::dataset::world::WorldConfig;
use crate::engine::native::NativeEngine;
use crate::episode::{Limits, Participants};
use crate::large_model::LargeModel;
use crate::policy::TokenPolicy;
use crate::protocol::{Opening, Protocol};
use crate::reward::Rewarder;
use crate::task::Task;
use crate::train::error::TrainError;
use crate::train::metrics::{MetricsLog, Values};
use crate::train::run_folder::RunFolder;
use crate::train::sft::Progress;
use crate::train::start::Start;

/// How often it is looked whether the run should stop while episodes run.
const CANCEL_POLL: Duration = Duration::from_millis(100);

/// What a checkpoint keeps beside policy and optimizer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct State {
    watch: Watch,
    bad_updates: u32,
    best: Option<Best>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Best {
    step: u64,
    result: ClassResult,
}

/// Runs `config` to its end, or on from its last checkpoint; returns the finished policy's folder:
/// the best by evaluation, or the last where there is none.
pub fn run_grpo(
    config: &GrpoConfig,
    large_model: Arc<dyn LargeModel>,
    resume: bool,
    progress: &mut dyn Progress,
) -> Result<PathBuf, TrainError> {
    config.check()?;
    let folder = RunFolder::open(&config.output)?;
    if !resume && !folder.is_fresh() {
        return Err(TrainError::Occupied(config.output.display().to_string()));
    }
    let world = match &config.tasks {
        TaskConfig::World { world, .. } => world.clone(),
        TaskConfig::File { .. } => WorldConfig::default(),
    };
    let start = Start::prepare(&config.model, &folder, &world, config.seed)?;
    start.text.check_turns()?;
    let protocol = start.protocol()?;
    let tasks = Tasks::load(&config.tasks, config.seed, config.eval.tasks, |task| {
        fits(config, &start, &protocol, task)
    })?;
    let learner = Learner::new(config, &start.model, &folder)?;
    let engine = Arc::new(NativeEngine::new(
        learner.model.config(),
        &learner.model.merged()?,
        &config.engine,
    )?);
    let policy = TokenPolicy::new("policy", engine.clone(), Arc::clone(&start.text), false);
    let rewarder = Rewarder::new(&config.reward)?;
    let mut params = config.large_model.params.clone();
    if config.large_model.cache_replies > 0 {
        params.entry("seed").or_insert(json!(0));
    }
    let rollouts = Rollouts {
        participants: Participants {
            policy: &policy,
            large_model: &*large_model,
            protocol: &protocol,
        },
        rewarder: &rewarder,
        limits: Limits { fallback: false, ..config.limits.clone() },
        params,
        max_in_flight: config.max_in_flight,
    };
    let state = State::load(&folder)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut run = Run { config, folder, start, tasks, learner, engine, rollouts, state, runtime };
    run.go(progress)
}

/// Whether the policy has room to answer after `task`'s opening.
fn fits(
    config: &GrpoConfig,
    start: &Start,
    protocol: &Protocol,
    task: &Task,
) -> Result<bool, TrainError> {
    let opening = Opening {
        question: &task.question,
        conversation: &[],
        max_turns: config.limits.max_turns,
        allow_final: config.limits.allow_final,
    };
    let ids = start.text.opening_ids(&protocol.opening(&opening)?)?;
    Ok(ids.len() < start.model.config().max_position_embeddings)
}

struct Run<'c> {
    config: &'c GrpoConfig,
    folder: RunFolder,
    start: Start,
    tasks: Tasks,
    learner: Learner<'c>,
    engine: Arc<NativeEngine>,
    rollouts: Rollouts<'c>,
    state: State,
    runtime: Runtime,
}

impl State {
    const FILE: &str = "state.json";

    fn load(folder: &RunFolder) -> Result<Self, TrainError> {
        let Some((_, path)) = folder.latest() else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path.join(Self::FILE))?;
        Ok(serde_json::from_str(&text).map_err(std::io::Error::other)?)
    }
}

impl Run<'_> {
    fn go(&mut self, progress: &mut dyn Progress) -> Result<PathBuf, TrainError> {
        self.learner.bad_updates = self.state.bad_updates;
        let mut log = MetricsLog::open(self.folder.root(), self.learner.step)?;
        if self.learner.step == 0 {
            self.evaluate(progress)?;
        }
        while self.learner.step < self.config.steps {
            let (mut values, figures) = self.step(progress)?;
            let done = self.learner.step;
            let is_last = done == self.config.steps;
            let mut is_best = false;
            if is_last || done.is_multiple_of(self.config.eval.every) {
                let (more, best) = self.evaluate(progress)?;
                values.extend(more);
                is_best = best;
            }
            let collapse = self.state.watch.check(&self.config.guards, &figures);
            log.write(done, &values)?;
            progress.step(done, self.config.steps, &values);
            let is_cancelled = progress.is_cancelled();
            let is_due = done.is_multiple_of(self.config.checkpoint_every);
            if is_due || is_last || is_best || is_cancelled || collapse.is_some() {
                self.checkpoint()?;
            }
            if let Some(reason) = collapse {
                let kept = format!("the best policy is in `{}`", self.finish()?.display());
                return Err(TrainError::Collapsed { step: done, reason, kept });
            }
            if is_cancelled && !is_last {
                return Err(TrainError::Interrupted(done));
            }
        }
        self.finish()
    }

    /// One step, with what it measured.
    fn step(&mut self, progress: &dyn Progress) -> Result<(Values, Figures), TrainError> {
        let begun = Instant::now();
        let collected = self.collect(progress)?;
        let sampled = begun.elapsed().as_secs_f64();
        let step = self.learner.step;
        let learnt = self.learner.step(&collected.samples())?;
        self.engine.set_weights(&self.learner.model.merged()?);

        let has_kl = self.config.objective.kl_coef != 0.0;
        let mut values = collected.values();
        let value = |name| values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let kl = if has_kl {
            learnt.kl()
        } else if (step + 1).is_multiple_of(self.config.eval.every) {
            let traces: Vec<_> =
                collected.members().map(|scored| &scored.episode.trajectory.trace).collect();
            self.learner.divergence(&traces)?
        } else {
            None
        };
        let figures = Figures {
            entropy: learnt.entropy(),
            kl,
            clip_fraction: learnt.clip_fraction(),
            response_tokens: value("response_tokens"),
            zero_variance: value("zero_variance"),
            log_prob_gap: learnt.log_prob_gap(),
        };
        let seconds = begun.elapsed().as_secs_f64();
        let episodes = collected.members().count() as f64;
        values.extend(learnt.values(has_kl));
        values.extend(kl.filter(|_| !has_kl).map(|kl| ("kl", kl)));
        values.extend([
            ("rollout_seconds", sampled),
            ("update_seconds", seconds - sampled),
            ("episodes_per_second", episodes / seconds),
            ("tokens_per_second", collected.sampled_tokens() as f64 / seconds),
        ]);
        Ok((values, figures))
    }

    /// The episodes of the next step. While the large model is down, waits and tries again.
    fn collect(&mut self, progress: &dyn Progress) -> Result<Collected, TrainError> {
        let outage = self.config.outage;
        let mut pause = Duration::from_millis(outage.pause_ms);
        for retry in 0..=outage.retries {
            let gather =
                Collected::gather(self.config, &self.tasks, &self.rollouts, self.learner.step);
            let collected = self.wait(progress, gather)??;
            if !collected.is_outage() {
                return Ok(collected);
            }
            let reason = collected.last_failure.unwrap_or_default();
            if retry == outage.retries {
                self.checkpoint()?;
                return Err(TrainError::Outage {
                    step: self.learner.step,
                    failed: collected.failed,
                    asked: collected.asked,
                    retries: retry,
                    reason,
                });
            }
            tracing::warn!(reason, pause_ms = pause.as_millis() as u64, "most episodes failed");
            self.wait(progress, async { tokio::time::sleep(pause).await })?;
            pause *= 2;
        }
        // Not reached: the last round returns.
        Ok(Collected::default())
    }

    /// Waits for `future`, or until the run is to stop; then saves what is done.
    fn wait<T>(
        &self,
        progress: &dyn Progress,
        future: impl Future<Output = T>,
    ) -> Result<T, TrainError> {
        let cancelled = async {
            while !progress.is_cancelled() {
                tokio::time::sleep(CANCEL_POLL).await;
            }
        };
        let outcome = self.runtime.block_on(async {
            tokio::select! {
                biased;
                done = future => Some(done),
                () = cancelled => None,
            }
        });
        match outcome {
            Some(done) => Ok(done),
            None => {
                self.checkpoint()?;
                Err(TrainError::Interrupted(self.learner.step))
            }
        }
    }

    /// Evaluates the policy as it is. Returns what was measured, and whether it is the best so far.
    fn evaluate(&mut self, progress: &dyn Progress) -> Result<(Values, bool), TrainError> {
        if self.tasks.eval.is_empty() {
            return Ok((Values::new(), false));
        }
        let step = self.learner.step;
        let evaluation = self.wait(progress, Evaluation::run(&self.tasks, &self.rollouts, step))?;
        evaluation.save(self.folder.root())?;
        let result = evaluation.all;
        let is_best = self.state.best.is_none_or(|best| evaluation.is_better_than(&best.result));
        if is_best {
            self.state.best = Some(Best { step, result });
        }
        report::write(self.config, self.folder.root(), step)?;
        let values = vec![("eval_exact", result.share()), ("eval_reward", result.reward)];
        Ok((values, is_best))
    }

    fn checkpoint(&self) -> Result<(), TrainError> {
        let best = self.state.best.map(|best| best.step);
        let state = State { bad_updates: self.learner.bad_updates, ..self.state.clone() };
        self.folder.checkpoint(
            self.learner.step,
            self.config.keep_checkpoints,
            best,
            |folder| {
                self.learner.save(folder)?;
                let text = serde_json::to_string_pretty(&state).map_err(std::io::Error::other)?;
                Ok::<(), TrainError>(std::fs::write(folder.join(State::FILE), text)?)
            },
        )?;
        Ok(())
    }

    /// Puts the best policy into the folder of the finished model.
    fn finish(&self) -> Result<PathBuf, TrainError> {
        let best = self.state.best.map_or(self.learner.step, |best| best.step);
        let policy = match best {
            0 => self.start.model.clone(),
            best => self.learner.saved(&self.folder.checkpoint_path(best))?,
        };
        self.start.save(&policy, &self.folder.model())?;
        report::write(self.config, self.folder.root(), self.learner.step)?;
        Ok(self.folder.model())
    }
}
