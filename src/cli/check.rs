//! `server check`: says whether a configuration is usable, without loading or starting anything.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::config::{Config, EvalConfig, Overrides, PolicyEngine, read_toml};
use crate::dataset::data_files;
use crate::train::grpo::{GrpoConfig, TaskConfig};
use crate::train::sft::{SftConfig, SftData};
use crate::train::start::StartConfig;

use super::Failure;
use super::engine_choice::EngineChoice;

mod forecast;

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Configuration file
    #[arg(value_name = "FILE")]
    config: PathBuf,
    /// The command that the file is for; found by its keys unless given
    #[arg(long = "for", value_name = "COMMAND")]
    command: Option<For>,
    /// Print the configuration with every default filled in
    #[arg(long)]
    print: bool,
}

/// The commands that have a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum For {
    Serve,
    Sft,
    Grpo,
    Eval,
}

impl For {
    /// By the keys that only one of them has.
    fn of(file: &Path) -> Result<Self, Failure> {
        let table: toml::Table = read_toml(file)?;
        let has = |key: &str| table.contains_key(key);
        Ok(match () {
            () if has("arms") => Self::Eval,
            () if has("tasks") => Self::Grpo,
            () if has("data") && has("steps") => Self::Sft,
            () => Self::Serve,
        })
    }
}

/// Carries `server check` out.
#[allow(clippy::print_stdout, reason = "the verdict is the command's output")]
pub fn run(args: CheckArgs) -> Result<(), Failure> {
    let command = args.command.map_or_else(|| For::of(&args.config), Ok)?;
    let (printed, forecast) = match command {
        For::Serve => {
            let config = Config::load(Some(&args.config), &Overrides::default())?;
            (toml::to_string_pretty(&config), engines(&config))
        }
        For::Sft => {
            let config: SftConfig = read_toml(&args.config)?;
            config.check()?;
            model_is_there(&config.model)?;
            if let SftData::Chat { path, eval_path, .. } = &config.data {
                files_are_there(path, eval_path.as_deref())?;
            }
            (toml::to_string_pretty(&config), forecast::sft(&config)?)
        }
        For::Grpo => {
            let written: GrpoConfig = read_toml(&args.config)?;
            let config = written.preset.complete(read_toml(&args.config)?)?;
            model_is_there(&config.model)?;
            if let TaskConfig::File { path, eval_path, .. } = &config.tasks {
                files_are_there(path, eval_path.as_deref())?;
            }
            (toml::to_string_pretty(&config), forecast::grpo(&config)?)
        }
        For::Eval => {
            let config = EvalConfig::load(&args.config)?;
            (toml::to_string_pretty(&config), forecast::eval(&config)?)
        }
    };
    if args.print {
        print!("{}", printed.map_err(anyhow::Error::from)?);
        return Ok(());
    }
    println!("`{}` is valid", args.config.display());
    for line in forecast {
        println!("  {line}");
    }
    Ok(())
}

/// Which engine will run each policy, and why, where that is left to the program.
fn engines(config: &Config) -> Vec<String> {
    let canary = config.canary.as_ref().map(|canary| ("canary.policy", &canary.policy));
    let open = [("policy", &config.policy)].into_iter().chain(canary);
    let open = open.filter(|(_, policy)| policy.engine == Some(PolicyEngine::Auto));
    open.map(|(table, policy)| {
        let path = policy.model.as_deref().map(Path::new).filter(|path| path.exists());
        match path.map(|path| EngineChoice::of(policy, path)) {
            Some(choice) => {
                format!("{table}.engine: {}, because {}", choice.name(), choice.reason)
            }
            None => format!("{table}.engine: chosen once the model is fetched"),
        }
    })
    .collect()
}

fn model_is_there(config: &StartConfig) -> Result<(), Failure> {
    config.check().map_err(Failure::from)
}

/// Fails where a file of data is not there.
fn files_are_there(path: &Path, eval_path: Option<&Path>) -> Result<(), Failure> {
    for path in [path].into_iter().chain(eval_path) {
        for file in data_files(path).map_err(anyhow::Error::from)? {
            if !file.is_file() {
                return Err(anyhow::anyhow!("there is no file `{}`", file.display()).into());
            }
        }
    }
    Ok(())
}
