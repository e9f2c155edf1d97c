//! `server serve`: the HTTP server.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use clap::Args;
use tokio::net::TcpListener;
use tokio::signal;
use uuid::Uuid;

use crate::config::{Config, ConfigError, Overrides};
use crate::engine::Sampling;
use crate::http::{self, App, AppState, Metrics};

use super::assemble::assemble;
use super::{Failure, logging};

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "PROMPT_R1_CONFIG")]
    config: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, value_name = "ADDR", env = "PROMPT_R1_LISTEN")]
    listen: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
}

impl ServeArgs {
    fn load(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(self.config.as_deref(), &self.overrides)?;
        if let Some(listen) = &self.listen {
            config.server.listen.clone_from(listen);
        }
        Ok(config)
    }
}

/// Carries `server serve` out.
pub async fn run(args: ServeArgs) -> Result<(), Failure> {
    logging::init();
    let config = args.load()?;
    let metrics = Arc::new(Metrics::default());
    let assembly = assemble(&config, metrics.clone()).await?;
    let sampling = &config.policy.sampling;
    let app = App {
        policy: assembly.policy,
        large_models: assembly.large_models,
        protocol: assembly.protocol,
        limits: config.episode.clone(),
        sampling: Sampling {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            seed: 0,
        },
        server: config.server.clone(),
        metrics,
        clock: Arc::new(SystemTime::now),
        // Ids in the order of time make logs and stores easier to search.
        ids: Arc::new(Uuid::now_v7),
    };
    let listen = config.server.listen.as_str();
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        anyhow::anyhow!(
            "cannot listen on `{listen}`: {error}\nhint: choose another address with `--listen`"
        )
    })?;
    let address = listener.local_addr()?;
    for note in &assembly.notes {
        tracing::info!("{note}");
    }
    say(&config, &app, address);
    let router = http::router(AppState::new(app));
    http::serve(listener, router, stop_signal(), config.server.grace()).await?;
    Ok(())
}

#[allow(clippy::print_stderr, reason = "what to try next is for the person who started this")]
fn say(config: &Config, app: &App, address: std::net::SocketAddr) {
    let question = if config.local_models.contains_key(crate::config::BUNDLED) {
        super::EXAMPLE_QUESTION
    } else {
        "Which planet has the most moons, and how many?"
    };
    // The question stands in JSON inside single quotes.
    let question = question.replace('\'', "\\u0027");
    eprintln!(
        "policy `{}`, large model `{}`, listening on http://{address}\n\ntry it:\n  curl -s http://{address}/v1/solve -H 'content-type: application/json' -d '{{\"question\": \"{question}\", \"trace\": true}}'\n",
        app.policy.name(),
        config.default_large_model(),
    );
}

/// Ends when the process is asked to stop.
async fn stop_signal() {
    let interrupted = signal::ctrl_c();
    #[cfg(unix)]
    {
        if let Ok(mut terminated) = signal::unix::signal(signal::unix::SignalKind::terminate()) {
            tokio::select! {
                _ = interrupted => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    let _ = interrupted.await;
}
