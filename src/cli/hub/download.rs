//! One file from the hub, with its progress, for as long as there is any.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use hf_hub::api::tokio::{ApiError, ApiRepo, Progress};
use indicatif::{ProgressBar, ProgressStyle};

use super::{HubError, explain, unreachable};

/// How long a download may stand still.
const STALL: Duration = Duration::from_secs(60);

/// Brings the file `name` of `model` into `folder`, which is that of its revision in the cache.
pub(super) async fn download(
    repo: &ApiRepo,
    model: &str,
    name: &str,
    folder: &Path,
) -> Result<(), HubError> {
    let shown = Shown(ProgressBar::new(0));
    let mut fetched = pin!(repo.download_with_progress(name, shown.clone()));
    let mut before = None;
    loop {
        if let Ok(fetched) = tokio::time::timeout(STALL, &mut fetched).await {
            let fetched = match fetched {
                // There is no first byte of an empty file that could be asked for.
                Err(ApiError::RequestError(error))
                    if error.status().is_some_and(|status| status.as_u16() == 416) =>
                {
                    make_empty(&folder.join(name))
                }
                fetched => fetched.map(|_| ()),
            };
            return fetched.map_err(|error| explain(model, error));
        }
        let now = shown.0.position();
        if before.replace(now) == Some(now) {
            return Err(unreachable(
                model,
                anyhow::anyhow!("`{name}` does not arrive any further"),
            ));
        }
    }
}

fn make_empty(path: &Path) -> Result<(), ApiError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    Ok(std::fs::write(path, "")?)
}

/// A bar on a terminal, and nothing elsewhere; counts in both.
#[derive(Clone)]
struct Shown(ProgressBar);

impl Progress for Shown {
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
