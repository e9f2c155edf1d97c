//! Finds a model: a path as it is, a Hugging Face id by download.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use hf_hub::api::tokio::ApiBuilder;

/// The folder or file that `model` names. An id such as `Qwen/Qwen3-0.6B` is fetched into the
/// Hugging Face cache first, with `HF_TOKEN` and `HF_HOME` as that cache's other users know them.
pub async fn resolve(model: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(model);
    if path.exists() {
        return Ok(path.to_owned());
    }
    let is_id = model.split('/').count() == 2
        && !model.starts_with(['.', '/', '~'])
        && !model.ends_with(".gguf")
        && !model.starts_with("models/")
        && !model.starts_with("runs/");
    if !is_id {
        bail!(
            "there is no model at `{model}`\nhint: give a folder with `config.json` and safetensors, a `.gguf` file, or a Hugging Face id such as `Qwen/Qwen3-0.6B`"
        );
    }
    let hint = || {
        format!(
            "cannot fetch `{model}` from the Hugging Face hub\nhint: check the id and the network, or give a local folder"
        )
    };
    let api = ApiBuilder::from_env().with_progress(true).build().with_context(hint)?;
    let repo = api.model(model.to_owned());
    let info = repo.info().await.with_context(hint)?;
    let mut folder = None;
    for file in info.siblings {
        let wanted = [".json", ".jinja", ".safetensors"]
            .iter()
            .any(|ending| file.rfilename.ends_with(ending));
        if wanted && !file.rfilename.contains('/') {
            let path = repo.get(&file.rfilename).await.with_context(hint)?;
            folder = path.parent().map(Path::to_owned);
        }
    }
    folder.with_context(|| format!("`{model}` holds no safetensors model"))
}
