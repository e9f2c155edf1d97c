//! `server env`: episodes for other trainers, over HTTP.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use secrecy::SecretString;
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::config::{ConfigError, EnvironmentConfig};
use crate::environment::{Environment, EnvironmentSetup};
use crate::episode::Limits;
use crate::http::{self, EnvironmentApp, environment_router};
use crate::large_model::LargeModel;
use crate::protocol::{Protocol, own_templates};
use crate::reward::Rewarder;
use crate::tokenization::ChatTokenizer;

use super::model_check::declared_context;
use super::output::print_line;
use super::signals::{Signals, stop_signal};
use super::telemetry::Telemetry;
use super::train::large_model;
use super::{Failure, hub, listener, secrets};

#[derive(Debug, Args)]
pub struct EnvArgs {
    /// Configuration of the environment
    #[arg(long, value_name = "FILE", required_unless_present = "openapi")]
    config: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Print the environment's OpenAPI document instead
    #[arg(long)]
    openapi: bool,
}

/// Runs `server env`.
pub fn run(args: EnvArgs) -> Result<(), Failure> {
    if args.openapi {
        return Ok(print_line(http::environment_openapi_json())?);
    }
    Telemetry::start(None)?;
    let file = args.config.context("`--config` is missing")?;
    let mut config = EnvironmentConfig::load(&file)?;
    if let Some(listen) = args.listen {
        config.server.listen = listen;
    }
    let key = config.key_env.as_deref().map(key).transpose()?;
    let open = config.episodes.max_open;
    let model = large_model("large_model", "large_model", &config.large_model, open)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(offer(&config, key, model))
}

#[allow(clippy::print_stderr, reason = "the address is for the person who started this")]
async fn offer(
    config: &EnvironmentConfig,
    key: Option<SecretString>,
    model: Arc<dyn LargeModel>,
) -> Result<(), Failure> {
    let setup = setup(config, model).await?;
    let environment = Arc::new(Environment::new(setup, config.episodes));
    let listen = config.server.listen.as_str();
    let (listener, address) = listener::bind(listen, || {
        key.is_none().then(|| {
            reason!(
                "there is no key, and `{listen}` is open to other machines";
                hint: "name one by `key_env`, or listen on 127.0.0.1"
            )
        })
    })?;
    let listener = TcpListener::from_std(listener)?;
    eprintln!("the environment is listening on http://{address}");
    let app = EnvironmentApp { environment, key, ids: Arc::new(Uuid::new_v4) };
    let router = environment_router(app, &config.server);
    http::serve(listener, router, &config.server, None, stop_signal(Signals::with_hangup()))
        .await?;
    Ok(())
}

fn key(variable: &str) -> Result<SecretString, ConfigError> {
    secrets::from_environment(variable).ok_or_else(|| {
        ConfigError::Setting(reason!(
            "`key_env` names `{variable}`, which is not set";
            hint: "export it"
        ))
    })
}

/// The shared setup of all episodes of `config`.
async fn setup(
    config: &EnvironmentConfig,
    large_model: Arc<dyn LargeModel>,
) -> anyhow::Result<EnvironmentSetup> {
    let path = match &config.model {
        Some(model) => Some(hub::resolve_text(model).await?),
        None => None,
    };
    let text = match &path {
        None => None,
        Some(path) => {
            let text = ChatTokenizer::load(path)?;
            text.check_turns()?;
            let context = declared_context(path).unwrap_or(usize::MAX);
            Some((Arc::new(text), context))
        }
    };
    let templates = config.templates.clone().or_else(|| own_templates(&path));
    Ok(EnvironmentSetup {
        large_model,
        protocol: Arc::new(Protocol::load(templates.as_deref())?),
        rewarder: Arc::new(Rewarder::new(&config.reward)?),
        limits: Limits { fallback: false, ..config.limits.clone() },
        params: config.large_model.call_params(),
        text,
    })
}
