//! Finds a model: a path as it is, a Hugging Face id by download.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use hf_hub::api::tokio::{ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

mod download;
mod files;

use download::download;
use files::{INDEX, Listing, is_complete, shards};

/// How long the hub may take to say what it has.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The folder or file that `model` names. An id such as `Qwen/Qwen3-0.6B` is fetched into the
/// Hugging Face cache first, by `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` as that
/// cache's other users know them. What is in the cache does where the hub cannot be reached.
pub async fn resolve(model: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(model);
    if path.exists() {
        return Ok(path.to_owned());
    }
    if !is_id(model) {
        bail!(
            "there is no model at `{model}`\nhint: give a folder with `config.json` and safetensors, a `.gguf` file, or a Hugging Face id such as `Qwen/Qwen3-0.6B`"
        );
    }
    let cache = Cache::from_env();
    let kept = cache.model(model.to_owned()).get("config.json");
    let kept = kept.and_then(|config| config.parent().map(Path::to_owned));
    let kept = kept.filter(|folder| is_complete(folder));
    if is_offline() {
        return kept.with_context(|| {
            format!("`{model}` is not in the cache of the Hugging Face hub\nhint: `HF_HUB_OFFLINE` forbids to fetch it; unset it once, or give a local folder")
        });
    }
    match (fetch(&cache, model).await, kept) {
        (Err(HubError::Unreachable(reason)), Some(folder)) => {
            let reason = format!("{reason:#}");
            tracing::warn!(model, reason, "the hub cannot be reached: using what is in the cache");
            Ok(folder)
        }
        (fetched, _) => Ok(fetched?),
    }
}

fn is_id(model: &str) -> bool {
    model.split('/').filter(|part| !part.is_empty()).count() == 2
        && model.matches('/').count() == 1
        && !model.starts_with(['.', '~'])
        && !model.ends_with(".gguf")
        && !model.starts_with("models/")
        && !model.starts_with("runs/")
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

fn is_offline() -> bool {
    let value = variable("HF_HUB_OFFLINE").unwrap_or_default().to_lowercase();
    ["1", "on", "true", "yes"].contains(&value.as_str())
}

/// Why a model could not be had from the hub.
#[derive(Debug)]
enum HubError {
    /// The hub said no, or what it has is of no use.
    Refused(anyhow::Error),
    /// The hub may well have it, but could not be asked.
    Unreachable(anyhow::Error),
}

impl From<HubError> for anyhow::Error {
    fn from(error: HubError) -> Self {
        let (HubError::Refused(reason) | HubError::Unreachable(reason)) = error;
        reason
    }
}

/// Brings the newest `model` into the cache; its folder there.
async fn fetch(cache: &Cache, model: &str) -> Result<PathBuf, HubError> {
    let failed = |error| explain(model, error);
    let mut api = ApiBuilder::from_env();
    if let Some(token) = variable("HF_TOKEN") {
        api = api.with_token(Some(token));
    }
    let api = api.build().map_err(failed)?;
    let main = Repo::model(model.to_owned());
    let info = tokio::time::timeout(TIMEOUT, api.repo(main.clone()).info()).await;
    let info = info.map_err(|_| unreachable(model, anyhow::anyhow!("it does not answer")))?;
    let info = info.map_err(failed)?;
    let names = info.siblings.iter().map(|file| file.rfilename.as_str());
    let listing = Listing::new(names).map_err(|reason| refused(model, reason))?;

    // All of one revision, also if the next one is published meanwhile.
    let pinned = Repo::with_revision(model.to_owned(), RepoType::Model, info.sha.clone());
    let folder = cache.path().join(pinned.folder_name()).join("snapshots").join(&info.sha);
    let (repo, kept) = (api.repo(pinned.clone()), cache.repo(pinned));
    // Else what is there of this revision would not be found.
    kept.create_ref(&info.sha).map_err(|error| failed(error.into()))?;
    let bring = async |name: &str| match kept.get(name) {
        Some(_) => Ok(()),
        None => download(&repo, model, name, &folder).await,
    };
    for name in &listing.small {
        bring(name).await?;
    }
    let weights = match listing.small.contains(&INDEX) {
        true => shards(&folder).map_err(|reason| refused(model, reason))?,
        false => listing.weights.iter().map(|&name| name.to_owned()).collect(),
    };
    for name in weights {
        bring(&name).await?;
    }
    // Only now: what is named there is taken for complete.
    cache.repo(main).create_ref(&info.sha).map_err(|error| failed(error.into()))?;
    Ok(folder)
}

fn refused(model: &str, reason: String) -> HubError {
    HubError::Refused(anyhow::anyhow!("`{model}` cannot be used: {reason}"))
}

fn unreachable(model: &str, cause: anyhow::Error) -> HubError {
    HubError::Unreachable(cause.context(format!(
        "cannot fetch `{model}` from the Hugging Face hub\nhint: check the network, or give a local folder; what was fetched so far is kept"
    )))
}

/// What an error of the hub's client means for who named `model`.
fn explain(model: &str, error: ApiError) -> HubError {
    let status = match &error {
        ApiError::RequestError(error) => error.status().map(|status| status.as_u16()),
        _ => None,
    };
    let hint = match (&error, status) {
        (_, Some(401 | 403)) => {
            "check the id; if it is private or gated, accept its terms on its page and set `HF_TOKEN` to a token that may read it"
        }
        (_, Some(400..=428 | 430..=499)) => "check the id",
        (ApiError::LockAcquisition(_), _) => {
            "another process is fetching it: start again when that is done"
        }
        (ApiError::IoError(_), _) => {
            "check that `HF_HOME` (default: ~/.cache/huggingface) can be written and the disk is not full"
        }
        (ApiError::InvalidHeaderValue(_), _) => "check `HF_TOKEN`",
        _ => return unreachable(model, error.into()),
    };
    let told = format!("cannot fetch `{model}` from the Hugging Face hub\nhint: {hint}");
    HubError::Refused(anyhow::Error::from(error).context(told))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_an_id() {
        for id in ["Qwen/Qwen3-0.6B", "someone/tiny"] {
            assert!(is_id(id), "{id}");
        }
        for path in [
            "gpt2",
            "a/b/c",
            "/a",
            "a/",
            "a//b",
            "./a",
            "../a",
            "~/a",
            "models/policy",
            "runs/one",
            "a/b.gguf",
            "",
        ] {
            assert!(!is_id(path), "{path}");
        }
    }
}
