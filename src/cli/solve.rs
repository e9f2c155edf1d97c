//! `server solve`: one question through the loop, without HTTP.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use tokio::sync::mpsc;

use crate::config::{Config, ConfigError, Overrides};
use crate::engine::Sampling;
use crate::episode::{
    DiscardEvents, Episode, EpisodeEvent, EpisodeRequest, Participants, run_episode,
};
use std::sync::Arc;

use super::Failure;
use super::assemble::{Assembly, assemble};
use super::output::{print, print_line};
use super::telemetry::Telemetry;

#[derive(Debug, Args)]
pub struct SolveArgs {
    /// The question; read from standard input when it is `-`
    question: String,
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "PROMPT_R1_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
    /// Seed of the policy's sampling
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print the whole episode as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `server solve`.
pub async fn run(args: SolveArgs) -> Result<(), Failure> {
    Telemetry::start(None)?;
    if let Some(name) = args.overrides.adapter.iter().find_map(|adapter| adapter.name.as_deref()) {
        let reason = reason!(
            "`--adapter {name}=…` adds a policy that requests select, but `solve` uses one policy";
            hint: "leave `{name}=` out"
        );
        return Err(ConfigError::Setting(reason).into());
    }
    let config = Config::load(args.config.as_deref(), &args.overrides)?;
    let question = if args.question == "-" {
        std::io::read_to_string(std::io::stdin())?
    } else {
        args.question.clone()
    };
    if question.trim().is_empty() {
        return Err(anyhow::Error::from(
            reason!("the question is empty"; hint: "put it in quotes"),
        )
        .into());
    }
    let assembly = assemble(&config, Arc::new(())).await?;
    for note in &assembly.notes {
        tracing::info!(hint = note.hint.as_deref(), "{note}");
    }
    let sampling = Sampling { seed: args.seed, ..assembly.main.sampling };
    let mut request = EpisodeRequest::new(question.trim(), sampling);
    request.limits = config.episode.clone();
    if args.json {
        let episode = solve(&assembly, &config, &request, None).await?;
        let json = serde_json::to_string_pretty(&episode).map_err(anyhow::Error::from)?;
        print_line(json)?;
    } else {
        let (events, shown) = mpsc::channel(64);
        let (episode, shown) =
            tokio::join!(solve(&assembly, &config, &request, Some(events)), show(shown));
        // An episode that cannot be shown is cancelled.
        shown?;
        print_end(&episode?)?;
    }
    Ok(())
}

async fn solve(
    assembly: &Assembly,
    config: &Config,
    request: &EpisodeRequest,
    events: Option<mpsc::Sender<EpisodeEvent>>,
) -> anyhow::Result<Episode> {
    let participants = Participants {
        policy: &*assembly.main.policy,
        large_model: &**assembly.large_models.get(config.default_large_model())?,
        protocol: &assembly.main.protocol,
    };
    let episode = match events {
        Some(mut events) => run_episode(participants, request, &mut events).await,
        None => run_episode(participants, request, &mut DiscardEvents).await,
    };
    Ok(episode?)
}

/// Prints the episode as it happens.
async fn show(mut events: mpsc::Receiver<EpisodeEvent>) -> anyhow::Result<()> {
    let colour = std::io::stdout().is_terminal();
    // The label of the current line; none at the start of a turn.
    let mut open = None;
    let mut is_first = true;
    while let Some(event) = events.recv().await {
        let (label, style, text) = match event {
            EpisodeEvent::Turn(_) => {
                open = None;
                continue;
            }
            EpisodeEvent::Think(text) => ("think", "2", text),
            EpisodeEvent::Prompt(text) => ("prompt", "36", text),
            EpisodeEvent::Response(text) => ("reply", "33", text),
            EpisodeEvent::ReplyThought(text) => ("thought", "2", text),
            EpisodeEvent::Answer(text, _) => ("answer", "1;32", text),
        };
        if open != Some(label) {
            if !is_first {
                print("\n")?;
            }
            (open, is_first) = (Some(label), false);
            match colour {
                true => print(format_args!("\x1b[{style}m{label:>7}\x1b[0m  "))?,
                false => print(format_args!("{label:>7}  "))?,
            }
        }
        print(text)?;
    }
    Ok(())
}

#[allow(clippy::print_stderr, reason = "the end of the command's output")]
fn print_end(episode: &Episode) -> anyhow::Result<()> {
    print("\n")?;
    let (policy, large) = (&episode.usage.policy, &episode.usage.large_model);
    eprintln!(
        "\n{}; turns: {}; policy: {} + {} tokens; large model: {} calls, {} + {} tokens",
        episode.finish_reason.as_str(),
        episode.trajectory.turns.len(),
        policy.tokens.prompt_tokens,
        policy.tokens.completion_tokens,
        large.calls,
        large.tokens.prompt_tokens,
        large.tokens.completion_tokens,
    );
    if episode.is_cut_off() {
        eprintln!("the answer is incomplete: it was cut off");
    }
    Ok(())
}
