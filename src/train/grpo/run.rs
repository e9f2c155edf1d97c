//! The loop of a run: sample, learn, measure, keep.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::async_rollouts::{AsyncRollouts, Gathered};
use super::config::{GrpoConfig, TaskConfig, TrainerConfig};
use super::evaluate::{ClassResult, Evaluation};
use super::guard::{Figures, GuardState};
use super::report;
use super::rollout::Rollouts;
use super::tasks::Tasks;
use super::tinker::TinkerLearner;
use super::token_servers::{self, Busy};
use super::trainer::Trainer;
use crate::engine::tokens::TokensEngine;
use crate::episode::Limits;
use crate::large_model::LargeModel;
use crate::policy::TokenPolicy;
use crate::protocol::{Opening, Protocol};
use crate::reward::Rewarder;
use crate::task::Task;
use crate::train::checkpoint;
use crate::train::error::TrainError;
use crate::train::metrics::{MetricsLog, Values};
use crate::train::optimize::BadUpdates;
use crate::train::origin::{self, Resume};
use crate::train::progress::Progress;
use crate::train::run_folder::RunFolder;
use crate::train::start::Start;
use crate::train::summary::Summary;
use crate::trajectory::Trajectory;
use crate::world::WorldConfig;

/// How often it is looked whether the run should stop while episodes run.
const CANCEL_POLL: Duration = Duration::from_millis(100);

/// What a checkpoint keeps beside policy and optimizer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct RunState {
    watch: GuardState,
    bad_updates: BadUpdates,
    best: Option<Best>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Best {
    step: u64,
    result: ClassResult,
}

/// What a run needs of others.
pub struct Services {
    /// The large model of its episodes.
    pub large_model: Arc<dyn LargeModel>,
    /// The servers that sample its episodes, where `tokens` names them.
    pub servers: Option<Arc<TokensEngine>>,
    /// The key of the server that trains, where it needs one.
    pub trainer_key: Option<SecretString>,
}

impl From<Arc<dyn LargeModel>> for Services {
    fn from(large_model: Arc<dyn LargeModel>) -> Self {
        Self { large_model, servers: None, trainer_key: None }
    }
}

/// Runs `config` to its end, or on from its last checkpoint; returns the finished policy's folder:
/// the best by evaluation, or the last where there is none.
///
/// # Errors
/// Says why the run could not begin or go on. Checkpoints written before stay usable.
pub fn run_grpo(
    config: &GrpoConfig,
    services: impl Into<Services>,
    resume: impl Into<Resume>,
    progress: &mut dyn Progress,
) -> Result<PathBuf, TrainError> {
    config.check()?;
    let folder = RunFolder::open(&config.output)?;
    let mut summary = Summary::new("grpo");
    let root = folder.root().to_owned();
    let outcome = prepare(config, services.into(), resume.into(), folder, &mut summary)
        .and_then(|mut run| run.go(progress, &mut summary));
    summary.finish(&root, &outcome);
    outcome
}

fn prepare<'c>(
    config: &'c GrpoConfig,
    services: Services,
    resume: Resume,
    folder: RunFolder,
    summary: &mut Summary,
) -> Result<Run<'c>, TrainError> {
    if resume == Resume::No && !folder.is_fresh() {
        return Err(TrainError::Occupied(config.output.display().to_string()));
    }
    let world = match &config.tasks {
        TaskConfig::World { world, .. } => world.clone(),
        TaskConfig::File { .. } => WorldConfig::default(),
    };
    let start = Start::prepare(&config.model, &folder, &world, config.seed)?;
    summary.device.clone_from(&start.device);
    let data: Vec<&PathBuf> = match &config.tasks {
        TaskConfig::File { path, eval_path, .. } => [path].into_iter().chain(eval_path).collect(),
        TaskConfig::World { .. } => Vec::new(),
    };
    for change in origin::check(&folder, resume, config, &data, &start.folder)? {
        summary.note(format!("changed since the run began: {change}"));
    }
    start.text.check_turns()?;
    let protocol = start.protocol()?;
    let tasks = Arc::new(Tasks::load(&config.tasks, config.seed, config.eval.tasks, |task| {
        fits(config, &start, &protocol, task)
    })?);
    summary.data.clone_from(&tasks.read);
    for data in &summary.data {
        data.check(config.max_rejected)?;
    }
    let Services { large_model, servers, trainer_key } = services;
    let mut trainer = match &config.trainer {
        TrainerConfig::Local {} => Trainer::local(config, &start.model, &folder)?,
        TrainerConfig::Tinker(tinker) => {
            let checkpoint = folder.latest().map(|(_, path)| path);
            let checkpoint = checkpoint.as_deref();
            let learner = TinkerLearner::new(config, tinker, trainer_key, &start, checkpoint)?;
            Trainer::new(config, Box::new(learner), &start.model, &folder)?
        }
    };
    let protocol = Arc::new(protocol);
    let rewarder = Arc::new(Rewarder::new(&config.reward)?);
    // Episodes run on a thread of their own, so that they go on while this one computes.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // A reward that does not work is found before an episode is paid for.
    if let Some(task) = tasks.draw(0, 0, 1, 1)?.first() {
        runtime.block_on(rewarder.score(&Trajectory::default(), task))?;
    }
    let places = Arc::new(Semaphore::new(config.max_in_flight.min(Semaphore::MAX_PERMITS)));
    let mut params = config.large_model.params.clone();
    if config.large_model.cache_replies > 0 {
        params.entry("seed").or_insert(json!(0));
    }
    let rollouts = |policy: TokenPolicy| Rollouts {
        policy: Arc::new(policy),
        large_model: Arc::clone(&large_model),
        protocol: Arc::clone(&protocol),
        rewarder: Arc::clone(&rewarder),
        limits: Limits { fallback: false, ..config.limits.clone() },
        params: params.clone(),
        places: Arc::clone(&places),
    };
    let rollouts = AsyncRollouts::new(
        Arc::new(config.clone()),
        Arc::clone(&tasks),
        &trainer,
        &start.text,
        servers.clone(),
        rollouts,
    )?;
    if let Some(servers) = servers.as_ref().filter(|_| trainer.step == 0) {
        let prompts = tasks.draw(0, 0, config.groups_per_step, config.groups_per_step)?;
        let prompts = prompts.iter().map(|task| opening_ids(config, &start, &protocol, task));
        let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
        let most = config.guards.max_rollout_logprob_diff;
        runtime.block_on(token_servers::compare(rollouts.first(), servers, &prompts, most))?;
    }
    let busy = servers.map(Busy::new);
    let state = RunState::load(&folder)?;
    trainer.bad_updates = state.bad_updates;
    Ok(Run { config, folder, start, tasks, trainer, rollouts, busy, state, runtime })
}

/// Whether the policy has room to answer after `task`'s opening.
fn fits(
    config: &GrpoConfig,
    start: &Start,
    protocol: &Protocol,
    task: &Task,
) -> Result<bool, TrainError> {
    let ids = opening_ids(config, start, protocol, task)?;
    Ok(ids.len() < start.model.spec().max_position_embeddings)
}

/// The ids that `task`'s episodes begin with.
fn opening_ids(
    config: &GrpoConfig,
    start: &Start,
    protocol: &Protocol,
    task: &Task,
) -> Result<Vec<u32>, TrainError> {
    let opening = Opening {
        question: &task.question,
        max_turns: config.limits.max_turns,
        allow_final: config.limits.allow_final,
        ..Opening::default()
    };
    Ok(start.text.opening_ids(&protocol.opening(&opening)?)?)
}

struct Run<'c> {
    config: &'c GrpoConfig,
    folder: RunFolder,
    start: Start,
    tasks: Arc<Tasks>,
    trainer: Trainer<'c>,
    rollouts: AsyncRollouts,
    busy: Option<Busy>,
    state: RunState,
    runtime: Runtime,
}

/// Waits for `future`; `None` when the run is to stop before.
fn wait<T>(
    runtime: &Runtime,
    progress: &dyn Progress,
    future: impl Future<Output = T>,
) -> Option<T> {
    let cancelled = async {
        while !progress.is_cancelled() {
            tokio::time::sleep(CANCEL_POLL).await;
        }
    };
    runtime.block_on(async {
        tokio::select! {
            biased;
            done = future => Some(done),
            () = cancelled => None,
        }
    })
}

impl RunState {
    fn load(folder: &RunFolder) -> Result<Self, TrainError> {
        let Some((_, path)) = folder.latest() else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path.join(checkpoint::STATE))?;
        Ok(serde_json::from_str(&text).map_err(std::io::Error::other)?)
    }
}

impl Run<'_> {
    fn go(
        &mut self,
        progress: &mut dyn Progress,
        summary: &mut Summary,
    ) -> Result<PathBuf, TrainError> {
        let mut log = MetricsLog::open(self.folder.root(), self.trainer.step)?;
        if self.trainer.step == 0 {
            self.evaluate(progress)?;
        }
        while self.trainer.step < self.config.steps {
            let (mut values, figures) = self.step(progress)?;
            let done = self.trainer.step;
            let is_last = done == self.config.steps;
            let mut is_best = false;
            if is_last || done.is_multiple_of(self.config.eval.every) {
                let (more, best) = self.evaluate(progress)?;
                values.extend(more);
                is_best = best;
            }
            let collapse = self.state.watch.check(&self.config.guards, &figures);
            log.write(done, &values)?;
            summary.step(done, &values);
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
        let step = self.trainer.step;
        let gathered = self.gather(progress)?;
        let waited = begun.elapsed().as_secs_f64();
        let collected = &gathered.collected;
        let learnt = self.trainer.step(&collected.samples())?;
        self.rollouts.renew(&self.trainer)?;

        let has_kl = self.config.objective.kl_coef != 0.0;
        let mut values = collected.values();
        let value = |name| values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        let kl = if has_kl {
            learnt.kl()
        } else if (step + 1).is_multiple_of(self.config.eval.every) {
            let traces: Vec<_> =
                collected.members().map(|scored| &scored.episode.trajectory.trace).collect();
            self.trainer.divergence(&traces)?
        } else {
            None
        };
        let figures = Figures {
            entropy: learnt.entropy(),
            kl,
            clip_fraction: learnt.clip_fraction(),
            response_tokens: value("response_tokens"),
            zero_variance: value("zero_variance"),
            rollout_logprob_diff: learnt.rollout_logprob_diff(),
        };
        let seconds = begun.elapsed().as_secs_f64();
        let episodes = collected.members().count() as f64;
        values.extend(learnt.values(has_kl));
        values.extend(kl.filter(|_| !has_kl).map(|kl| ("kl", kl)));
        values.extend([
            ("policy_lag", gathered.policy_lag as f64),
            ("rollout_seconds", gathered.seconds),
            ("wait_seconds", waited),
            ("update_seconds", seconds - waited),
            ("episodes_per_second", episodes / seconds),
            ("tokens_per_second", collected.sampled_tokens() as f64 / seconds),
        ]);
        values.extend(self.busy.as_mut().map(Busy::values).into_iter().flatten());
        Ok((values, figures))
    }

    /// The episodes of the next step. Where the large model stays down, saves what is done.
    fn gather(&mut self, progress: &dyn Progress) -> Result<Gathered, TrainError> {
        let gathered = self.rollouts.gather(self.trainer.step);
        let gathered = wait(&self.runtime, progress, gathered);
        if matches!(
            gathered,
            None | Some(Err(TrainError::Outage { .. } | TrainError::RewardFails { .. }))
        ) {
            self.checkpoint()?;
        }
        gathered.unwrap_or(Err(TrainError::Interrupted(self.trainer.step)))
    }

    /// Evaluates the policy as it is. Returns what was measured, and whether it is the best so far.
    fn evaluate(&mut self, progress: &dyn Progress) -> Result<(Values, bool), TrainError> {
        if self.tasks.eval.is_empty() {
            return Ok((Values::new(), false));
        }
        let step = self.trainer.step;
        let evaluation = Evaluation::run(&self.tasks, self.rollouts.newest(step), step);
        let Some(evaluation) = wait(&self.runtime, progress, evaluation) else {
            self.checkpoint()?;
            return Err(TrainError::Interrupted(step));
        };
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

    fn checkpoint(&mut self) -> Result<(), TrainError> {
        let best = self.state.best.map(|best| best.step);
        let state = RunState { bad_updates: self.trainer.bad_updates, ..self.state.clone() };
        self.folder.checkpoint(
            self.trainer.step,
            self.config.keep_checkpoints,
            best,
            |folder| {
                self.trainer.save(folder)?;
                let text = serde_json::to_string_pretty(&state).map_err(std::io::Error::other)?;
                Ok::<(), TrainError>(std::fs::write(folder.join(checkpoint::STATE), text)?)
            },
        )?;
        Ok(())
    }

    /// Puts the best policy into the folder of the finished model.
    fn finish(&self) -> Result<PathBuf, TrainError> {
        let best = self.state.best.map_or(self.trainer.step, |best| best.step);
        let policy = match best {
            0 => self.start.model.clone(),
            best => self.trainer.saved(&self.folder.checkpoint_path(best))?,
        };
        self.start.save(&policy, &self.folder.model())?;
        report::write(self.config, self.folder.root(), self.trainer.step)?;
        Ok(self.folder.model())
    }
}
