//! `server eval`: arms side by side on the same questions.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, EvalConfig, PolicyEngine};
use crate::engine::Sampling;
use crate::eval::arms::{Arm, ArmSpec, Method, PolicyArm, PolicySetup, Prompt, PromptArm};
use crate::eval::data;
use crate::eval::report::{self, ReportInput};
use crate::eval::rows::Outcome;
use crate::eval::run::{self, Plan};
use crate::large_model::{Cached, LargeModel};

use super::Failure;
use super::assemble::{endpoint_setup, large_models, local_policy, protocol};
use super::telemetry::Telemetry;

/// Replies of endpoints that are found again.
const CACHED_REPLIES: usize = 1_000_000;

#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Configuration of the evaluation
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// At most this many questions of each data set
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Folder of the finished rows and the report
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

/// Carries `server eval` out: the report goes to standard output as Markdown, and to the output
/// folder as a page, JSON and Markdown.
#[allow(clippy::print_stdout, clippy::print_stderr, reason = "the report is the command's output")]
pub async fn run(args: EvalArgs) -> Result<(), Failure> {
    Telemetry::start(None)?;
    let mut config = EvalConfig::load(&args.config)?;
    config.limit = args.limit.or(config.limit);
    config.output = args.output.unwrap_or(config.output);
    let questions = data::load(&config.data, &config.metrics, config.limit, config.seed)?;
    for warning in &questions.warnings {
        tracing::warn!("{warning}");
    }
    std::fs::create_dir_all(&config.output)
        .with_context(|| format!("cannot make the folder `{}`", config.output.display()))?;
    let (arms, large_model) = arms(&config).await?;
    let plan = Plan {
        arms,
        questions: questions.questions.clone(),
        seed: config.seed,
        max_in_flight: config.max_in_flight,
    };
    let stop = CancellationToken::new();
    let interrupted = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupted.cancel();
        }
    });
    let rows = config.output.join("rows.jsonl");
    let outcomes = run::run(&plan, &rows, &mut Bar::new(), &stop).await?;
    let names: Vec<(String, String)> =
        config.arms.iter().map(|arm| (arm.name.clone(), arm.method.to_string())).collect();
    let report = report::build(&ReportInput {
        title: &config.title,
        large_model: &large_model,
        arms: &names,
        questions: &questions,
        outcomes: &outcomes,
        metrics: &config.metrics,
        seed: config.seed,
        episodes: config.episodes,
    });
    let page = report::write(&report, &config.output)?;
    print!("{}", report::markdown(&report));
    eprintln!("report: {}", page.display());
    Ok(())
}

/// The arms of `config`, and the name of the large model that they share.
async fn arms(config: &EvalConfig) -> Result<(Vec<Arc<dyn Arm>>, String), Failure> {
    let server = config.server(None)?;
    let setup = endpoint_setup(Arc::new(()));
    let models = large_models(&server, &setup).await?;
    let name = server.default_large_model();
    let (model, identity) =
        large_model(config, &server, models.get(name).map_err(anyhow::Error::from)?)?;
    let mut arms: Vec<Arc<dyn Arm>> = Vec::new();
    for spec in &config.arms {
        let shared = (Arc::clone(&model), identity.as_str());
        arms.push(match &spec.method {
            Method::Policy(policy) => Arc::new(policy_arm(config, spec, policy, shared).await?),
            method => {
                let (prompt, samples) = match method {
                    Method::Direct | Method::Policy(_) => (Prompt::direct(config.brief)?, 1),
                    Method::ChainOfThought => (Prompt::chain_of_thought()?, 1),
                    Method::Template(file) => (Prompt::load(file)?, 1),
                    Method::SelfConsistency(k) => (Prompt::chain_of_thought()?, *k),
                };
                let deadline = config.episode.deadline();
                Arc::new(PromptArm::new(&spec.name, prompt, samples, shared, deadline))
            }
        });
    }
    Ok((arms, name.to_owned()))
}

/// The large model of all arms, and what its replies depend on.
fn large_model(
    config: &EvalConfig,
    server: &Config,
    model: &Arc<dyn LargeModel>,
) -> anyhow::Result<(Arc<dyn LargeModel>, String)> {
    let identity = match server.local_models.get(server.default_large_model()) {
        // A model that is trained again in its folder is another model.
        Some(local) => format!("{} {}", model.identity(), fingerprint(&local.path)?),
        None => model.identity(),
    };
    let is_endpoint = server.large_models.contains_key(server.default_large_model());
    if !(config.cache && is_endpoint) {
        return Ok((Arc::clone(model), identity));
    }
    let path = config.output.join("replies.jsonl");
    let cached = Cached::persistent(Arc::clone(model), CACHED_REPLIES, &path)?.billing_repeats();
    Ok((Arc::new(cached), identity))
}

async fn policy_arm(
    config: &EvalConfig,
    spec: &ArmSpec,
    policy: &str,
    large_model: (Arc<dyn LargeModel>, &str),
) -> Result<PolicyArm, Failure> {
    let server = config.server(Some(policy))?;
    let engine = server.policy.engine.unwrap_or(PolicyEngine::Native);
    let (policy, path) = local_policy(&server.policy, engine).await?;
    let protocol = Arc::new(protocol(&server, Some(&path))?);
    let templates = match &config.templates {
        Some(folder) => fingerprint(folder)?,
        None => String::new(),
    };
    let identity = format!("{engine:?} {} {templates}", fingerprint(&path)?);
    let sampling = &config.policy.sampling;
    Ok(PolicyArm::new(PolicySetup {
        name: &spec.name,
        policy: (policy, &identity),
        large_model,
        protocol,
        limits: config.episode.clone(),
        sampling: Sampling {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            seed: 0,
        },
    }))
}

/// A checksum over a file, or over all files in a folder and their names.
fn fingerprint(path: &Path) -> anyhow::Result<String> {
    let mut files = Vec::new();
    list(path, &mut files).with_context(|| format!("cannot read `{}`", path.display()))?;
    files.sort();
    let mut sum = 0;
    let mut buffer = vec![0; 1 << 20];
    for file in files {
        let within = file.strip_prefix(path).unwrap_or(&file);
        sum = crc32c::crc32c_append(sum, within.as_os_str().as_encoded_bytes());
        let unreadable = || format!("cannot read `{}`", file.display());
        let mut open = std::fs::File::open(&file).with_context(unreadable)?;
        loop {
            let read = open.read(&mut buffer).with_context(unreadable)?;
            if read == 0 {
                break;
            }
            sum = crc32c::crc32c_append(sum, &buffer[..read]);
        }
    }
    Ok(format!("{sum:08x}"))
}

fn list(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        list(&entry?.path(), files)?;
    }
    Ok(())
}

/// Shows progress: as a bar on a terminal, else as a line now and then.
struct Bar {
    bar: ProgressBar,
    is_terminal: bool,
    failed: u64,
    told: Instant,
}

/// Between two lines.
const TELL_EVERY: Duration = Duration::from_secs(10);

impl Bar {
    fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        let style = "{bar:30} {pos}/{len} {per_sec} {elapsed} left {eta}  {msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self { bar, is_terminal, failed: 0, told: Instant::now() }
    }
}

impl run::Progress for Bar {
    fn begin(&mut self, done: usize, total: usize) {
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
        self.bar.reset_eta();
        if done > 0 {
            tracing::info!("{done} of {total} rows are there already");
        }
    }

    fn row(&mut self, arm: &str, outcome: &Outcome) {
        self.bar.inc(1);
        if let Outcome::Failed { error, .. } = outcome {
            self.failed += 1;
            // One tells enough; the report counts them all.
            if self.failed == 1 {
                self.bar.suspend(|| tracing::warn!("`{arm}` failed: {error}"));
            }
            self.bar.set_message(format!("{} failed", self.failed));
        }
        if !self.is_terminal && self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let total = self.bar.length().unwrap_or(0);
            tracing::info!("{} of {total} rows, {} failed", self.bar.position(), self.failed);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
