//! `server check`: says whether a configuration is usable, without loading or starting anything.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::config::{
    Config, EnvironmentConfig, EvalConfig, Overrides, PolicyConfig, PolicyEngine, read_toml,
};
use crate::dataset::data_files;
use crate::engine::tokens::config::{Check, TokensConfig};
use crate::environment::Bounds;
use crate::eval::data;
use crate::train::config::StartConfig;
use crate::train::grpo::{GrpoConfig, TaskConfig};
use crate::train::sft::{SftConfig, SftData};

use super::engine_choice::EngineChoice;
use super::{Failure, hub};

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
    Env,
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
            // Of the others, only it has one large model.
            () if has("large_model") => Self::Env,
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
            (toml::to_string_pretty(&config), sft(&config)?)
        }
        For::Grpo => {
            let written: GrpoConfig = read_toml(&args.config)?;
            let config = written.preset.complete(read_toml(&args.config)?)?;
            model_is_there(&config.model)?;
            (toml::to_string_pretty(&config), grpo(&config)?)
        }
        For::Env => {
            let config = EnvironmentConfig::load(&args.config)?;
            (toml::to_string_pretty(&config), environment(&config))
        }
        For::Eval => {
            let config = EvalConfig::load(&args.config)?;
            (toml::to_string_pretty(&config), eval(&config)?)
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

/// Which engine will run each policy, and why, where that is left to the program; and which servers.
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

/// What is asked of token servers.
fn token_servers(table: &str, tokens: &TokensConfig) -> String {
    let compared = match tokens.check() {
        Check::Template => "vocabulary and chat template are",
        Check::Vocabulary => "the vocabulary is",
        Check::None => "nothing but the model's id is",
    };
    format!(
        "{table}.engine: tokens, from {} servers that speak `{}`; {compared} compared before the first token",
        tokens.servers.len(),
        tokens.dialect.as_str(),
    )
}

fn model_is_there(config: &StartConfig) -> Result<(), Failure> {
    let named = config.path.as_ref().filter(|path| !path.exists()).and_then(|path| path.to_str());
    if named.is_some_and(hub::is_named) {
        return Ok(());
    }
    config.check().map_err(Failure::from)
}

/// Fails where a file of data is not there.
fn file_is_there(path: &Path) -> Result<(), Failure> {
    for file in data_files(path).map_err(anyhow::Error::from)? {
        if !file.is_file() {
            return Err(anyhow::anyhow!("there is no file `{}`", file.display()).into());
        }
    }
    Ok(())
}

/// What a supervised run will do.
fn sft(config: &SftConfig) -> Result<Vec<String>, Failure> {
    if let SftData::Chat { path, eval_path, .. } = &config.data {
        [path].into_iter().chain(eval_path).try_for_each(|path| file_is_there(path))?;
    }
    let conversations = config.steps * config.batch_size as u64;
    let checkpoints = config.steps.div_ceil(config.checkpoint_every);
    Ok(vec![
        format!("steps: {}", config.steps),
        format!("conversations: {conversations}, each as often as the data is short"),
        format!("checkpoints: {checkpoints}, of which {} are kept", config.keep_checkpoints),
    ])
}

/// What a GRPO run will do, at most.
fn grpo(config: &GrpoConfig) -> Result<Vec<String>, Failure> {
    let mut evaluations = config.steps / config.eval.every + 1;
    evaluations += u64::from(!config.steps.is_multiple_of(config.eval.every));
    if let TaskConfig::File { path, eval_path, .. } = &config.tasks {
        [path].into_iter().chain(eval_path).try_for_each(|path| file_is_there(path))?;
        evaluations *= u64::from(eval_path.is_some());
    }
    let rounds = u64::from(config.extra_rounds) + 1;
    let training = config.steps * (config.groups_per_step * config.group_size) as u64;
    let held_out = evaluations * config.eval.tasks as u64;
    let most = training * rounds + held_out;
    let turns = config.limits.max_turns as u64;
    // The last turn of an episode answers; the others may ask.
    let calls = most * turns.saturating_sub(1).max(1);
    let sampled = most
        * config
            .limits
            .max_policy_tokens
            .min(config.limits.max_turn_tokens.saturating_mul(config.limits.max_turns))
            as u64;
    let mut lines = vec![
        format!("steps: {}", config.steps),
        format!(
            "episodes: {training} to learn from{}, {held_out} in {evaluations} evaluations",
            match rounds {
                1 => String::new(),
                rounds => format!(" (up to {} with `extra_rounds`)", training * rounds),
            }
        ),
        format!(
            "calls of the large model: at most {calls}; remembered replies are not asked again"
        ),
        format!("tokens that the policy samples: at most {sampled}"),
    ];
    lines.push(match (&config.large_model.endpoint, config.limits.max_cost) {
        (None, _) => "money: none, the large model runs in this process".to_owned(),
        (Some(_), Some(limit)) => {
            format!("money: at most {:.2} (`limits.max_cost` an episode)", limit * most as f64)
        }
        (Some(_), None) => "money: not bounded; `limits.max_cost` bounds an episode".to_owned(),
    });
    Ok(lines)
}

/// What an environment will offer.
fn environment(config: &EnvironmentConfig) -> Vec<String> {
    let turns = match &config.model {
        Some(model) => format!("turns: token ids of `{model}`, or texts"),
        None => "turns: texts; `model` names the tokenizer for token ids".to_owned(),
    };
    let Bounds { max_open, idle_ms } = config.episodes;
    vec![turns, format!("episodes: at most {max_open}, closed after {idle_ms} ms without a step")]
}

/// What an evaluation will do. Reads the questions.
fn eval(config: &EvalConfig) -> Result<Vec<String>, Failure> {
    let questions = data::load(&config.data, &config.metrics, config.limit, config.seed)?;
    let (count, arms) = (questions.questions.len(), config.arms.len());
    let mut lines: Vec<String> =
        questions.warnings.iter().map(|warning| format!("warning: {warning}")).collect();
    lines.push(format!("questions: {count}"));
    lines.push(format!("arms: {arms}, so {} answers", count * arms));
    if let Some(search) = &config.prompt_search {
        lines.push(format!("calls of the prompt search: at most {}", search.budget));
    }
    Ok(lines)
}
