//! The file by which `server reload` finds the server and its result.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The server's process.
    pub pid: u32,
    /// How often the configuration was reloaded.
    pub reloads: u64,
    /// The error of the last reload; `None` if it succeeded.
    pub error: Option<String>,
}

/// The file of a running server: locked while the server runs, removed at its end.
pub struct PidFile {
    file: File,
    path: PathBuf,
    status: Status,
}

impl PidFile {
    /// Creates and locks the file.
    pub fn hold(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        // Symbolic links are not followed: anyone who can write to the folder could have made one.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, nix::libc::O_NOFOLLOW);
        let file = options.open(path);
        let file = file.with_context(|| format!("cannot write the file `{shown}`"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(reason!(
                    "another server holds `{shown}`";
                    hint: "give each its own `server.pid_file`"
                )
                .into());
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock the file `{shown}`"));
            }
        }
        let status = Status { pid: std::process::id(), reloads: 0, error: None };
        let mut held = Self { file, path: path.to_owned(), status };
        held.write()?;
        Ok(held)
    }

    /// Writes the result of a reload.
    pub fn reloaded(&mut self, error: Option<String>) -> anyhow::Result<()> {
        self.status.reloads += 1;
        self.status.error = error;
        self.write()
    }

    fn write(&mut self) -> anyhow::Result<()> {
        let text = serde_json::to_string(&self.status)?;
        self.file.rewind()?;
        self.file.set_len(0)?;
        self.file.write_all(text.as_bytes())?;
        Ok(())
    }

    /// The content of a running server's file.
    pub fn read(path: &Path) -> anyhow::Result<Status> {
        let shown = path.display();
        let none = || format!("no server runs that holds `{shown}`");
        let mut file = File::open(path).with_context(none)?;
        if file.try_lock_shared().is_ok() {
            bail!("{}: the file is left over from one that was killed", none());
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let status: Status = serde_json::from_str(&text)
            .with_context(|| format!("`{shown}` is not a file of a server"))?;
        // A signal to process 0 would go to the own process group.
        if status.pid == 0 {
            bail!("`{shown}` is not a file of a server: its process is 0");
        }
        Ok(status)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the process's file");
        }
    }
}
