//! Folders of runs, read while the runs are active: metrics, evaluations, reports. Reads are
//! bounded, and nothing outside the folder can be read.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde_json::{Map, Value};

use crate::run_files;

#[cfg(test)]
mod tests;

/// Runs that are listed, the newest first.
const LISTED: usize = 200;
/// Bytes of metrics that are read at once.
const MAX_METRICS_BYTES: u64 = 2 * 1024 * 1024;
/// The longest other file that is read, bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// What is in a run's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// A training run.
    Training,
    /// A finished evaluation.
    Evaluation,
}

/// A run in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The name of its folder.
    pub name: String,
    /// What it is.
    pub kind: RunKind,
    /// When it last wrote, seconds since 1970.
    pub updated: u64,
    /// Whether there is a report to open.
    pub has_report: bool,
    /// The summary that a training run writes at its end; none while it is active.
    pub summary: Option<Value>,
}

/// What a training run writes of some steps, a file for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PerStep {
    /// The policy on held-out tasks.
    Evaluations,
    /// Episodes that the policy learnt from.
    Samples,
}

impl PerStep {
    fn folder(self) -> &'static str {
        match self {
            Self::Evaluations => run_files::EVALUATIONS,
            Self::Samples => run_files::SAMPLES,
        }
    }
}

/// Metrics of a run from some offset of its file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MetricRows {
    /// A row for each step, with its `step`.
    pub rows: Vec<Map<String, Value>>,
    /// The offset to continue from.
    pub next: u64,
    /// Whether more can be read now.
    pub has_more: bool,
}

/// A folder whose subfolders are runs.
#[derive(Debug, Clone)]
pub struct Runs {
    root: PathBuf,
}

impl Runs {
    /// The runs below `root`, which must be a folder.
    ///
    /// # Errors
    /// When it is none.
    pub fn open(root: &Path) -> io::Result<Self> {
        let root = root.canonicalize()?;
        if !root.is_dir() {
            return Err(ErrorKind::NotADirectory.into());
        }
        Ok(Self { root })
    }

    /// All runs, those that wrote last first.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self) -> io::Result<Vec<Run>> {
        let mut runs = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            runs.extend(name.to_str().and_then(|name| self.run(name)));
        }
        runs.sort_by(|a: &Run, b| (b.updated, &a.name).cmp(&(a.updated, &b.name)));
        runs.truncate(LISTED);
        for run in &mut runs {
            run.summary = self.summary(&run.name, run.updated);
        }
        Ok(runs)
    }

    /// The run of this name, without its summary.
    fn run(&self, name: &str) -> Option<Run> {
        let folder = self.folder(name)?;
        let written = |file| modified(&folder.join(file));
        let report = written(run_files::REPORT);
        let (kind, updated) = match written(run_files::METRICS) {
            Some(updated) => (RunKind::Training, updated),
            None => (RunKind::Evaluation, report?),
        };
        let (name, has_report) = (name.to_owned(), report.is_some());
        Some(Run { name, kind, updated, has_report, summary: None })
    }

    /// The summary of a finished run, unless it was resumed since.
    fn summary(&self, name: &str, updated: u64) -> Option<Value> {
        let path = self.folder(name)?.join(run_files::SUMMARY);
        if modified(&path)? < updated {
            return None;
        }
        serde_json::from_slice(&read(&path).ok()??).ok()
    }

    /// The metrics from byte `from` of their file on; `None` where there is no such run. A file
    /// that has become shorter is read from its beginning.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn metrics(&self, name: &str, from: u64) -> io::Result<Option<MetricRows>> {
        let Some(folder) = self.folder(name) else { return Ok(None) };
        let Some(mut file) = existing(File::open(folder.join(run_files::METRICS)))? else {
            return Ok(None);
        };
        let length = file.metadata()?.len();
        let from = if from <= length { from } else { 0 };
        file.seek(SeekFrom::Start(from))?;
        let mut text = Vec::new();
        file.take(MAX_METRICS_BYTES).read_to_end(&mut text)?;
        // The last line may be incomplete.
        let whole = memchr::memrchr(b'\n', &text).map_or(0, |at| at + 1);
        let lines = text[..whole].split(|&byte| byte == b'\n');
        let rows = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let next = from + whole as u64;
        Ok(Some(MetricRows { rows, next, has_more: whole > 0 && next < length }))
    }

    /// The steps of which a run wrote this, in order; `None` where there is no such run.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn steps(&self, name: &str, of: PerStep) -> io::Result<Option<Vec<u64>>> {
        let Some(folder) = self.folder(name) else { return Ok(None) };
        let Some(entries) = existing(std::fs::read_dir(folder.join(of.folder())))? else {
            return Ok(Some(Vec::new()));
        };
        let mut steps = Vec::new();
        for entry in entries {
            let file = entry?.file_name();
            steps.extend(file.to_str().and_then(run_files::step_of));
        }
        steps.sort_unstable();
        Ok(Some(steps))
    }

    /// What a run wrote of a step; `None` where there is nothing.
    ///
    /// # Errors
    /// When the file cannot be read, or is being written.
    pub fn step(&self, name: &str, of: PerStep, step: u64) -> io::Result<Option<Value>> {
        let Some(folder) = self.folder(name) else { return Ok(None) };
        let text = read(&folder.join(of.folder()).join(run_files::name_of_step(step)))?;
        Ok(text.map(|text| serde_json::from_slice(&text)).transpose()?)
    }

    /// The report of a run; `None` where there is none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn report(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let Some(folder) = self.folder(name) else { return Ok(None) };
        read(&folder.join(run_files::REPORT))
    }

    /// The folder of a run.
    fn folder(&self, name: &str) -> Option<PathBuf> {
        let is_name =
            !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0', ':']);
        // A symbolic link may lead out of the folder: the operator made it, so it is followed.
        Some(self.root.join(name)).filter(|path| is_name && path.is_dir())
    }
}

/// When a file was last written, seconds since 1970.
fn modified(path: &Path) -> Option<u64> {
    let metadata = path.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}

/// All of a file, if it is there.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = existing(File::open(path))? else { return Ok(None) };
    if file.metadata()?.len() > MAX_FILE_BYTES {
        let longest = MAX_FILE_BYTES / (1024 * 1024);
        return Err(io::Error::other(format!("it is longer than {longest} MiB")));
    }
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut text)?;
    Ok(Some(text))
}

fn existing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}
