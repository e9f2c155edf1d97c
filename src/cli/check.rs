//! `server check`: checks a configuration without reading weights or starting anything.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::config::{
    Config, ConfigFile, EnvironmentConfig, EvalConfig, Overrides, PolicyConfig, PolicyEngine,
};
use crate::dataset::data_files;
use crate::engine::tokens::config::{IdentityCheck, TokensConfig};
use crate::environment::OpenEpisodesConfig;
use crate::eval::arms::Method;
use crate::gguf::Gguf;
use crate::tokenization::ChatTokenizer;
use crate::train::config::StartConfig;
use crate::train::grpo::TaskConfig;
use crate::train::sft::{SftConfig, SftData};
use crate::train::start::check_saved;

use super::assemble::check_policy;
use super::engine_choice::EngineChoice;
use super::model_check::{check_adapters, check_model};
use super::output::{print, print_line};
use super::train::grpo_config;
use super::{Failure, hub};

mod forecast;
mod references;

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Configuration file; or a model, a folder or a `.gguf` file, to check as the policy
    #[arg(value_name = "FILE")]
    config: PathBuf,
    /// The command that the file is for; detected by its keys if it is not given
    #[arg(long = "for", value_name = "COMMAND")]
    command: Option<ConfigCommand>,
    /// Print the configuration with every default filled in
    #[arg(long)]
    print: bool,
}

/// The commands with a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ConfigCommand {
    Serve,
    Sft,
    Grpo,
    Env,
    Eval,
}

impl ConfigCommand {
    /// Detects the command by keys that only its file has.
    fn detect(file: &ConfigFile) -> Result<Self, Failure> {
        let table: toml::Table = file.parse()?;
        let has = |key: &str| table.contains_key(key);
        Ok(match () {
            () if has("arms") => Self::Eval,
            () if has("tasks") => Self::Grpo,
            // Of the others, only it has a single large model.
            () if has("large_model") => Self::Env,
            () if has("data") && has("steps") => Self::Sft,
            () => Self::Serve,
        })
    }
}

/// Runs `server check`.
pub fn run(args: CheckArgs) -> Result<(), Failure> {
    if args.command.is_none() && is_model(&args.config) {
        return check_alone(&args);
    }
    let file = ConfigFile::read(&args.config)?;
    let command = args.command.map_or_else(|| ConfigCommand::detect(&file), Ok)?;
    let (printed, forecast) = match command {
        ConfigCommand::Serve => {
            let written: Config = file.parse()?;
            let config = written.clone().completed(&Overrides::default())?;
            let canary = config.canary.as_ref().map(|canary| &canary.policy);
            for policy in [&config.policy].into_iter().chain(canary) {
                check_policy(policy)?;
            }
            references::check_server(&written)?;
            (toml::to_string_pretty(&config), engines(&config))
        }
        ConfigCommand::Sft => {
            let config: SftConfig = file.parse()?;
            config.check()?;
            model_is_there(&config.model, false)?;
            references::check_templates(&config.model)?;
            if let SftData::Chat { path, eval_path, .. } = &config.data {
                files_are_there(path, eval_path.as_deref())?;
            }
            (toml::to_string_pretty(&config), forecast::sft(&config)?)
        }
        ConfigCommand::Grpo => {
            let config = grpo_config(&file)?;
            model_is_there(&config.model, true)?;
            references::check_grpo(&config)?;
            if let TaskConfig::File { path, eval_path, .. } = &config.tasks {
                files_are_there(path, eval_path.as_deref())?;
            }
            (toml::to_string_pretty(&config), forecast::grpo(&config)?)
        }
        ConfigCommand::Env => {
            let config: EnvironmentConfig = file.parse()?;
            config.check()?;
            references::check_environment(&config)?;
            if let Some(path) = config.model.as_deref().map(Path::new).filter(|it| it.exists()) {
                text_of(path, None, true)?;
            }
            (toml::to_string_pretty(&config), environment(&config))
        }
        ConfigCommand::Eval => {
            let config: EvalConfig = file.parse()?;
            config.check()?;
            references::check_evaluation(&config)?;
            for arm in &config.arms {
                if let Method::Policy(named) | Method::FirstPrompt(named) = &arm.method {
                    check_policy(&config.server(Some(named))?.policy)?;
                }
            }
            (toml::to_string_pretty(&config), forecast::eval(&config)?)
        }
    };
    print_result(&args, printed, forecast)
}

/// Whether there is no configuration at `path`, but a model.
fn is_model(path: &Path) -> bool {
    path.is_dir() || (path.is_file() && Gguf::is_path(path))
}

/// Checks a model as the policy of a server that is configured by nothing else.
fn check_alone(args: &CheckArgs) -> Result<(), Failure> {
    let (model, engine) = (args.config.display().to_string(), PolicyEngine::Auto);
    let policy =
        PolicyConfig { model: Some(model), engine: Some(engine), ..PolicyConfig::default() };
    check_policy(&policy)?;
    let config = Config { policy, ..Config::default() };
    print_result(args, toml::to_string_pretty(&config), engines(&config))
}

/// Prints that what was checked is valid with these lines, or else the configuration in full.
fn print_result(
    args: &CheckArgs,
    printed: Result<String, toml::ser::Error>,
    lines: Vec<String>,
) -> Result<(), Failure> {
    if args.print {
        return Ok(print(printed.map_err(anyhow::Error::from)?)?);
    }
    print_line(format_args!("`{}` is valid", args.config.display()))?;
    for line in lines {
        print_line(format_args!("  {line}"))?;
    }
    Ok(())
}

/// Which engine will run each policy and why, if that is automatic; and which servers.
fn engines(config: &Config) -> Vec<String> {
    let canary = config.canary.as_ref().map(|canary| ("canary.policy", &canary.policy));
    let all = [("policy", &config.policy)].into_iter().chain(canary);
    let known = |policy: &PolicyConfig| {
        matches!(policy.engine, Some(PolicyEngine::Auto | PolicyEngine::Tokens))
    };
    all.filter(|(_, policy)| known(policy))
        .map(|(table, policy)| {
            if let (Some(PolicyEngine::Tokens), Some(tokens)) = (policy.engine, &policy.tokens) {
                return token_servers(table, tokens);
            }
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

/// The settings of token servers.
fn token_servers(table: &str, tokens: &TokensConfig) -> String {
    let compared = match tokens.check() {
        IdentityCheck::Template => "vocabulary and chat template are",
        IdentityCheck::Vocabulary => "the vocabulary is",
        IdentityCheck::None => "nothing but the model's id is",
    };
    format!(
        "{table}.engine: tokens, from {} servers that speak `{}`; {compared} compared before the first token",
        tokens.servers.len(),
        tokens.dialect.as_str(),
    )
}

/// Fails if the model of a run cannot be loaded, as far as that shows without its weights.
pub(super) fn model_is_there(config: &StartConfig, is_policy: bool) -> Result<(), Failure> {
    if config.path.as_ref().is_some_and(|path| hub::is_elsewhere(path)) {
        return Ok(());
    }
    let adapter = config.adapter.clone().filter(|adapter| !hub::is_elsewhere(adapter));
    let config = &StartConfig { adapter, ..config.clone() };
    config.check()?;
    if let Some(path) = &config.path {
        let text = text_of(path, config.adapter.as_deref(), is_policy)?;
        check_saved(&check_model(path, &text)?, path)?;
        check_adapters(path, &text, config.adapter.as_slice())?;
    }
    Ok(())
}

/// Tokenizer and chat template of a model with this adapter, which must carry a conversation if it
/// is a policy.
fn text_of(path: &Path, adapter: Option<&Path>, is_policy: bool) -> anyhow::Result<ChatTokenizer> {
    let text = ChatTokenizer::load_for(path, adapter)?;
    if is_policy {
        text.check_turns()?;
    }
    Ok(text)
}

/// Fails if a data file does not exist.
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

/// The settings of an environment.
fn environment(config: &EnvironmentConfig) -> Vec<String> {
    let turns = match &config.model {
        Some(model) => format!("turns: token ids of `{model}`, or texts"),
        None => "turns: texts; `model` names the tokenizer for token ids".to_owned(),
    };
    let OpenEpisodesConfig { max_open, idle_ms } = config.episodes;
    vec![turns, format!("episodes: at most {max_open}, closed after {idle_ms} ms without a step")]
}
