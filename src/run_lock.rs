//! The lock of the folder of a run: one process at a time writes into it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// The file in the folder that is locked.
const FILE: &str = "run.lock";

/// A locked folder. A child process shares the lock until its `exec`, so closing the file alone
/// might not release it.
#[derive(Debug)]
pub struct RunLock(File);

impl RunLock {
    /// Locks `folder`, which exists; `None` if another process holds it.
    ///
    /// # Errors
    /// When its file cannot be made or locked.
    pub fn take(folder: &Path) -> io::Result<Option<Self>> {
        let file = File::create(folder.join(FILE))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // If this fails, closing the file releases it later.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_folder_has_one_holder() {
        let folder = tempfile::tempdir().unwrap();
        let lock = RunLock::take(folder.path()).unwrap().unwrap();
        assert!(RunLock::take(folder.path()).unwrap().is_none());
        drop(lock);
        assert!(RunLock::take(folder.path()).unwrap().is_some());
    }
}
