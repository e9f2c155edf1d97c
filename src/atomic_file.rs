//! Files that are replaced whole or not at all.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process;

/// Has `write` fill a new file beside `path`, syncs it and renames it to `path`. After a crash,
/// `path` is the old file or the new one, never a part of one; after an error, nothing is left
/// beside it.
///
/// # Errors
/// What `write` fails with, or when the file cannot be synced or renamed.
pub fn replace(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let beside = new_beside(path)?;
    let written = write(&beside)
        .and_then(|()| File::open(&beside)?.sync_all())
        .and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        // If this fails too, the first error says more.
        std::fs::remove_file(&beside).ok();
    }
    written?;
    // The rename is durable once the folder is synced. Where folders cannot be opened, there is
    // nothing to sync.
    if let Some(Ok(folder)) = path.parent().map(File::open) {
        folder.sync_all()?;
    }
    Ok(())
}

/// Replaces the file at `path` by one of these contents. An error names it.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, contents: impl AsRef<[u8]>) -> io::Result<()> {
    replace(path, |beside| std::fs::write(beside, contents)).map_err(|error| named(path, &error))
}

/// Copies the contents of a file, and not its permissions: the copy of a read-only file can be
/// written to, and is replaced by the next one. An error names the file.
///
/// # Errors
/// When `from` cannot be read, or `to` cannot be written.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let contents = std::fs::read(from).map_err(|error| named(from, &error))?;
    write(to, contents)
}

/// The same error, with the name of the file.
pub fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{}`: {error}", path.display()))
}

/// Makes an empty file beside `path` that no other process has.
fn new_beside(path: &Path) -> io::Result<PathBuf> {
    let mut number = 0_u32;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}-{number}.tmp", process::id()));
        match File::create_new(&name) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number += 1,
            made => return made.map(|_| name.into()),
        }
    }
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
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no part is left beside");
        put("new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside");
    }

    #[test]
    fn a_copy_of_a_read_only_file_can_be_written_to_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        std::fs::write(&from, "text").unwrap();
        let mut permissions = std::fs::metadata(&from).unwrap().permissions();
        permissions.set_readonly(true);
        std::fs::set_permissions(&from, permissions.clone()).unwrap();
        // As an earlier version left it.
        std::fs::write(&to, "old").unwrap();
        std::fs::set_permissions(&to, permissions).unwrap();
        for _ in 0..2 {
            copy(&from, &to).unwrap();
            assert_eq!(std::fs::read_to_string(&to).unwrap(), "text");
            assert!(!std::fs::metadata(&to).unwrap().permissions().readonly());
        }
        let missing = folder.path().join("missing");
        let beyond = folder.path().join("no/such/folder");
        for (from, to, named) in [(&missing, &to, &missing), (&from, &beyond, &beyond)] {
            let error = copy(from, to).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{}`: ", named.display())), "{error}");
        }
    }

    #[test]
    fn a_file_of_someone_else_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        let others = [".tmp".to_owned(), format!(".{}-0.tmp", process::id())];
        let others = others.map(|end| folder.path().join(format!("a.json{end}")));
        for other in &others {
            std::fs::write(other, "kept").unwrap();
        }
        replace(&path, |beside| std::fs::write(beside, "new")).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        for other in &others {
            assert_eq!(std::fs::read_to_string(other).unwrap(), "kept");
        }
    }
}
