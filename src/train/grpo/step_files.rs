//! Files of which a run has one for each step: `step-00000010.json` in a folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::run_files;

/// The file of `step` in `folder`.
pub fn path(folder: &Path, step: u64) -> PathBuf {
    folder.join(run_files::name_of_step(step))
}

/// The files in `folder` with their steps, oldest first. A folder that does not exist has none.
///
/// # Errors
/// When the folder cannot be read.
pub fn all(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let entry = entry?;
        let step = entry.file_name().to_str().and_then(run_files::step_of);
        all.extend(step.map(|step| (step, entry.path())));
    }
    all.sort();
    Ok(all)
}

/// Removes the files in `folder` of those steps for which `is_stale` holds.
///
/// # Errors
/// When the folder cannot be read, or a file cannot be removed.
pub fn remove(folder: &Path, is_stale: impl Fn(u64) -> bool) -> io::Result<()> {
    for (step, file) in all(folder)? {
        if is_stale(step) {
            fs::remove_file(file)?;
        }
    }
    Ok(())
}
