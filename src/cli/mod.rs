//! The commands. Data goes to standard output, everything else to standard error.

use clap::{Parser, Subcommand};

mod assemble;
mod background;
mod check;
mod eval;
mod exit;
mod health;
mod hub;
mod keys;
mod pid_file;
mod reload;
mod serve;
mod solve;
mod telemetry;
mod train;

pub use exit::{Failure, report};

/// A question about the bundled world, to try it with.
pub const EXAMPLE_QUESTION: &str = "What is Grania's president's birthplace's country's language?";

/// A small policy model that thinks, prompts a large language model, and answers.
#[derive(Debug, Parser)]
#[command(name = "server", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the loop over HTTP
    Serve(serve::ServeArgs),
    /// Have a running server read its configuration again
    Reload(reload::ReloadArgs),
    /// Make, list and revoke the keys of callers
    Keys(keys::KeysArgs),
    /// Answer one question, and show how
    Solve(solve::SolveArgs),
    /// Train a policy, or a model of the bundled world
    Train(train::TrainArgs),
    /// Put the large model alone and policies side by side
    Eval(eval::EvalArgs),
    /// Check a configuration file
    Check(check::CheckArgs),
    /// Say whether a server is ready
    Health(health::HealthArgs),
    /// Print the OpenAPI document
    Openapi,
}

impl Cli {
    /// Carries the command out.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Serve(args) => serving(serve::run(args)),
            Command::Reload(args) => serving(reload::run(args)),
            Command::Keys(args) => serving(keys::run(args)),
            Command::Solve(args) => serving(solve::run(args)),
            Command::Train(args) => train::run(args),
            Command::Eval(args) => serving(eval::run(args)),
            Command::Check(args) => check::run(args),
            Command::Health(args) => serving(health::run(args)),
            Command::Openapi => print_openapi(),
        }
    }
}

/// Runs a command that serves on the runtime that such commands share.
fn serving(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(command)
}

#[allow(clippy::print_stdout, reason = "the document is the command's output")]
fn print_openapi() -> Result<(), Failure> {
    println!("{}", crate::http::openapi_json());
    Ok(())
}
