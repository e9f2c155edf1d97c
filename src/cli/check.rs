//! `server check`: says whether a configuration is usable, without starting anything.

use std::path::PathBuf;

use clap::Args;

use crate::config::{Config, Overrides};

use super::Failure;

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Configuration file
    #[arg(value_name = "FILE")]
    config: PathBuf,
    /// Print the configuration with every default filled in
    #[arg(long)]
    print: bool,
}

/// Carries `server check` out.
#[allow(clippy::print_stdout, reason = "the verdict is the command's output")]
pub fn run(args: CheckArgs) -> Result<(), Failure> {
    let config = Config::load(Some(&args.config), &Overrides::default())?;
    if args.print {
        print!("{}", toml::to_string_pretty(&config).map_err(anyhow::Error::from)?);
    } else {
        println!("`{}` is valid", args.config.display());
    }
    Ok(())
}
