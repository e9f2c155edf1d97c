//! `server reload`: makes a running server reload its configuration.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;

use crate::config::{Config, Overrides};

use super::Failure;
use super::output::print_line;
use super::pid_file::PidFile;

#[derive(Debug, Args)]
pub struct ReloadArgs {
    /// Configuration file of the server; it is checked before the server receives the signal
    #[arg(long, value_name = "FILE", env = "PROMPT_R1_CONFIG")]
    config: Option<PathBuf>,
    /// The file that holds the server's process id [default: `server.pid_file`]
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// How long to wait for the models to be loaded, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

/// Runs `server reload`: returns once the new configuration is in use.
pub async fn run(args: ReloadArgs) -> Result<(), Failure> {
    let config = match &args.config {
        Some(path) => Some(Config::load(Some(path), &Overrides::default())?),
        None => None,
    };
    let path =
        args.pid_file.or(config.and_then(|config| config.server.pid_file)).context(reason!(
            "no server is named";
            hint: "set `server.pid_file`, or send the process SIGHUP"
        ))?;
    let before = PidFile::read(&path)?;
    hang_up(before.pid)?;
    let until = Instant::now() + Duration::from_secs(args.timeout);
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
        // It may be incomplete at this moment.
        let Ok(now) = PidFile::read(&path) else { continue };
        if now.reloads > before.reloads {
            return match now.error {
                None => Ok(print_line("the new configuration serves")?),
                Some(error) => Err(anyhow!("the old configuration stays in use: {error}").into()),
            };
        }
    }
    let waited = args.timeout;
    let reason = reason!(
        "the server did not report a result within {waited} s";
        hint: "see its log"
    );
    Err(anyhow::Error::from(reason).into())
}

#[cfg(unix)]
fn hang_up(pid: u32) -> anyhow::Result<()> {
    use nix::sys::signal::{Signal, kill};
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
    kill(pid, Signal::SIGHUP).with_context(|| format!("cannot send SIGHUP to the process {pid}"))
}

#[cfg(not(unix))]
fn hang_up(_pid: u32) -> anyhow::Result<()> {
    Err(reason!("this system has no SIGHUP"; hint: "restart the server").into())
}
