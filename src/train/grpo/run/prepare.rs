//! The start of a run, or of its continuation from a checkpoint.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::state::RunState;
use super::{Run, Services};
use crate::engine::tokens::LoadMeter;
use crate::episode::Limits;
use crate::policy::TokenPolicy;
use crate::program;
use crate::protocol::{Opening, Protocol};
use crate::reward::Rewarder;
use crate::task::Task;
use crate::train::error::TrainError;
use crate::train::grpo::async_rollouts::AsyncRollouts;
use crate::train::grpo::config::{GrpoConfig, TaskConfig, TrainerConfig};
use crate::train::grpo::evaluate::{Evaluation, basis};
use crate::train::grpo::judge::AnswerJudge;
use crate::train::grpo::rollout::Rollouts;
use crate::train::grpo::samples::Samples;
use crate::train::grpo::tasks::Tasks;
use crate::train::grpo::tinker::TinkerLearner;
use crate::train::grpo::token_servers;
use crate::train::grpo::trainer::Trainer;
use crate::train::origin::{self, Resume, Sources, model_parts};
use crate::train::run_folder::RunFolder;
use crate::train::start::Start;
use crate::train::summary::RunSummary;
use crate::trajectory::Trajectory;
use crate::world::WorldConfig;

/// Builds everything that a run needs, and tests it before episodes are paid for.
pub(super) fn prepare<'c>(
    config: &'c GrpoConfig,
    services: &Services,
    resume: Resume,
    folder: &RunFolder,
    summary: &mut RunSummary,
) -> Result<Run<'c>, TrainError> {
    if resume == Resume::No && !folder.is_fresh() {
        return Err(TrainError::Occupied(config.output.display().to_string()));
    }
    let world = match &config.tasks {
        TaskConfig::World { world, .. } => world.clone(),
        TaskConfig::File { .. } => WorldConfig::default(),
    };
    let start = Start::prepare(&config.model, folder, &world, config.seed)?
        .showing(config.limits.observation_chars);
    summary.device.clone_from(&start.device);
    let data: Vec<&PathBuf> = match &config.tasks {
        TaskConfig::File { path, eval_path, .. } => [path].into_iter().chain(eval_path).collect(),
        TaskConfig::World { .. } => Vec::new(),
    };
    let mut text = start.text_files();
    let prompt = config.judge.as_ref().and_then(|judge| judge.prompt.clone());
    text.extend(prompt.map(|prompt| ("judge.prompt".to_owned(), prompt)));
    let mut parts = start.parts();
    for (name, choice) in config.large_models() {
        let name = format!("{name}.path");
        parts.extend(choice.path.iter().flat_map(|path| model_parts(&name, path)));
    }
    let (model, noted) = (&start.folder, programs(config));
    let sources = Sources { data: &data, model, text: &text, parts: &parts, noted: &noted };
    for change in origin::check(folder, resume, config, sources)? {
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
    let basis = basis(config, &tasks, &text)?;
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
    trainer.rate_factor = config.guards.rollback_lr_factor.powi(state.rollbacks as i32);
    trainer.bad_updates = state.bad_updates;
    summary.steps = trainer.step;
    let protocol = Arc::new(protocol);
    let rewarder = Arc::new(Rewarder::new(&config.reward)?);
    // Episodes run on their own threads, so that they continue while this thread computes.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    // A broken reward is found before episodes are paid for.
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
    let slots = Arc::new(Semaphore::new(config.max_in_flight.min(Semaphore::MAX_PERMITS)));
    let params = config.large_model.call_params();
    let rollouts = |policy: TokenPolicy| Rollouts {
        policy: Arc::new(policy),
        large_model: Arc::clone(&services.large_model),
        protocol: Arc::clone(&protocol),
        rewarder: Arc::clone(&rewarder),
        judge: judge.clone(),
        limits: Limits { fallback: false, ..config.limits.clone() },
        params: params.clone(),
        slots: Arc::clone(&slots),
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
    let load = services.servers.clone().map(LoadMeter::new);
    Evaluation::forget_later(folder.root(), folder.latest().map(|(step, _)| step))?;
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
        load,
        samples,
        state,
        basis,
        runtime,
    })
}

/// The files that the command of the reward names, by their paths. They may be written to, so a
/// change is no reason to refuse.
fn programs(config: &GrpoConfig) -> Vec<(String, PathBuf)> {
    let command = config.reward.external.iter().flat_map(|external| &external.command);
    let files = program::files(command).into_iter();
    files.map(|path| (path.display().to_string(), path)).collect()
}

/// Whether `task`'s opening leaves the policy room to answer.
fn fits(
    config: &GrpoConfig,
    start: &Start,
    protocol: &Protocol,
    task: &Task,
) -> Result<bool, TrainError> {
    let ids = opening_ids(config, start, protocol, task)?;
    Ok(ids.len() < start.model.spec().max_position_embeddings)
}

/// The first ids of `task`'s episodes.
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
