//! The commands. Data goes to standard output, everything else to standard error.

use clap::{Parser, Subcommand};

mod exit;
mod train;

pub use exit::{Failure, report};

/// A small policy model that thinks, prompts a large language model, and answers.
#[derive(Debug, Parser)]
#[command(name = "server", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a policy, or a model of the bundled world
    Train(train::TrainArgs),
}

impl Cli {
    /// Carries the command out.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Train(args) => train::run(args),
        }
    }
}
