//! `server eval`: arms side by side on the same questions.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::config::EvalConfig;
use crate::engine::tokens::Utilisation;
use crate::eval::EvalError;
use crate::eval::data;
use crate::eval::report::{self, ReportInput};
use crate::eval::rows::Outcome;
use crate::eval::run::{self, Plan};
use crate::run_files;
use crate::run_lock::RunLock;

use super::Failure;
use super::output::print;
use super::signals::Signals;
use super::telemetry::Telemetry;

mod bar;
mod setup;

use bar::Bar;
use setup::Setup;

#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Configuration of the evaluation
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// At most this many questions of each table `[[data]]`
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Folder of the finished rows and the report
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

/// Runs `server eval`: prints the report as Markdown to standard output, and writes it to the
/// output folder as a page, JSON and Markdown.
#[allow(clippy::print_stderr, reason = "the page is for the person who started this")]
pub async fn run(args: EvalArgs) -> Result<(), Failure> {
    Telemetry::start(None)?;
    let mut config = EvalConfig::load(&args.config)?;
    config.limit = args.limit.or(config.limit);
    config.output = args.output.unwrap_or(config.output);
    let mut questions = data::load(&config.data, &config.metrics, config.limit, config.seed)?;
    std::fs::create_dir_all(&config.output)
        .with_context(|| format!("cannot make the folder `{}`", config.output.display()))?;
    let locked = RunLock::take(&config.output)
        .with_context(|| format!("cannot lock the folder `{}`", config.output.display()))?;
    let _lock = locked.ok_or_else(|| EvalError::Locked(config.output.clone()))?;
    let stop = CancellationToken::new();
    let (interrupted, mut signals) = (stop.clone(), Signals::with_hangup()?);
    tokio::spawn(async move {
        signals.next().await;
        interrupted.cancel();
    });
    // All errors that can be found are found before the first call is paid for.
    let mut setup = Setup::new(&config, &questions.questions).await?;
    let training = setup.training(&mut questions)?;
    config.metrics.check(questions.questions.iter().chain(&training))?;
    for note in &questions.notes {
        tracing::info!("{note}");
    }
    for warning in &questions.warnings {
        tracing::warn!("{warning}");
    }
    let scorer = setup.scorer(&[&questions.questions[..], &training[..]].concat()).await?;
    let arms = setup.arms().await?;
    let found = setup.search(&training, &scorer, &stop).await?;
    let plan = Plan {
        arms: setup.with_search(arms, found.as_ref())?,
        questions: questions.questions.clone(),
        seed: config.seed,
        max_in_flight: config.max_in_flight,
    };
    let mut bar = Bar::new();
    let meter = setup.load_meter();
    let rows = config.output.join(run_files::ROWS);
    let is_resumed = std::fs::metadata(&rows).is_ok_and(|found| found.len() > 0);
    let mut outcomes = run::run(&plan, &rows, &mut bar, &stop).await?;
    setup.charge(&mut outcomes, is_resumed)?;
    if let Some(mut meter) = meter {
        let Utilisation { mean, min, failures } = meter.read();
        tracing::info!(
            servers_busy = mean,
            servers_busy_least = min,
            servers_failures = failures,
            "token servers while the questions were asked"
        );
    }
    let answered = outcomes.iter().flatten().filter(|o| matches!(o, Outcome::Answered(_)));
    bar.begin_scoring(answered.count());
    let scores = scorer
        .score_all(&questions.questions, &outcomes, config.max_in_flight, &stop, || bar.scored())
        .await?;
    drop(bar);
    let names: Vec<(String, String)> =
        config.arms.iter().map(|arm| (arm.name.clone(), arm.method.to_string())).collect();
    let report = report::build(&ReportInput {
        title: &config.title,
        large_model: setup.large_model(),
        arms: &names,
        questions: &questions,
        outcomes: &outcomes,
        normalization: config.metrics.normalization,
        scores: &scores,
        judge: scorer.judge(),
        search: found.as_ref(),
        seed: config.seed,
        episodes: config.episodes,
    });
    for warning in report.warnings.iter().skip(questions.warnings.len()) {
        tracing::warn!("{warning}");
    }
    let page = report::write(&report, &config.output)?;
    print(report::markdown(&report))?;
    eprintln!("report: {}", page.display());
    Ok(())
}
