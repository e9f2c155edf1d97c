//! `server runs`, and `server train --ui`: a web page over a folder of runs.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use crate::http::{self, ServerConfig};
use crate::runs::Runs;

use super::signals::{Signals, stop_signal};
use super::telemetry::Telemetry;
use super::{Failure, listener};

/// The default address of the page: on a free port.
pub const LISTEN: &str = "127.0.0.1:0";

#[derive(Debug, Args)]
pub struct RunsArgs {
    /// Folder whose subfolders are runs and evaluations
    #[arg(value_name = "FOLDER", default_value = "runs")]
    folder: PathBuf,
    /// Address of the page, on this machine
    #[arg(long, value_name = "ADDR", default_value = LISTEN)]
    listen: String,
}

/// Runs `server runs`.
pub async fn run(args: RunsArgs) -> Result<(), Failure> {
    Telemetry::start(None)?;
    let folder = args.folder.display();
    let runs = Runs::open(&args.folder).with_context(|| {
        reason!(
            "cannot read the folder `{folder}`";
            hint: "name a folder whose subfolders are runs"
        )
    })?;
    let (listener, address) = bind(&args.listen)?;
    print_address(address, "");
    Ok(serve(runs, listener, stop_signal(Signals::with_hangup())).await?)
}

/// Serves the page of a run and its siblings until the process ends, on its own thread.
pub fn serve_in_background(output: &Path, listen: &str) -> Result<(), Failure> {
    let (listener, address) = bind(listen)?;
    std::fs::create_dir_all(output).context("cannot make the run's folder")?;
    let output = output.canonicalize().context("cannot find the run's folder")?;
    let runs = Runs::open(output.parent().unwrap_or(&output)).context("cannot read the runs")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let name = output.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.bytes().flat_map(escaped).map(char::from).collect();
    print_address(address, &format!("?run={name}"));
    let serving = move || {
        let served = runtime.block_on(serve(runs, listener, std::future::pending()));
        if let Err(error) = served {
            tracing::error!(%error, "the server of the runs has ended");
        }
    };
    std::thread::Builder::new().name("runs".into()).spawn(serving)?;
    Ok(())
}

async fn serve(
    runs: Runs,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    let config = ServerConfig { max_connections: 64, ..ServerConfig::default() };
    let router = http::runs_router(runs, &config);
    http::serve(tokio::net::TcpListener::from_std(listener)?, router, &config, None, shutdown).await
}

/// A listener on a loopback address: there are no keys here.
fn bind(listen: &str) -> Result<(TcpListener, SocketAddr), Failure> {
    listener::bind(listen, || {
        Some(reason!(
            "`{listen}` is open to other machines, and the page of the runs needs no key";
            hint: "listen on 127.0.0.1 and forward the port, as `ssh -L` does"
        ))
    })
}

#[allow(clippy::print_stderr, reason = "the address is for the person who started this")]
fn print_address(address: SocketAddr, query: &str) {
    eprintln!("the runs are shown at http://{address}/{query}");
}

/// Percent-encodes a byte of a name in a URL's query.
fn escaped(byte: u8) -> Vec<u8> {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => vec![byte],
        _ => format!("%{byte:02X}").into_bytes(),
    }
}
