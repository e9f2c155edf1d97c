//! The commands. Data goes to standard output, everything else to standard error.

use clap::{CommandFactory, Parser, Subcommand};

use crate::http;

mod assemble;
mod background;
mod check;
mod checksum;
mod descriptors;
mod engine_choice;
mod env;
mod eval;
mod exit;
mod export;
mod health;
mod hub;
mod keys;
mod listener;
mod memory;
mod model_check;
mod output;
mod pid_file;
mod reload;
mod runs;
mod secrets;
mod serve;
mod signals;
mod solve;
mod telemetry;
mod train;

pub use exit::{Failure, report};

/// A question about the bundled world, to try it with.
pub const EXAMPLE_QUESTION: &str = "What is Grania's president's birthplace's country's language?";

/// `--help` begins with the most common commands.
const HELP: &str = "\
{about}

Examples:
  server serve                                     the bundled models, on 127.0.0.1:8080
  server serve --large-model-url https://api.openai.com/v1 --large-model gpt-4o-mini
  server solve \"Which is longer, the Nile or the Amazon?\" --large-model-url http://127.0.0.1:8000/v1 --large-model qwen
  server check prompt-r1.toml                      is this configuration valid?
  server train grpo --config recipe.toml           train a policy
  server eval --config eval.toml                   does the policy help?

{usage-heading} {usage}

{all-args}";

/// A small policy model that thinks, prompts a large language model, and answers.
#[derive(Debug, Parser)]
#[command(name = "server", version, propagate_version = true, help_template = HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the loop over HTTP
    Serve(serve::ServeArgs),
    /// Reload the configuration of a running server
    Reload(reload::ReloadArgs),
    /// Create, list and revoke the keys of callers
    Keys(keys::KeysArgs),
    /// Answer one question and show the episode
    Solve(solve::SolveArgs),
    /// Train a policy, or a model of the bundled world
    Train(train::TrainArgs),
    /// Write a model as a folder or a GGUF file
    Export(export::ExportArgs),
    /// Serve episodes over HTTP to other trainers, which write the policy's turns
    Env(env::EnvArgs),
    /// Compare policies with the large model alone
    Eval(eval::EvalArgs),
    /// Show training runs and evaluations on a web page
    Runs(runs::RunsArgs),
    /// Check a configuration file, or a model
    Check(check::CheckArgs),
    /// Report whether a server is ready
    Health(health::HealthArgs),
    /// Print the OpenAPI document
    Openapi {
        /// That of `server runs`
        #[arg(long)]
        runs: bool,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell that will read it
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, one for each command
    Man {
        /// The folder to write them to
        folder: std::path::PathBuf,
    },
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// The error of the command.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Serve(args) => serving(serve::run(args)),
            Command::Reload(args) => serving(reload::run(args)),
            Command::Keys(args) => serving(keys::run(args)),
            Command::Solve(args) => serving(solve::run(args)),
            Command::Train(args) => train::run(args),
            Command::Export(args) => export::run(args),
            Command::Env(args) => env::run(args),
            Command::Eval(args) => serving(eval::run(args)),
            Command::Runs(args) => serving(runs::run(args)),
            Command::Check(args) => check::run(args),
            Command::Health(args) => serving(health::run(args)),
            Command::Openapi { runs } => print_openapi(runs),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "server", &mut script);
                Ok(output::print(String::from_utf8_lossy(&script))?)
            }
            Command::Man { folder } => {
                std::fs::create_dir_all(&folder)?;
                Ok(clap_mangen::generate_to(Self::command(), folder)?)
            }
        }
    }
}

/// Runs a serving command on a tokio runtime.
fn serving(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(command)
}

fn print_openapi(runs: bool) -> Result<(), Failure> {
    let document = if runs { http::runs_openapi_json() } else { http::openapi_json() };
    Ok(output::print_line(document)?)
}
