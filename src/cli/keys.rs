//! `server keys`: creates, lists and revokes keys.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use secrecy::ExposeSecret;

use crate::access::{AccessConfig, KeyLimits, NewKey, Store, StoreError};
use crate::config::{Config, Overrides};

use super::{Failure, secrets};

#[derive(Debug, Args)]
pub struct KeysArgs {
    /// Configuration file: its table `access` says where keys are stored
    #[arg(long, value_name = "FILE", env = "PROMPT_R1_CONFIG", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a key and print it, which happens only once
    Create(CreateArgs),
    /// List all keys
    List,
    /// Make a key permanently invalid
    Revoke {
        /// The key's id, as `list` shows it
        id: String,
    },
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// What the key is for
    #[arg(value_parser = name)]
    name: String,
    /// Models it may ask for, such as `prompt-r1,prompt-r1/*` [default: all]
    #[arg(long, value_name = "MODELS", value_delimiter = ',', value_parser = model)]
    models: Vec<String>,
    /// Requests per minute
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    requests_per_minute: Option<u64>,
    /// Tokens per minute, of both models together
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    tokens_per_minute: Option<u64>,
    /// Cost per day (UTC), in the currency of the configured prices
    #[arg(long, value_name = "AMOUNT", value_parser = amount)]
    budget_per_day: Option<f64>,
}

/// A name without its surrounding spaces.
fn name(text: &str) -> Result<String, String> {
    let name = text.trim();
    if name.is_empty() {
        return Err("a name is empty".to_owned());
    }
    match name.contains(char::is_control) {
        true => Err("a name contains a control character, such as a line break".to_owned()),
        false => Ok(name.to_owned()),
    }
}

/// An entry of a key's list of models.
fn model(text: &str) -> Result<String, String> {
    let model = name(text)?;
    match model.strip_suffix('*').unwrap_or(&model).contains('*') {
        true => Err(format!("`*` can only be at the end of `{model}`")),
        false => Ok(model),
    }
}

fn amount(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(amount) if amount.is_finite() && amount > 0.0 => Ok(amount),
        _ => Err("not an amount above 0".to_owned()),
    }
}

/// Runs `server keys`.
pub async fn run(args: KeysArgs) -> Result<(), Failure> {
    let config = match &args.config {
        Some(path) => Config::load(Some(path), &Overrides::default())?.access,
        None => AccessConfig::default(),
    };
    let store = open(&config).await?;
    match args.command {
        Command::Create(args) => create(&store, args).await,
        Command::List => list(&store).await,
        Command::Revoke { id } => Ok(store.revoke(&id, now()).await?),
    }
}

async fn open(config: &AccessConfig) -> Result<Store, StoreError> {
    match config.store_url(&secrets::from_environment)? {
        Some(url) => Store::connect(&url).await,
        None => Store::embedded(&config.store).await,
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "the key is the command's output")]
async fn create(store: &Store, args: CreateArgs) -> Result<(), Failure> {
    let limits = KeyLimits {
        models: args.models,
        requests_per_minute: args.requests_per_minute,
        tokens_per_minute: args.tokens_per_minute,
        budget_per_day: args.budget_per_day,
    };
    let is_first = !store.has_keys().await?;
    let new = NewKey::new(&args.name, limits, now())?;
    store.create(&new).await?;
    println!("{}", new.bearer.expose_secret());
    eprintln!("this key is shown once; its id is `{}`", new.key.id);
    if is_first {
        eprintln!("this is the first key: from now on every caller needs one");
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the list is the command's output")]
async fn list(store: &Store) -> Result<(), Failure> {
    for key in store.list().await? {
        let state = if key.revoked_at.is_some() { "revoked" } else { "valid" };
        let limits = serde_json::to_string(&key.limits).map_err(anyhow::Error::from)?;
        // A line break in a name would begin another line of the list.
        let name = key.name.replace(char::is_control, " ");
        println!("{}\t{state}\t{name}\t{limits}", key.id);
    }
    Ok(())
}
