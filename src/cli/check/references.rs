//! Checks what a configuration names: models, templates, prompts, programs, certificates,
//! addresses. No weights are read, and nothing is downloaded or started.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cli::assemble::check_local_model;
use crate::cli::{Failure, hub};
use crate::config::{Config, ConfigError, EnvironmentConfig, EvalConfig, PolicyConfig};
use crate::eval::arms::{BriefSources, Method, Prompt};
use crate::hint::Reason;
use crate::http::Tls;
use crate::judge::Judge;
use crate::large_model::{LargeModelChoice, LargeModelConfig, Scripted};
use crate::protocol::Protocol;
use crate::reward::{RewardConfig, Rewarder};
use crate::train::config::StartConfig;
use crate::train::grpo::GrpoConfig;

/// What the configuration of a server names, as it is written: the bundled models, which are the
/// default, may be elsewhere when it starts.
pub(super) fn check_server(written: &Config) -> Result<(), Failure> {
    address("server.listen", &written.server.listen)?;
    if let Some(files) = &written.tls {
        Tls::load(files)?;
    }
    if let Some(tls) = &written.access.redis_tls {
        for (key, path) in [("ca", &tls.ca), ("certificate", &tls.certificate), ("key", &tls.key)] {
            file(&format!("access.redis_tls.{key}"), path.as_deref())?;
        }
    }
    policy("policy", &written.policy)?;
    if let Some(canary) = &written.canary {
        policy("canary.policy", &canary.policy)?;
    }
    for (name, local) in &written.local_models {
        local_model(&format!("local_models.{name}.path"), &local.path)?;
    }
    for (name, model) in &written.large_models {
        endpoint(&format!("large_models.{name}"), model)?;
    }
    templates("templates", written.templates.as_deref())
}

/// What the configuration of a GRPO run names, its data aside.
pub(super) fn check_grpo(config: &GrpoConfig) -> Result<(), Failure> {
    check_templates(&config.model)?;
    large_model("large_model", &config.large_model)?;
    if let Some(judge) = &config.judge {
        if let Some(choice) = &judge.large_model {
            large_model("judge.large_model", choice)?;
        }
        judge_prompt(judge.prompt.as_deref())?;
    }
    reward(&config.reward)
}

/// What the configuration of an environment names.
pub(super) fn check_environment(config: &EnvironmentConfig) -> Result<(), Failure> {
    address("server.listen", &config.server.listen)?;
    if let Some(named) = &config.model {
        model("model", Path::new(named))?;
    }
    templates("templates", config.templates.as_deref())?;
    large_model("large_model", &config.large_model)?;
    reward(&config.reward)
}

/// What the configuration of an evaluation names, its data aside.
pub(super) fn check_evaluation(config: &EvalConfig) -> Result<(), Failure> {
    let prompt = |file: &PathBuf| Prompt::load(file, &BriefSources::default()).map(|_| ());
    for arm in &config.arms {
        match &arm.method {
            Method::Template(file) | Method::SelfConsistency(_, Some(file)) => prompt(file)?,
            Method::Policy(named) | Method::FirstPrompt(named) => {
                model(&format!("arms: {}", arm.name), Path::new(named))?;
            }
            Method::Script(command) => {
                let name = command.split_whitespace().next().unwrap_or_default();
                program(&format!("arms: {}", arm.name), name)?;
            }
            Method::Direct
            | Method::ChainOfThought
            | Method::SelfPolicy
            | Method::SelfConsistency(_, None)
            | Method::PromptSearch => {}
        }
    }
    for (name, local) in &config.local_models {
        local_model(&format!("local_models.{name}.path"), &local.path)?;
    }
    for (name, model) in &config.large_models {
        endpoint(&format!("large_models.{name}"), model)?;
    }
    judge_prompt(config.judge.prompt.as_deref())?;
    templates("templates", config.templates.as_deref())
}

/// The folders of templates of a model that is trained.
pub(super) fn check_templates(config: &StartConfig) -> Result<(), Failure> {
    templates("model.templates", config.templates.as_deref())?;
    let new = config.new.as_ref().and_then(|new| new.templates.as_deref());
    templates("model.new.templates", new)
}

fn policy(table: &str, config: &PolicyConfig) -> Result<(), Failure> {
    if let Some(remote) = &config.remote {
        endpoint(&format!("{table}.remote"), remote)?;
    }
    if let Some(tokens) = &config.tokens {
        file(&format!("{table}.tokens.ca"), tokens.ca.as_deref())?;
    }
    match &config.model {
        Some(named) => model(&format!("{table}.model"), Path::new(named)),
        None => Ok(()),
    }
}

fn large_model(key: &str, choice: &LargeModelChoice) -> Result<(), Failure> {
    if let Some(model) = &choice.endpoint {
        endpoint(&format!("{key}.endpoint"), model)?;
    }
    choice.path.as_deref().map_or(Ok(()), |path| local_model(&format!("{key}.path"), path))
}

/// The files of a large model behind an endpoint.
fn endpoint(table: &str, config: &LargeModelConfig) -> Result<(), Failure> {
    for (key, path) in [("tokenizer", &config.tokenizer), ("ca", &config.ca)] {
        file(&format!("{table}.{key}"), path.as_deref())?;
    }
    Ok(())
}

/// A file or folder.
fn file(key: &str, path: Option<&Path>) -> Result<(), Failure> {
    match path {
        Some(path) if !path.exists() => setting(reason!(
            "`{key}` names `{}`, which does not exist", path.display();
            hint: "paths are relative to the folder that the program is started in"
        )),
        _ => Ok(()),
    }
}

/// An address to listen on. Names of hosts are not resolved.
fn address(key: &str, listen: &str) -> Result<(), Failure> {
    let of_host = listen.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(':') && port.parse::<u16>().is_ok()
    });
    if of_host || listen.parse::<SocketAddr>().is_ok() {
        return Ok(());
    }
    setting(reason!(
        "`{key}` = `{listen}` is not an address to listen on";
        hint: "write it like `127.0.0.1:8080`"
    ))
}

/// A large model of this process. The files of one on this machine are checked as well.
fn local_model(key: &str, path: &Path) -> Result<(), Failure> {
    model(key, path)?;
    let checked = check_local_model(path);
    checked.map_err(|error| error.context(format!("cannot use `{key}`")).into())
}

/// A model in a folder or file, or on the hub, which is not asked.
fn model(key: &str, path: &Path) -> Result<(), Failure> {
    if path.exists() || path.to_str().is_some_and(hub::is_hub_name) {
        return Ok(());
    }
    setting(reason!(
        "`{key}` names `{}`, where there is no model", path.display();
        hint: "give a folder, a `.gguf` file or a Hugging Face id; paths are relative to the folder that the program is started in"
    ))
}

fn templates(key: &str, folder: Option<&Path>) -> Result<(), Failure> {
    let Some(folder) = folder else { return Ok(()) };
    let loaded = Protocol::load(Some(folder)).map_err(anyhow::Error::from);
    loaded.map(|_| ()).map_err(|error| error.context(format!("cannot use `{key}`")).into())
}

fn judge_prompt(prompt: Option<&Path>) -> Result<(), Failure> {
    let model = Arc::new(Scripted::texts("", &[]));
    let judge = Judge::new(model, prompt, Duration::ZERO).map_err(anyhow::Error::from);
    judge.map(|_| ()).map_err(|error| error.context("cannot use `judge.prompt`").into())
}

fn reward(config: &RewardConfig) -> Result<(), Failure> {
    Rewarder::new(config).map_err(anyhow::Error::from)?;
    let command = config.external.as_ref().and_then(|external| external.command.first());
    command.map_or(Ok(()), |name| program("reward.external.command", name))
}

/// A program by its path, or by its name in the folders of `PATH`.
fn program(key: &str, name: &str) -> Result<(), Failure> {
    let path = Path::new(name);
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let is_there = match name.contains('/') {
        true => path.is_file(),
        false => std::env::split_paths(&folders).any(|folder| folder.join(path).is_file()),
    };
    if is_there {
        return Ok(());
    }
    setting(reason!(
        "`{key}` names the program `{name}`, which does not exist";
        hint: "name it by its path, or install it into a folder of `PATH`"
    ))
}

fn setting(reason: Reason) -> Result<(), Failure> {
    Err(ConfigError::Setting(reason).into())
}
