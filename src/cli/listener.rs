//! Listeners of small servers.

use std::net::{SocketAddr, TcpListener};

use crate::config::ConfigError;
use crate::hint::Reason;

use super::Failure;

/// Listens on `listen`. Where that is open to other machines, `open_error` may refuse it.
pub fn bind(
    listen: &str,
    open_error: impl FnOnce() -> Option<Reason>,
) -> Result<(TcpListener, SocketAddr), Failure> {
    let failed = |error: std::io::Error| reason!("cannot listen on `{listen}`: {error}"; hint: "choose another address");
    let listener = TcpListener::bind(listen).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    if !address.ip().is_loopback()
        && let Some(reason) = open_error()
    {
        return Err(ConfigError::Setting(reason).into());
    }
    listener.set_nonblocking(true).map_err(failed)?;
    Ok((listener, address))
}
