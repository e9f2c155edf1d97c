//! Downloads one file from the hub, with progress, without a limit on the total time.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context;
use hf_hub::api::tokio::{ApiError, ApiRepo, Progress};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use super::{HubError, explain, unreachable};

/// The time-out for a stalled download.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Downloads the file `name` of `model` into `folder`, which is that of its revision in the cache.
pub(super) async fn download(
    repo: &ApiRepo,
    model: &str,
    name: &str,
    folder: &Path,
) -> Result<(), HubError> {
    let shown = DownloadProgress(ProgressBar::new(0));
    let mut fetched = pin!(repo.download_with_progress(name, shown.clone()));
    let mut before = None;
    loop {
        if let Ok(fetched) = tokio::time::timeout(STALL_TIMEOUT, &mut fetched).await {
            let fetched = match fetched {
                // A range request for the first byte of an empty file would fail.
                Err(ApiError::RequestError(error))
                    if error.status().is_some_and(|status| status.as_u16() == 416) =>
                {
                    make_empty(&folder.join(name))
                }
                fetched => fetched.map(|_| ()),
            };
            fetched.map_err(|error| explain(model, error))?;
            check_location(folder, name).map_err(|error| {
                let reason = format!("the hub sent `{name}` of `{model}` to another place");
                HubError::Refused(error.context(reason))
            })?;
            let path = folder.join(name);
            let sum = tokio::task::spawn_blocking(move || check_sum(&path)).await;
            return sum.map_err(anyhow::Error::from).flatten().map_err(|error| {
                let reason = format!("`{name}` of `{model}` did not arrive as it is on the hub");
                HubError::Unreachable(error.context(reason))
            });
        }
        let now = shown.0.position();
        if before.replace(now) == Some(now) {
            return Err(unreachable(model, format!("the download of `{name}` has stalled")));
        }
    }
}

/// Fails unless a file that arrived lies in `folder`, and its content in the cache of the same
/// repository: the client takes both places from headers of the response.
fn check_location(folder: &Path, name: &str) -> anyhow::Result<()> {
    let repository = folder.ancestors().nth(2).unwrap_or(folder).canonicalize()?;
    let (path, found) = (folder.join(name), folder.join(name).canonicalize());
    let found = found.with_context(|| format!("there is no `{}`", path.display()))?;
    anyhow::ensure!(found.starts_with(&repository), "it lies at `{}`", found.display());
    Ok(())
}

/// Compares a large file with its SHA-256, which is its name on the hub. One that differs is
/// removed, so that it is downloaded again.
fn check_sum(path: &Path) -> anyhow::Result<()> {
    let blob = path.canonicalize()?;
    let name = blob.file_name().and_then(OsStr::to_str).unwrap_or_default();
    if name.len() != 64 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let mut hasher = Sha256::new();
    std::io::copy(&mut File::open(&blob)?, &mut hasher)?;
    let sum = format!("{:x}", hasher.finalize());
    if sum != name.to_ascii_lowercase() {
        std::fs::remove_file(path)?;
        std::fs::remove_file(&blob)?;
        return Err(reason!(
            "its SHA-256 is `{sum}` instead of `{name}`";
            hint: "it is removed: start again to fetch it anew; if it differs again, something on the way changes it, such as a proxy"
        )
        .into());
    }
    Ok(())
}

fn make_empty(path: &Path) -> Result<(), ApiError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    Ok(std::fs::write(path, "")?)
}

/// A progress bar on a terminal, and nothing elsewhere; counts in both cases.
#[derive(Clone)]
struct DownloadProgress(ProgressBar);

impl Progress for DownloadProgress {
    async fn init(&mut self, size: usize, name: &str) {
        let style = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} left {eta}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            self.0.set_style(style);
        }
        self.0.set_length(size as u64);
        self.0.set_message(name.to_owned());
    }

    async fn update(&mut self, size: usize) {
        self.0.inc(size as u64);
    }

    async fn finish(&mut self) {
        self.0.finish();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_arrived_lies_in_the_cache_of_its_repository() {
        let home = tempfile::tempdir().unwrap();
        let repository = home.path().join("models--a--b");
        let folder = repository.join("snapshots").join("0f");
        std::fs::create_dir_all(&folder).unwrap();
        assert!(check_location(&folder, "config.json").is_err(), "it is absent");
        std::fs::write(folder.join("config.json"), "{}").unwrap();
        check_location(&folder, "config.json").unwrap();
        std::fs::write(home.path().join("victim"), "").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(home.path().join("victim"), folder.join("x.json")).unwrap();
        assert!(check_location(&folder, "x.json").is_err(), "it is elsewhere");
    }
}
