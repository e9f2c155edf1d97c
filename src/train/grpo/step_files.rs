//! Files of which a run has one for each step: `step-00000010.json` in a folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file of `step` in `folder`.
pub fn path(folder: &Path, step: u64) -> PathBuf {
    folder.join(format!("step-{step:08}.json"))
}

/// Removes the files in `folder` of those steps for which `is_stale` holds. A folder that does not
/// exist has none.
///
/// # Errors
/// When the folder cannot be read, or a file cannot be removed.
pub fn remove(folder: &Path, is_stale: impl Fn(u64) -> bool) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if step_of(&path).is_some_and(&is_stale) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn step_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix("step-")?.strip_suffix(".json")?.parse().ok()
}
