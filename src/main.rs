//! The `server` binary: parse, run, report.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    prompt_r1::cli::report(prompt_r1::cli::Cli::parse().run())
}
