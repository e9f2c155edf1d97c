//! `server health`: whether a server is ready, for containers that hold no other client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;

use super::Failure;

/// Long enough for a busy server, shorter than the time-outs of container health checks.
const TIMEOUT: Duration = Duration::from_secs(4);

#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Address that the server listens on
    #[arg(long, value_name = "ADDR", env = "PROMPT_R1_LISTEN", default_value = "127.0.0.1:8080")]
    listen: String,
}

/// Runs `server health`.
pub async fn run(args: HealthArgs) -> Result<(), Failure> {
    let address = reachable(&args.listen);
    let url = format!("http://{address}/readyz");
    // The certificate is for the server's public name, so it is not verified. No secret is sent,
    // and only the status is used.
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(TIMEOUT)
        .tls_danger_accept_invalid_certs(true)
        .build()
        .context("cannot ask")?;
    let asked = match client.get(&url).send().await {
        // A connection that is not plain HTTP: a server with TLS.
        Err(plain) if !plain.is_connect() && !plain.is_timeout() => {
            let secure = client.get(format!("https://{address}/readyz")).send().await;
            secure.map_err(|_| plain)
        }
        asked => asked,
    };
    let status = asked.with_context(|| format!("no server answers at `{url}`"))?.status();
    if status.is_success() {
        Ok(())
    } else {
        Err(anyhow!("the server at `{url}` is not ready: {status}").into())
    }
}

/// The address to reach a server that listens on every address.
fn reachable(listen: &str) -> String {
    let Ok(mut address) = listen.parse::<SocketAddr>() else { return listen.to_owned() };
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_server_can_be_reached() {
        for (listen, reached) in [
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("localhost:80", "localhost:80"),
        ] {
            assert_eq!(reachable(listen), reached);
        }
    }
}
