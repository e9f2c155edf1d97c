//! The loop of a run: sample, learn, measure, keep.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::async_rollouts::{AsyncRollouts, Gathered};
use super::config::{GrpoConfig, TaskConfig, TrainerConfig};
use super::evaluate::Evaluation;
use super::guard::{Figures, Guards};
use super::judge::AnswerJudge;
use super::learner::Learner;
use super::local::LocalLearner;
use super::report;
use super::rollout::Rollouts;
use super::samples::Samples;
use super::state::{Best, RunState, copy_policy};
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

/// What a run needs of others.
pub struct Services {
    /// The large model of its episodes.
    pub large_model: Arc<dyn LargeModel>,
    /// Judges answers, where it is another.
    pub judge: Option<Arc<dyn LargeModel>>,
    /// The servers that sample its episodes, where `tokens` names them.
    pub servers: Option<Arc<TokensEngine>>,
    /// The key of the server that trains, where it needs one.
    pub trainer_key: Option<SecretString>,
}

impl From<Arc<dyn LargeModel>> for Services {
    fn from(large_model: Arc<dyn LargeModel>) -> Self {
        Self { large_model, judge: None, servers: None, trainer_key: None }
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
    let (services, mut resume) = (services.into(), resume.into());
    let outcome = loop {
        let ended = prepare(config, &services, resume, &folder, &mut summary)
            .and_then(|mut run| run.go(progress, &mut summary));
        match ended {
            Ok(Ended::Finished(model)) => break Ok(model),
            // What it goes on from is a checkpoint, as if the run had been ended in between.
            Ok(Ended::Returned) => resume = Resume::Same,
            Err(error) => break Err(error),
        }
    };
    summary.finish(folder.root(), &outcome);
    outcome
}

fn prepare<'c>(
    config: &'c GrpoConfig,
    services: &Services,
    resume: Resume,
    folder: &RunFolder,
    summary: &mut Summary,
) -> Result<Run<'c>, TrainError> {
    if resume == Resume::No && !folder.is_fresh() {
        return Err(TrainError::Occupied(config.output.display().to_string()));
    }
    let world = match &config.tasks {
        TaskConfig::World { world, .. } => world.clone(),
        TaskConfig::File { .. } => WorldConfig::default(),
    };
    let start = Start::prepare(&config.model, folder, &world, config.seed)?;
    summary.device.clone_from(&start.device);
    let data: Vec<&PathBuf> = match &config.tasks {
        TaskConfig::File { path, eval_path, .. } => [path].into_iter().chain(eval_path).collect(),
        TaskConfig::World { .. } => Vec::new(),
    };
    for change in origin::check(folder, resume, config, &data, &start.folder)? {
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
    let state = RunState::load(folder)?;
    let mut trainer = match &config.trainer {
        TrainerConfig::Local {} => Trainer::local(config, &start.model, folder)?,
        TrainerConfig::Tinker(tinker) => {
            let checkpoint = folder.latest().map(|(_, path)| path);
            let (key, checkpoint) = (services.trainer_key.clone(), checkpoint.as_deref());
            let learner = TinkerLearner::new(config, tinker, key, &start, checkpoint)?;
            Trainer::new(config, Box::new(learner), &start.model, folder)?
        }
    };
    trainer.rate_factor = config.guards.return_rate.powi(state.returns as i32);
    trainer.bad_updates = state.bad_updates;
    let protocol = Arc::new(protocol);
    let rewarder = Arc::new(Rewarder::new(&config.reward)?);
    // Episodes run on a thread of their own, so that they go on while this one computes.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // A reward that does not work is found before an episode is paid for.
    let judge = config.judge.as_ref().map(|choice| {
        let model = services.judge.as_ref().unwrap_or(&services.large_model);
        AnswerJudge::new(choice, Arc::clone(model), state.judge).map(Arc::new)
    });
    let judge = judge.transpose()?;
    if let Some(task) = tasks.draw(0, 0, 1, 1)?.first() {
        runtime.block_on(rewarder.score(&Trajectory::default(), task))?;
        if let Some(judge) = &judge {
            let failed = runtime.block_on(judge.try_out(task)).err();
            failed.map_or(Ok(()), |failure| Err(TrainError::JudgeIsDown(failure.reason)))?;
        }
    }
    let places = Arc::new(Semaphore::new(config.max_in_flight.min(Semaphore::MAX_PERMITS)));
    let mut params = config.large_model.params.clone();
    if config.large_model.cache_replies > 0 {
        params.entry("seed").or_insert(json!(0));
    }
    let rollouts = |policy: TokenPolicy| Rollouts {
        policy: Arc::new(policy),
        large_model: Arc::clone(&services.large_model),
        protocol: Arc::clone(&protocol),
        rewarder: Arc::clone(&rewarder),
        judge: judge.clone(),
        limits: Limits { fallback: false, ..config.limits.clone() },
        params: params.clone(),
        places: Arc::clone(&places),
    };
    let rollouts = AsyncRollouts::new(
        Arc::new(config.clone()),
        Arc::clone(&tasks),
        &trainer,
        &start.text,
        services.servers.clone(),
        rollouts,
    )?;
    if let Some(servers) = services.servers.as_ref().filter(|_| trainer.step == 0) {
        let prompts = tasks.draw(0, 0, config.groups_per_step, config.groups_per_step)?;
        let prompts = prompts.iter().map(|task| opening_ids(config, &start, &protocol, task));
        let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
        let most = config.guards.max_rollout_logprob_diff;
        let stops = start.text.tokenizer.stop_ids();
        let compared = token_servers::compare(rollouts.first(), servers, &prompts, stops, most);
        runtime.block_on(compared)?;
    }
    let busy = services.servers.clone().map(Busy::new);
    let samples = Samples::open(folder.root(), trainer.step, config.samples)?;
    let folder = folder.clone();
    Ok(Run {
        config,
        folder,
        start,
        tasks,
        trainer,
        rollouts,
        judge,
        busy,
        samples,
        state,
        runtime,
    })
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
    judge: Option<Arc<AnswerJudge>>,
    busy: Option<Busy>,
    samples: Samples,
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

/// How a run ended.
enum Ended {
    /// With a finished model, in this folder.
    Finished(PathBuf),
    /// With a checkpoint of its best policy, to go on from.
    Returned,
}

impl Run<'_> {
    fn go(
        &mut self,
        progress: &mut dyn Progress,
        summary: &mut Summary,
    ) -> Result<Ended, TrainError> {
        let mut log = MetricsLog::open(self.folder.root(), self.trainer.step)?;
        if self.trainer.step == 0 {
            self.evaluate(progress)?;
        }
        while self.trainer.step < self.config.steps {
            let (mut values, figures) = match self.step(progress) {
                Err(error @ TrainError::Diverged(_)) if self.may_return() => {
                    return self.go_back(&error.to_string(), summary);
                }
                stepped => stepped?,
            };
            let done = self.trainer.step;
            let is_last = done == self.config.steps;
            let mut is_best = false;
            let best_before = self.state.best;
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
            if let Some(reason) = &collapse
                && self.may_return()
                && !is_last
            {
                // The policy that collapsed is none to go back to, however it does.
                self.state.best = best_before;
                return self.go_back(reason, summary);
            }
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
        self.finish().map(Ended::Finished)
    }

    /// Whether there is a best policy to go back to, and a return left.
    fn may_return(&self) -> bool {
        // Servers keep the weights that they have.
        let is_here = self.busy.is_none() && matches!(self.config.trainer, TrainerConfig::Local {});
        is_here && self.state.best.is_some() && self.state.returns < self.config.guards.returns
    }

    /// Makes the best policy and its optimizer the checkpoint of the steps done: the run goes on
    /// with further tasks, not once more with those that led astray.
    fn go_back(&mut self, reason: &str, summary: &mut Summary) -> Result<Ended, TrainError> {
        let best = self.state.best.map_or(0, |best| best.step);
        let Guards { returns, return_rate, .. } = self.config.guards;
        self.state.returns += 1;
        self.state.watch.reset();
        let step = self.trainer.step;
        summary.note(format!(
            "step {step}: {}; back to the policy after step {best} with {} of the learning rate, return {} of {returns}",
            reason.lines().next().unwrap_or_default(),
            return_rate.powi(self.state.returns as i32),
            self.state.returns,
        ));
        let state = RunState { bad_updates: BadUpdates::default(), ..self.present() };
        let kept = self.config.keep_checkpoints;
        self.folder.checkpoint(step, kept, Some(best), |folder| {
            match best {
                0 => LocalLearner::new(self.config, &self.start.model, None)?.save(folder)?,
                best => copy_policy(&self.folder.checkpoint_path(best), folder)?,
            }
            state.save(folder)
        })?;
        Ok(Ended::Returned)
    }

    /// One step, with what it measured.
    fn step(&mut self, progress: &dyn Progress) -> Result<(Values, Figures), TrainError> {
        let begun = Instant::now();
        let step = self.trainer.step;
        let gathered = self.gather(progress)?;
        let waited = begun.elapsed().as_secs_f64();
        let collected = &gathered.collected;
        let learnt = self.trainer.step(&collected.samples())?;
        self.samples.write(self.trainer.step, collected)?;
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
            // A policy that always writes the same has nothing to learn from, and an update that
            // is empty measures nothing.
            entropy: learnt.entropy().or_else(|| collected.sampled_entropy()),
            kl,
            clip_fraction: learnt.clip_fraction(),
            response_tokens: value("response_tokens"),
            zero_variance: value("zero_variance"),
            reward: value("reward"),
            rollout_logprob_diff: learnt.rollout_logprob_diff(),
        };
        let seconds = begun.elapsed().as_secs_f64();
        let episodes = collected.members().count() as f64;
        values.extend(learnt.values(has_kl));
        values.extend(kl.filter(|_| !has_kl).map(|kl| ("kl", kl)));
        let returns = f64::from(self.state.returns);
        values.extend((returns > 0.0).then_some(("returns", returns)));
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
            None | Some(Err(TrainError::Outage { .. }
                | TrainError::RewardFails { .. }
                | TrainError::JudgeFails { .. }))
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

    /// The state as it is.
    fn present(&self) -> RunState {
        RunState {
            bad_updates: self.trainer.bad_updates,
            judge: self.judge.as_ref().map_or(self.state.judge, |judge| judge.used()),
            ..self.state.clone()
        }
    }

    fn checkpoint(&mut self) -> Result<(), TrainError> {
        let (best, state) = (self.state.best.map(|best| best.step), self.present());
        self.folder.checkpoint(
            self.trainer.step,
            self.config.keep_checkpoints,
            best,
            |folder| {
                self.trainer.save(folder)?;
                state.save(folder)
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
