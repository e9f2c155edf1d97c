//! Files of which a run has one for each step: `step-00000010.json` in a folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::run_files;

/// The file of `step` in `folder`.
pub fn path(folder: &Path, step: u64) -> PathBuf {
    folder.join(run_files::name_of_step(step))
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
        let entry = entry?;
        if entry.file_name().to_str().and_then(run_files::step_of).is_some_and(&is_stale) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
