//! `server train`: supervised training and GRPO from a configuration file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use secrecy::SecretString;

use crate::config::{ConfigFile, LocalModelConfig, read_toml};
use crate::engine::config::NativeConfig;
use crate::engine::tokens::TokensEngine;
use crate::engine::tokens::config::TokensConfig;
use crate::large_model::{CachedModel, Endpoint, EndpointSetup, LargeModel, LargeModelChoice};
use crate::tokenization::ChatTokenizer;
use crate::train::config::StartConfig;
use crate::train::grpo::{GrpoConfig, Services, TrainerConfig, run_grpo};
use crate::train::metrics::Values;
use crate::train::origin::Resume;
use crate::train::progress::Progress;
use crate::train::sft::{SftConfig, run_sft};

use super::assemble::local_model;
use super::check::model_is_there;
use super::checksum::checksum;
use super::model_check::declared_context;
use super::output::print_line;
use super::runs::{self, LISTEN};
use super::signals::Signals;
use super::telemetry::Telemetry;
use super::{Failure, hub, secrets};

#[derive(Debug, Args)]
pub struct TrainArgs {
    #[command(subcommand)]
    method: Method,
}

#[derive(Debug, Subcommand)]
enum Method {
    /// Learn from given conversations
    Sft(RunArgs),
    /// Learn from the outcome of whole episodes with a large model (GRPO)
    Grpo(RunArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Configuration of the run
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Continue from the run's last checkpoint
    #[arg(long)]
    resume: bool,
    /// With `--resume`: continue although settings, data or the base model have changed
    #[arg(long, requires = "resume")]
    allow_changes: bool,
    /// Seed, in place of the configuration's
    #[arg(long)]
    seed: Option<u64>,
    /// Folder of the run, in place of the configuration's
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Show this run and the others in the same folder on a web page of this machine
    #[arg(long, value_name = "ADDR", num_args = 0..=1, require_equals = true, default_missing_value = LISTEN)]
    ui: Option<String>,
}

impl RunArgs {
    fn resume(&self) -> Resume {
        match (self.resume, self.allow_changes) {
            (false, _) => Resume::No,
            (true, false) => Resume::Same,
            (true, true) => Resume::Changed,
        }
    }

    /// Serves the page of the run, if `--ui` was given.
    fn show(&self, output: &Path) -> Result<(), Failure> {
        self.ui.as_ref().map_or(Ok(()), |listen| runs::serve_in_background(output, listen))
    }

    /// Applies command-line overrides to the configuration.
    fn apply(&self, seed: &mut u64, output: &mut PathBuf) {
        if let Some(given) = self.seed {
            *seed = given;
        }
        if let Some(given) = &self.output {
            output.clone_from(given);
        }
    }
}

/// Runs `server train`.
pub fn run(args: TrainArgs) -> Result<(), Failure> {
    Telemetry::start(None)?;
    crate::train::memory::retain_freed_memory();
    match args.method {
        Method::Sft(args) => {
            let mut config: SftConfig = read_toml(&args.config)?;
            args.apply(&mut config.seed, &mut config.output);
            find(&mut config.model)?;
            // Before the folder of the run is made.
            model_is_there(&config.model, false)?;
            args.show(&config.output)?;
            let model = run_sft(&config, args.resume(), &mut Bar::new()?)?;
            print_line(model.display())?;
        }
        Method::Grpo(args) => {
            let mut config = grpo_config(&ConfigFile::read(&args.config)?)?;
            args.apply(&mut config.seed, &mut config.output);
            find(&mut config.model)?;
            model_is_there(&config.model, true)?;
            args.show(&config.output)?;
            let servers = config.tokens.as_ref().map(|tokens| servers(tokens, &config.model));
            let judge = config.judge.as_ref().and_then(|judge| judge.large_model.as_ref());
            let model = |name, key, choice| large_model(name, key, choice, config.max_in_flight);
            let services = Services {
                large_model: model("large_model", "large_model", &config.large_model)?,
                judge: judge
                    .map(|choice| model("judge", "judge.large_model", choice))
                    .transpose()?,
                servers: servers.transpose()?,
                trainer_key: trainer_key(&config.trainer)?,
            };
            let model = run_grpo(&config, services, args.resume(), &mut Bar::new()?)?;
            print_line(model.display())?;
        }
    }
    Ok(())
}

/// The configuration of a GRPO run, completed by its preset and checked.
pub(super) fn grpo_config(file: &ConfigFile) -> Result<GrpoConfig, Failure> {
    // Of a wrong key, only this names the line.
    let written: GrpoConfig = file.parse()?;
    Ok(written.preset.complete(file.parse()?)?)
}

/// Downloads a model and an adapter that are named by their hub ids.
fn find(start: &mut StartConfig) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let Some(path) = &start.path {
        start.path = Some(runtime.block_on(hub::resolve_path(path))?);
    }
    if let Some(adapter) = &start.adapter {
        start.adapter = Some(runtime.block_on(hub::resolve_adapter(adapter))?);
    }
    Ok(())
}

/// The token servers of a GRPO run. Sends nothing yet.
fn servers(config: &TokensConfig, model: &StartConfig) -> anyhow::Result<Arc<TokensEngine>> {
    let path = model
        .path
        .as_deref()
        .context("`tokens` needs `model.path`, whose weights the servers have")?;
    let text = Arc::new(ChatTokenizer::load_for(path, model.adapter.as_deref())?);
    let keys = &secrets::from_environment;
    Ok(Arc::new(TokensEngine::new(config, text, declared_context(path), keys)?))
}

/// The key of the Tinker server.
fn trainer_key(trainer: &TrainerConfig) -> anyhow::Result<Option<SecretString>> {
    let TrainerConfig::Tinker(tinker) = trainer else { return Ok(None) };
    let Some(name) = &tinker.api_key_env else { return Ok(None) };
    let key = secrets::from_environment(name).with_context(
        || reason!("`trainer.api_key_env` names `{name}`, which is not set"; hint: "export it"),
    )?;
    Ok(Some(key))
}

/// A large model of a GRPO run, which makes at most `in_flight` calls at once, and `key`, the
/// setting that chooses it.
pub(super) fn large_model(
    name: &str,
    key: &str,
    choice: &LargeModelChoice,
    in_flight: usize,
) -> anyhow::Result<Arc<dyn LargeModel>> {
    let model: Arc<dyn LargeModel> = match (&choice.path, &choice.endpoint) {
        (Some(path), _) => {
            let native = NativeConfig::default().queueing(in_flight);
            let config = LocalModelConfig { native, ..LocalModelConfig::new(path.clone()) };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let model = runtime.block_on(local_model(name, &config))?;
            Arc::new(match &choice.cache_file {
                None => model,
                // A file may have replies of other models: a name does not tell them apart.
                Some(_) => {
                    let found = runtime.block_on(hub::resolve_path(path))?;
                    model.with_identity(format!("{name} {}", checksum(&found)?))
                }
            })
        }
        (None, endpoint) => {
            let missing = || format!("`{key}.endpoint` is missing");
            let endpoint = endpoint.as_ref().with_context(missing)?;
            let keys = &secrets::from_environment;
            let setup = EndpointSetup { keys, observer: Arc::new(()), seed: 0 };
            let model = Endpoint::new(name, &endpoint.clone().patient(), &setup);
            Arc::new(model.map_err(|error| error.in_table(&format!("{key}.endpoint")))?)
        }
    };
    Ok(match (choice.cache_replies, &choice.cache_file) {
        (0, _) => model,
        (replies, None) => Arc::new(CachedModel::in_memory(model, replies)),
        (replies, Some(file)) => Arc::new(CachedModel::persistent(model, replies, file)?),
    })
}

/// The metrics on the progress bar; all others are in the run's folder.
const SHOWN_METRICS: [&str; 8] = [
    "loss",
    "learning_rate",
    "gradient_norm",
    "eval_loss",
    "reward",
    "eval_exact",
    "entropy",
    "tokens_per_second",
];

/// Shows progress on a terminal, and ends the run with a checkpoint on Ctrl-C, SIGTERM or SIGHUP.
struct Bar {
    bar: ProgressBar,
    cancelled: Arc<AtomicBool>,
}

impl Bar {
    fn new() -> Result<Self, std::io::Error> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&cancelled);
        // The trainer computes without an async runtime; this thread only waits for signals.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _inside = runtime.enter();
            Signals::with_hangup()?
        };
        std::thread::spawn(move || {
            runtime.block_on(async {
                let mut signals = signals;
                signals.next().await;
                tracing::warn!(
                    "ending with a checkpoint after this step; a second signal ends at once"
                );
                flag.store(true, Ordering::Relaxed);
                signals.next().await;
                std::process::exit(130);
            });
        });
        let bar = ProgressBar::new(0);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} left {eta}  {msg}")
        {
            bar.set_style(style);
        }
        Ok(Self { bar, cancelled })
    }
}

impl Progress for Bar {
    fn step(&mut self, done: u64, of: u64, values: &Values) {
        let shown: Vec<String> = values
            .iter()
            .filter(|(name, _)| SHOWN_METRICS.contains(name))
            .map(|(name, value)| format!("{name} {value:.4}"))
            .collect();
        self.bar.set_length(of);
        self.bar.set_message(shown.join("  "));
        self.bar.set_position(done);
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_of_replies_tells_local_models_apart() {
        let folder = tempfile::tempdir().unwrap();
        let identity = |path: &str| {
            let cache_file = Some(folder.path().join("replies.jsonl"));
            let path = Some(PathBuf::from(path));
            let choice = LargeModelChoice { path, cache_file, ..LargeModelChoice::default() };
            large_model("large_model", "large_model", &choice, 1).unwrap().identity()
        };
        let one = identity("models/large-model");
        assert_ne!(one, identity("models/policy"));
        assert_eq!(one, identity("models/large-model"));
    }
}
