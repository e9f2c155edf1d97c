//! Resolves a model: a local path, a Hugging Face id, or a GGUF file on the hub, which are
//! downloaded.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use hf_hub::api::tokio::{ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

mod download;
mod files;

use crate::hint::Reason;

use super::exit::causes;
use download::download;
use files::{FOUND_BY, INDEX, Listing, has_text, is_complete, shards};

/// The time-out for the hub's list of files.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The folder or file that `model` names. An id such as `Qwen/Qwen3-0.6B`, or a file there such as
/// `Qwen/Qwen3-0.6B-GGUF:Qwen3-0.6B-Q8_0.gguf`, is downloaded to the Hugging Face cache first;
/// `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` have their usual
/// meaning. If the hub is unreachable, the cache is used.
///
/// # Errors
/// Says why there is no such model.
pub async fn resolve(model: &str) -> anyhow::Result<PathBuf> {
    find(model, FileSelection::All).await
}

/// The same for a path in a configuration, which may be an id.
///
/// # Errors
/// As [`resolve`].
pub async fn resolve_path(path: &Path) -> anyhow::Result<PathBuf> {
    match path.to_str() {
        Some(named) => resolve(named).await,
        None => Ok(path.to_owned()),
    }
}

/// The folder of an adapter, by its path or its id on the hub.
///
/// # Errors
/// As [`resolve`], for an id. What is neither is left to the one who reads the folder.
pub async fn resolve_adapter(adapter: &Path) -> anyhow::Result<PathBuf> {
    match is_elsewhere(adapter) {
        true => resolve_path(adapter).await,
        false => Ok(adapter.to_owned()),
    }
}

/// The same without the weights, which servers have: all other files of an id are downloaded.
///
/// # Errors
/// As [`resolve`].
pub async fn resolve_text(model: &str) -> anyhow::Result<PathBuf> {
    find(model, FileSelection::Text).await
}

/// Which files of a model to download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileSelection {
    All,
    /// Configurations, tokenizer and templates. A GGUF file contains them together with its
    /// weights.
    Text,
}

async fn find(model: &str, wanted: FileSelection) -> anyhow::Result<PathBuf> {
    let path = Path::new(model);
    if path.exists() {
        return Ok(path.to_owned());
    }
    let Some(named) = HubModel::parse(model) else {
        if let Some((id, _)) = model.split_once('@').filter(|(id, _)| is_hub_name(id)) {
            return Err(reason!(
                "there is no model at `{model}`";
                hint: "a revision cannot be given: `{id}` is its newest; for another one, give a local folder"
            )
            .into());
        }
        return Err(reason!(
            "there is no model at `{model}`";
            hint: "give a folder with `config.json` and safetensors, a `.gguf` file, a Hugging Face id such as `Qwen/Qwen3-0.6B`, or a file there such as `Qwen/Qwen3-0.6B-GGUF:Qwen3-0.6B-Q8_0.gguf`"
        ).into());
    };
    let cache = cache();
    let cached = named.cached(&cache, wanted);
    if is_offline() {
        return cached.with_context(|| {
            reason!(
                "`{model}` is not in the cache of the Hugging Face hub";
                hint: "`HF_HUB_OFFLINE` forbids to fetch it; unset it once, or give a local folder or file"
            )
        });
    }
    match (fetch(&cache, named, wanted).await, cached) {
        (Err(HubError::Unreachable(reason)), Some(path)) => {
            let reason = causes(&reason).join(": ");
            tracing::warn!(model, reason, "the hub cannot be reached: using what is in the cache");
            Ok(path)
        }
        (fetched, _) => Ok(fetched?),
    }
}

/// Whether this is the name of a model on the hub.
pub fn is_hub_name(model: &str) -> bool {
    HubModel::parse(model).is_some()
}

/// Whether `path` is the name of something on the hub, and not of a file or folder here.
pub fn is_elsewhere(path: &Path) -> bool {
    !path.exists() && path.to_str().is_some_and(is_hub_name)
}

/// What a name refers to on the hub: a whole model, or one GGUF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HubModel<'a> {
    id: &'a str,
    file: Option<&'a str>,
}

impl<'a> HubModel<'a> {
    fn parse(model: &'a str) -> Option<Self> {
        let (id, file) = match model.split_once(':') {
            Some((id, file)) => (id, Some(file)),
            None => (model, None),
        };
        let is_id = id.split_once('/').is_some_and(|(owner, name)| is_part(owner) && is_part(name))
            && !id.starts_with(['.', '~'])
            && !id.ends_with(".gguf")
            && !id.starts_with("models/")
            && !id.starts_with("runs/");
        let is_file = file.is_none_or(|file| {
            file.ends_with(".gguf") && !file.split('/').any(|part| ["", ".", ".."].contains(&part))
        });
        (is_id && is_file).then_some(Self { id, file })
    }

    /// Its path in the cache, if it is complete.
    fn cached(self, cache: &Cache, wanted: FileSelection) -> Option<PathBuf> {
        let repo = cache.model(self.id.to_owned());
        let Some(file) = self.file else {
            let file = FOUND_BY.iter().find_map(|name| repo.get(name))?;
            let folder = file.parent()?.to_owned();
            let is_there = match wanted {
                FileSelection::All => is_complete(&folder),
                FileSelection::Text => has_text(&folder),
            };
            return is_there.then_some(folder);
        };
        repo.get(file)
    }
}

/// Whether this is half of an id. Other characters would mean something in the address that is
/// asked.
fn is_part(part: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !["", ".", ".."].contains(&part) && part.bytes().all(is_allowed)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Where models are kept.
fn cache() -> Cache {
    variable("HF_HUB_CACHE").map_or_else(Cache::from_env, |path| Cache::new(path.into()))
}

fn is_offline() -> bool {
    let value = variable("HF_HUB_OFFLINE").unwrap_or_default().to_lowercase();
    ["1", "on", "true", "yes"].contains(&value.as_str())
}

/// Why a model could not be downloaded.
#[derive(Debug)]
enum HubError {
    /// The hub refused, or has no usable model.
    Refused(anyhow::Error),
    /// The hub could not be reached.
    Unreachable(anyhow::Error),
}

impl From<HubError> for anyhow::Error {
    fn from(error: HubError) -> Self {
        let (HubError::Refused(reason) | HubError::Unreachable(reason)) = error;
        reason
    }
}

/// Downloads the newest revision into the cache; returns its path.
async fn fetch(
    cache: &Cache,
    named: HubModel<'_>,
    wanted: FileSelection,
) -> Result<PathBuf, HubError> {
    let model = named.id;
    let failed = |error| explain(model, error);
    let token = variable("HF_TOKEN").or_else(|| Cache::from_env().token());
    let mut api = ApiBuilder::from_cache(cache.clone()).with_token(token);
    if let Some(endpoint) = variable("HF_ENDPOINT") {
        api = api.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    let api = api.build().map_err(failed)?;
    let main = Repo::model(model.to_owned());
    let info = tokio::time::timeout(TIMEOUT, api.repo(main.clone()).info()).await;
    let info = info.map_err(|_| unreachable(model, "it does not answer".to_owned()))?;
    let info = info.map_err(failed)?;
    check_revision(&info.sha).map_err(|reason| refused(model, reason))?;
    let names = info.siblings.iter().map(|file| file.rfilename.as_str());
    let listing =
        Listing::new(model, names, named.file).map_err(|reason| refused(model, reason))?;

    // All files are of one revision, even if another is published meanwhile.
    let pinned = Repo::with_revision(model.to_owned(), RepoType::Model, info.sha.clone());
    let folder = cache.path().join(pinned.folder_name()).join("snapshots").join(&info.sha);
    let repo = api.repo(pinned);
    let bring = async |name: &str| match folder.join(name).exists() {
        true => Ok(()),
        false => download(&repo, model, name, &folder).await,
    };
    for name in &listing.small {
        bring(name).await?;
    }
    let weights = match listing.small.contains(&INDEX) {
        _ if wanted == FileSelection::Text && named.file.is_none() => BTreeSet::new(),
        true => shards(&folder).map_err(|reason| refused(model, reason))?,
        false => listing.weights.iter().map(|&name| name.to_owned()).collect(),
    };
    for name in weights {
        bring(&name).await?;
    }
    let place = named.file.map_or_else(|| folder.clone(), |file| folder.join(file));
    // Last, because a named revision is taken to be complete. A cache that has it all need not be
    // writable.
    let newest = cache.path().join(main.folder_name()).join("refs").join(main.revision());
    if std::fs::read_to_string(newest).is_ok_and(|sha| sha.trim() == info.sha) {
        return Ok(place);
    }
    cache.repo(main).create_ref(&info.sha).map_err(|error| failed(error.into()))?;
    Ok(place)
}

/// Fails unless this is the name of a commit: it becomes a part of paths in the cache.
fn check_revision(sha: &str) -> Result<(), Reason> {
    let is_commit = [40, 64].contains(&sha.len()) && sha.bytes().all(|b| b.is_ascii_hexdigit());
    match is_commit {
        true => Ok(()),
        false => Err(reason!(
            "the hub names the revision {sha:?}, which is not a commit hash";
            hint: "is `HF_ENDPOINT` a hub?"
        )),
    }
}

fn refused(model: &str, reason: Reason) -> HubError {
    HubError::Refused(reason.map_text(|text| format!("`{model}` cannot be used: {text}")).into())
}

/// What to do where the hub cannot be reached.
const NETWORK: &str = "check the network, or give a local folder; what was fetched so far is kept";

/// What to do where another server answers.
const NO_HUB: &str = "what answered is not the hub: is it a page to sign in to the network, or a wrong `HF_ENDPOINT`?";

fn unreachable(model: &str, cause: String) -> HubError {
    HubError::Unreachable(anyhow::Error::msg(cause).context(not_fetched(model, NETWORK)))
}

fn not_fetched(model: &str, hint: &'static str) -> Reason {
    Reason::from(format!("cannot fetch `{model}` from the Hugging Face hub")).with_hint(hint)
}

/// Explains an error of the hub's client to the user who named `model`.
fn explain(model: &str, error: ApiError) -> HubError {
    let status = match &error {
        ApiError::RequestError(error) => error.status().map(|status| status.as_u16()),
        _ => None,
    };
    let (is_refused, hint) = match (&error, status) {
        (_, Some(401 | 403)) => (
            true,
            "check the id; if it is private or gated, accept its terms on its page and set `HF_TOKEN` to a token that may read it",
        ),
        (_, Some(429)) => (
            false,
            "the hub limits how often it is asked: wait some minutes, or set `HF_TOKEN`; what was fetched so far is kept",
        ),
        (_, Some(400..=499)) => (true, "check the id"),
        (_, Some(500..)) => {
            (false, "the hub has a fault: try again later; what was fetched so far is kept")
        }
        (ApiError::LockAcquisition(_), _) => {
            (true, "another process is fetching it: start again when that is done")
        }
        (ApiError::IoError(_), _) => (
            true,
            "check that `HF_HOME` (default: ~/.cache/huggingface) can be written and the disk is not full",
        ),
        (ApiError::InvalidHeaderValue(_), _) => (true, "check `HF_TOKEN`"),
        (ApiError::RequestError(error), _) if is_no_json(error) => (false, NO_HUB),
        (ApiError::MissingHeader(_) | ApiError::InvalidHeader(_), _) => (false, NO_HUB),
        _ => (false, NETWORK),
    };
    let error = anyhow::Error::from(error).context(not_fetched(model, hint));
    if is_refused { HubError::Refused(error) } else { HubError::Unreachable(error) }
}

/// Whether a response could be read, but not as JSON.
fn is_no_json(error: &(dyn std::error::Error + 'static)) -> bool {
    error.source().is_some_and(|source| source.is::<serde_json::Error>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::hint::Hint;

    #[test]
    fn what_is_on_the_hub() {
        for (model, id, file) in [
            ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", None),
            ("someone/tiny", "someone/tiny", None),
            ("someone/tiny:tiny-Q4_K_M.gguf", "someone/tiny", Some("tiny-Q4_K_M.gguf")),
            ("someone/tiny:q4/tiny.gguf", "someone/tiny", Some("q4/tiny.gguf")),
        ] {
            assert_eq!(HubModel::parse(model), Some(HubModel { id, file }));
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
            "a/b:",
            "a/b:c",
            "a/b:c.safetensors",
            "a/b:../c.gguf",
            "a/b:/c.gguf",
            "b:c.gguf",
            "a/b?x=1",
            "a/b#c",
            "a/..",
            "./b",
            "a/.",
            "a/%2e%2e",
            "a/b c",
            "a/b@main",
            "a\\b/c",
        ] {
            assert_eq!(HubModel::parse(path), None, "{path}");
        }
    }

    #[tokio::test]
    async fn a_revision_cannot_be_given() {
        let error = resolve("someone/tiny@main").await.unwrap_err();
        let reason = error.downcast_ref::<Reason>().unwrap();
        assert!(reason.explained().contains("a revision cannot be given: `someone/tiny`"));
    }

    #[test]
    fn a_revision_is_a_commit() {
        for sha in ["0123456789abcdefABCD".repeat(2), "0f".repeat(32)] {
            assert_eq!(check_revision(&sha), Ok(()));
        }
        for sha in ["", "main", "../../../../tmp/victim", &"g".repeat(40), &"/.".repeat(20)] {
            let error = check_revision(sha).unwrap_err();
            assert!(error.text.contains(&format!("{sha:?}")), "{error}");
        }
    }
}
