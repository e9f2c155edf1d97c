//! Files that are replaced whole or not at all.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Has `write` make a file beside `path`, syncs it and renames it to `path`. After a crash, `path`
/// is the old file or the new one, never a part of one.
///
/// # Errors
/// What `write` fails with, or when the file cannot be synced or renamed.
pub fn replace(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let beside = PathBuf::from(name);
    write(&beside)?;
    File::open(&beside)?.sync_all()?;
    std::fs::rename(&beside, path)?;
    // The rename is durable once the folder is synced. Where folders cannot be opened, there is
    // nothing to sync.
    if let Some(Ok(folder)) = path.parent().map(File::open) {
        folder.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let put = |text: &str| replace(&path, |beside| std::fs::write(beside, text));
        put("old").unwrap();
        let failed = replace(&path, |beside| {
            std::fs::write(beside, "ne")?;
            Err(io::Error::other("the disk is full"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "the disk is full");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        put("new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside");
    }
}
