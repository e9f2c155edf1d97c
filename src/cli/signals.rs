//! Signals that end the process.

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask a process to end.
#[cfg(unix)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// None where it means something else, is ignored, or has come already.
    hangup: Option<Signal>,
}

#[cfg(unix)]
impl Signals {
    /// SIGINT and SIGTERM.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: None,
        })
    }

    /// The same and SIGHUP, which says that the terminal is gone. Where it is ignored, as under
    /// `nohup`, it stays so.
    pub(super) fn with_hangup() -> std::io::Result<Self> {
        let hangup = match is_hangup_ignored() {
            true => None,
            false => Some(signal(SignalKind::hangup())?),
        };
        Ok(Self { hangup, ..Self::new()? })
    }

    pub(super) async fn next(&mut self) {
        let hangup = self.hangup.as_mut();
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            // A shell may send it as well as its terminal, which is no second request.
            Some(()) = async move { hangup?.recv().await } => self.hangup = None,
        }
    }
}

#[cfg(unix)]
fn is_hangup_ignored() -> bool {
    use nix::libc;
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action it only writes the current one, for which zeros are valid too.
    unsafe {
        libc::sigaction(libc::SIGHUP, std::ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(not(unix))]
pub(super) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    pub(super) fn with_hangup() -> std::io::Result<Self> {
        Ok(Self)
    }

    pub(super) async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}

/// Completes when the process is asked to end by one of `signals`.
pub(super) async fn stop_signal(signals: std::io::Result<Signals>) {
    match signals {
        Ok(mut signals) => signals.next().await,
        Err(error) => {
            tracing::warn!(%error, "cannot wait for signals other than Ctrl-C");
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
