//! The folder of a run: checkpoints, metrics, the finished model.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::TrainError;
use crate::atomic_file;
use crate::gguf::Gguf;
use crate::protocol::TEMPLATES;
use crate::run_lock::RunLock;
use crate::tokenization::{TokenizerError, write_text_files};

/// The files next to the weights that a model folder needs for serving.
pub(super) const TEXT_FILES: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
];

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunFolder {
    root: PathBuf,
    /// Locked while the run is active.
    _lock: Arc<RunLock>,
}

impl RunFolder {
    /// Opens or creates the folder.
    ///
    /// # Errors
    /// When another run uses it, or it cannot be written.
    pub fn open(root: &Path) -> Result<Self, TrainError> {
        fs::create_dir_all(root.join("checkpoints"))?;
        match RunLock::take(root)? {
            Some(lock) => Ok(Self { root: root.to_owned(), _lock: Arc::new(lock) }),
            None => Err(TrainError::Locked(root.display().to_string())),
        }
    }

    /// The folder itself; metrics are written here.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a model that was created for this run.
    pub fn start(&self) -> PathBuf {
        self.root.join("start")
    }

    /// The folder of the finished model.
    pub fn model(&self) -> PathBuf {
        self.root.join("model")
    }

    /// Whether the run can be resumed.
    pub fn is_fresh(&self) -> bool {
        self.checkpoints().is_empty()
    }

    /// The newest complete checkpoint: the steps done, and its folder.
    pub fn latest(&self) -> Option<(u64, PathBuf)> {
        self.checkpoints().pop()
    }

    /// Writes a checkpoint by `write`, atomically: a kill or a full disk leaves the older ones
    /// unchanged. Then removes all but the newest `keep`, except `best`.
    ///
    /// # Errors
    /// What `write` fails with, or when a folder cannot be made, renamed or removed.
    pub fn checkpoint<E: From<io::Error>>(
        &self,
        step: u64,
        keep: usize,
        best: Option<u64>,
        write: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let folder = self.root.join("checkpoints");
        let partial = folder.join("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir_all(&partial)?;
        write(&partial)?;
        let whole = folder.join(format!("step-{step:08}"));
        // A checkpoint whose removal is interrupted must not be taken for a complete one.
        let doomed = folder.join("removed");
        let empty = || if doomed.exists() { fs::remove_dir_all(&doomed) } else { Ok(()) };
        empty()?;
        if whole.exists() {
            fs::rename(&whole, &doomed)?;
        }
        fs::rename(&partial, &whole)?;
        let mut all = self.checkpoints();
        all.truncate(all.len().saturating_sub(keep.max(1)));
        for (old, path) in all {
            if Some(old) != best {
                empty()?;
                fs::rename(path, &doomed)?;
            }
        }
        empty()?;
        Ok(whole)
    }

    /// The folder of the checkpoint after `step` steps.
    pub fn checkpoint_path(&self, step: u64) -> PathBuf {
        self.root.join("checkpoints").join(format!("step-{step:08}"))
    }

    /// All complete checkpoints, oldest first.
    fn checkpoints(&self) -> Vec<(u64, PathBuf)> {
        let mut found: Vec<(u64, PathBuf)> = fs::read_dir(self.root.join("checkpoints"))
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
                Some((step, path))
            })
            .collect();
        found.sort();
        found
    }
}

/// Copies tokenizer, chat template and protocol templates from one model folder to another; from a
/// GGUF file, those that it contains.
///
/// # Errors
/// When something cannot be read or written.
pub fn copy_tokenizer(from: &Path, to: &Path) -> Result<(), TrainError> {
    fs::create_dir_all(to)?;
    if Gguf::is_path(from) {
        write_text_files(&Gguf::open(from).map_err(TokenizerError::from)?, to)?;
        return Ok(());
    }
    for name in TEXT_FILES {
        if from.join(name).is_file() {
            atomic_file::copy(&from.join(name), &to.join(name))?;
        }
    }
    let templates = from.join(TEMPLATES);
    if templates.is_dir() { copy_templates(&templates, to) } else { Ok(()) }
}

/// Copies the protocol templates in the folder `templates` into the model folder `to`.
///
/// # Errors
/// When something cannot be read or written.
pub(super) fn copy_templates(templates: &Path, to: &Path) -> Result<(), TrainError> {
    let to = to.join(TEMPLATES);
    fs::create_dir_all(&to)?;
    let entries = fs::read_dir(templates).map_err(|source| TrainError::read(templates, source))?;
    for entry in entries {
        let entry = entry?;
        atomic_file::copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn write(text: &'static str) -> impl FnOnce(&Path) -> io::Result<()> {
        move |folder| fs::write(folder.join("x"), text)
    }

    #[test]
    fn a_failed_checkpoint_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(folder.path()).unwrap();
        assert!(run.is_fresh());
        run.checkpoint(1, 2, None, write("one")).unwrap();
        run.checkpoint(2, 2, None, |_| Err(io::Error::other("the disk is full"))).unwrap_err();
        let (step, path) = run.latest().unwrap();
        assert_eq!((step, fs::read_to_string(path.join("x")).unwrap().as_str()), (1, "one"));
    }

    #[test]
    fn every_file_of_a_tokenizer_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir(&from).unwrap();
        let named = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
        for name in named {
            fs::write(from.join(name), name).unwrap();
        }
        copy_tokenizer(&from, &to).unwrap();
        for name in named {
            assert_eq!(fs::read_to_string(to.join(name)).unwrap(), name);
        }
    }

    #[test]
    fn one_run_is_at_work_in_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(folder.path()).unwrap();
        let error = RunFolder::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("another run uses"), "{error}");
        drop(run);
        RunFolder::open(folder.path()).unwrap();
    }

    #[test]
    fn old_checkpoints_go_and_the_best_stays() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(folder.path()).unwrap();
        for step in 1..=5 {
            run.checkpoint(step, 2, Some(2), write("x")).unwrap();
        }
        let steps: Vec<u64> = run.checkpoints().into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [2, 4, 5]);
    }
}
