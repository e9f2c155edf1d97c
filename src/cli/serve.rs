//! `server serve`: the HTTP server.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use clap::builder::BoolishValueParser;
use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::access::Access;
use crate::compute::panic_message;
use crate::config::{Config, ConfigError, Overrides};
use crate::http::{self, App, AppHandle, Canary, Metrics, Served, Serving, Tls};
use crate::record::{Archive, Recorder};

use super::assemble::{Assembly, LoadedPolicy, assemble};
use super::exit::causes;
use super::pid_file::PidFile;
use super::signals::{Signals, stop_signal};
use super::telemetry::Telemetry;
use super::{Failure, descriptors, memory, secrets};

/// The time-out for loading models during a reload.
const LOAD_TIMEOUT: Duration = Duration::from_secs(1800);

#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "PROMPT_R1_CONFIG")]
    config: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, value_name = "ADDR", env = "PROMPT_R1_LISTEN")]
    listen: Option<String>,
    /// Accept requests without a key, also from other machines, while there are no keys
    #[arg(long, env = "PROMPT_R1_ALLOW_NO_KEYS", value_parser = BoolishValueParser::new())]
    allow_no_keys: bool,
    #[command(flatten)]
    overrides: Overrides,
}

impl ServeArgs {
    fn load(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(self.config.as_deref(), &self.overrides)?;
        if let Some(listen) = &self.listen {
            config.server.listen.clone_from(listen);
        }
        config.access.allow_no_keys |= self.allow_no_keys;
        Ok(config)
    }
}

/// Runs `server serve`.
pub async fn run(args: ServeArgs) -> Result<(), Failure> {
    memory::release_large_blocks();
    // Installed before anything slow: until then the signal ends the process.
    let hangups = Hangups::new()?;
    let config = args.load()?;
    let telemetry = Telemetry::start(config.telemetry.as_ref())?;
    let result = serve(args, config, hangups).await;
    telemetry.finish().await;
    result
}

async fn serve(args: ServeArgs, config: Config, hangups: Hangups) -> Result<(), Failure> {
    let access = Arc::new(Access::open(&config.access, &secrets::from_environment).await?);
    let requires_key = access.requires_key().await.map_err(anyhow::Error::from)?;
    if !requires_key {
        check_open(&config).await?;
    }
    let tls = config.tls.as_ref().map(Tls::load).transpose()?.map(Arc::new);
    let recorder =
        config.record.as_ref().map(|record| Recorder::start(record, &secrets::from_environment));
    let recorder = recorder.transpose()?;
    let archive = config.record.as_ref().map(|record| {
        Archive::open(record, &secrets::from_environment).map(|archive| (archive, record.clone()))
    });
    let archive = archive.transpose()?;
    let metrics = Arc::new(Metrics::default());
    let assembly = assemble(&config, metrics.clone()).await?;
    let app = App {
        server: config.server.clone(),
        access: Some(access.clone()),
        recorder,
        archive,
        metrics: metrics.clone(),
        clock: Arc::new(SystemTime::now),
        // Time-ordered ids make logs and stores easier to search.
        ids: Arc::new(new_id),
    };
    let listen = config.server.listen.as_str();
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        anyhow::Error::from(reason!(
            "cannot listen on `{listen}`: {error}";
            hint: "choose another address with `--listen`"
        ))
    })?;
    let address = listener.local_addr()?;
    for note in &assembly.notes {
        tracing::info!(hint = note.hint.as_deref(), "{note}");
    }
    let pid_file = config.server.pid_file.as_deref().map(PidFile::hold).transpose()?;
    print_start(&config, &assembly, address);
    let handle = AppHandle::new(app, serving(&config, assembly));
    let router = http::router(handle.clone());
    // On its own task: loading models must not block connections.
    let (mut server, certificate) = (config.server.clone(), tls.clone());
    server.max_connections = descriptors::max_connections(server.max_connections);
    let serving = tokio::spawn(async move {
        http::serve(listener, router, &server, certificate, stop_signal(Signals::new())).await
    });
    let used = Arc::clone(&access);
    let reloads = Reloads { args, config, handle, access, tls, metrics, pid_file };
    let served = tokio::select! {
        served = AbortOnDropHandle::new(serving) => served,
        () = reloads.on(hangups) => Ok(Ok(())),
    };
    // Also if the server failed: what was used is charged.
    used.finish().await;
    Ok(served.map_err(anyhow::Error::from)??)
}

/// Without keys, anyone who can connect may send requests: only this machine, unless that is
/// explicitly allowed.
async fn check_open(config: &Config) -> Result<(), Failure> {
    let listen = config.server.listen.as_str();
    let mut addresses = tokio::net::lookup_host(listen).await.map_err(|error| {
        ConfigError::Setting(format!("`{listen}` is not an address to listen on: {error}").into())
    })?;
    if addresses.all(|address| address.ip().is_loopback()) {
        tracing::info!("there are no keys: requests are accepted from this machine only");
    } else if config.access.allow_no_keys {
        tracing::warn!("there are no keys: requests are accepted from anyone who can connect");
    } else {
        return Err(ConfigError::Setting(reason!(
            "there are no keys, and `{listen}` is open to other machines";
            hint: "make a key with `server keys create`, listen on 127.0.0.1, or let anyone ask with `--allow-no-keys`"
        ))
        .into());
    }
    Ok(())
}

/// The replaceable part of the server's state, by `config`.
fn serving(config: &Config, assembly: Assembly) -> Serving {
    let served = |LoadedPolicy { policy, protocol, sampling }| {
        Arc::new(Served { policy, protocol, sampling })
    };
    let canary = assembly.canary.zip(config.canary.as_ref());
    Serving {
        main: served(assembly.main),
        canary: canary
            .map(|(loaded, canary)| Canary { share: canary.share, served: served(loaded) }),
        adapters: assembly.adapters.into_iter().map(served).collect(),
        large_models: assembly.large_models,
        limits: config.episode.clone(),
    }
}

/// Reloads the configuration on each SIGHUP.
struct Reloads {
    args: ServeArgs,
    /// The configuration in use.
    config: Config,
    handle: AppHandle,
    access: Arc<Access>,
    tls: Option<Arc<Tls>>,
    metrics: Arc<Metrics>,
    pid_file: Option<PidFile>,
}

impl Reloads {
    /// Never returns.
    async fn on(mut self, mut hangups: Hangups) {
        loop {
            hangups.next().await;
            let result = self.reload().await;
            self.metrics.reload(result.is_ok());
            let error = match &result {
                Ok(()) => {
                    tracing::info!("the new configuration serves");
                    None
                }
                Err(error) => {
                    let reason = causes(error).join(": ");
                    tracing::error!(reason, "cannot reload; the old configuration stays in use");
                    Some(reason)
                }
            };
            if let Some(Err(error)) = self.pid_file.as_mut().map(|file| file.reloaded(error)) {
                tracing::warn!(%error, "cannot store the result of the reload");
            }
        }
    }

    async fn reload(&mut self) -> anyhow::Result<()> {
        tracing::info!("reading the configuration again");
        let (config, assembly) = load(self.args.clone(), self.metrics.clone()).await?;
        self.access.refresh().await.context("cannot look for keys")?;
        if let Some((tls, files)) = self.tls.as_ref().zip(config.tls.as_ref()) {
            tls.reload(files)?;
        }
        if config.tls.is_some() != self.config.tls.is_some() {
            tracing::warn!("turning TLS on or off needs a restart");
        }
        let (new, old) = (&config, &self.config);
        let is_fixed = new.server == old.server
            && new.access == old.access
            && new.telemetry == old.telemetry
            && new.record == old.record;
        if !is_fixed {
            tracing::warn!(
                "changes of the tables `server`, `access`, `telemetry` and `record` need a restart"
            );
        }
        for note in &assembly.notes {
            tracing::info!(hint = note.hint.as_deref(), "{note}");
        }
        self.handle.replace(serving(&config, assembly));
        self.config = config;
        Ok(())
    }
}

/// Reads the configuration and loads its models, on its own thread: panics and slow loading there
/// do not affect the server.
async fn load(args: ServeArgs, metrics: Arc<Metrics>) -> anyhow::Result<(Config, Assembly)> {
    let runtime = tokio::runtime::Handle::current();
    let loading = tokio::task::spawn_blocking(move || {
        let config = args.load()?;
        let assembly = runtime.block_on(assemble(&config, metrics));
        Ok((config, assembly.context("cannot load the models")?))
    });
    match tokio::time::timeout(LOAD_TIMEOUT, loading).await {
        Ok(Ok(loaded)) => loaded,
        Ok(Err(error)) => Err(anyhow::anyhow!("cannot load the models: {}", reason(error))),
        Err(_) => {
            Err(anyhow::anyhow!("cannot load the models within {} s", LOAD_TIMEOUT.as_secs()))
        }
    }
}

/// The message of a panic.
fn reason(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "it was cancelled".to_owned() };
    panic_message(panic.as_ref()).to_owned()
}

#[allow(clippy::print_stderr, reason = "what to try next is for the person who started this")]
fn print_start(config: &Config, assembly: &Assembly, address: std::net::SocketAddr) {
    let question = if config.local_models.contains_key(crate::config::BUNDLED) {
        super::EXAMPLE_QUESTION
    } else {
        "Which planet has the most moons, and how many?"
    };
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    // The question is JSON inside single quotes.
    let question = question.replace('\'', "\\u0027");
    let page =
        if config.server.ui { format!("\n\nopen {scheme}://{address}/") } else { String::new() };
    eprintln!(
        "policy `{}`, large model `{}`, listening on {scheme}://{address}{page}\n\ntry it:\n  curl -s {scheme}://{address}/v1/solve -H 'content-type: application/json' -d '{{\"question\": \"{question}\", \"trace\": true}}'\n",
        assembly.main.policy.name(),
        config.default_large_model(),
    );
}

/// SIGHUPs, if the system has them.
struct Hangups {
    #[cfg(unix)]
    signals: Signal,
}

impl Hangups {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            signals: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        if self.signals.recv().await.is_some() {
            return;
        }
        std::future::pending().await
    }
}

/// A UUID of version 7. Its random part comes from the thread's generator: the system's is slower.
fn new_id() -> Uuid {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(now.as_millis() as u64, &rand::random()).into_uuid()
}
