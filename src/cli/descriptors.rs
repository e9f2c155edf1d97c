//! Limits the number of connections by the limit of open files.

use std::io;

/// File descriptors for everything else: models, stores, lists of models.
const RESERVED_DESCRIPTORS: u64 = 256;

/// The possible number of connections, at most `wanted`. Raises the limit of open files as far as
/// needed and allowed: on many systems the default is 1,024, and more is allowed.
pub fn max_connections(wanted: usize) -> usize {
    // A request takes two: the client's connection, and the endpoint's.
    let needed = (wanted as u64).saturating_mul(2).saturating_add(RESERVED_DESCRIPTORS);
    match raise(needed) {
        Ok(limit) if limit < needed => {
            let fitting =
                (limit.saturating_sub(RESERVED_DESCRIPTORS) / 2).max(limit / 8).max(1) as usize;
            tracing::warn!(
                open_files = limit,
                max_connections = fitting,
                hint = "raise the limit of the process (`ulimit -n`)",
                "fewer connections than `server.max_connections` = {wanted}: they need {needed} open files"
            );
            fitting
        }
        Ok(_) => wanted,
        Err(error) => {
            tracing::warn!(%error, "cannot determine how many files may be open");
            wanted
        }
    }
}

/// Raises the limit of open files to `needed`, or as far as allowed; returns the limit.
#[cfg(unix)]
fn raise(needed: u64) -> io::Result<u64> {
    use nix::libc::{RLIMIT_NOFILE, getrlimit, rlimit, setrlimit};
    let checked = |code: i32| if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    let mut limits = rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limits` is a value of the type that the call fills in.
    checked(unsafe { getrlimit(RLIMIT_NOFILE, &raw mut limits) })?;
    if limits.rlim_cur < needed {
        let raised = rlimit { rlim_cur: needed.min(limits.rlim_max), ..limits };
        // SAFETY: `raised` is a value of the type that the call reads.
        checked(unsafe { setrlimit(RLIMIT_NOFILE, &raw const raised) })?;
        limits = raised;
    }
    Ok(limits.rlim_cur)
}

/// Other systems have no such limit.
#[cfg(not(unix))]
fn raise(needed: u64) -> io::Result<u64> {
    Ok(needed)
}
