//! Checks a model and its adapters before an engine loads them: engines trust `config.json`, and
//! absurd sizes would abort the process.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::gguf::Gguf;
use crate::model::{Adapter, Spec, Weights, check_adapter};
use crate::tokenization::ChatTokenizer;
use crate::train::adapter_text::check_text;
use crate::train::start::not_applied_yet;

const CONTEXT: &str = "max_position_embeddings";

/// Sizes in `config.json`, and the largest plausible values.
const SIZES: [(&str, u64); 8] = [
    ("vocab_size", 1 << 24),
    ("hidden_size", 1 << 20),
    ("intermediate_size", 1 << 22),
    ("num_hidden_layers", 10_000),
    ("num_attention_heads", 1 << 16),
    ("num_key_value_heads", 1 << 16),
    ("head_dim", 1 << 16),
    (CONTEXT, 1 << 24),
];

/// Checks that the sizes of the model in `folder` are possible. Those of a GGUF file are checked
/// where it is read.
///
/// # Errors
/// When `config.json` cannot be read, or names an impossible size.
pub fn check_sizes(folder: &Path) -> anyhow::Result<()> {
    if Gguf::is_path(folder) {
        return Ok(());
    }
    let path = folder.join("config.json");
    let shown = path.display();
    let text = std::fs::read(&path).with_context(|| format!("cannot read `{shown}`"))?;
    let config: Value =
        serde_json::from_slice(&text).with_context(|| format!("`{shown}` is not valid JSON"))?;
    // Multimodal models have the sizes of the text model one level below.
    for sizes in [Some(&config), config.get("text_config")].into_iter().flatten() {
        for (name, most) in SIZES {
            let Some(size) = sizes.get(name).filter(|size| !size.is_null()) else { continue };
            if !size.as_u64().is_some_and(|size| (1..=most).contains(&size)) {
                bail!("`{name}` = {size} in `{shown}` is not between 1 and {most}");
            }
        }
        if let Some(theta) = sizes.get("rope_theta").filter(|theta| !theta.is_null())
            && !theta.as_f64().is_some_and(|theta| theta > 0.0)
        {
            bail!("`rope_theta` = {theta} in `{shown}` is not above 0");
        }
    }
    Ok(())
}

/// Checks that the model at `path`, whose tokenizer is that of `text`, is one that the engine
/// `native` and training load. Weights are not read.
///
/// # Errors
/// Says why they are not.
pub fn check_model(path: &Path, text: &ChatTokenizer) -> anyhow::Result<Spec> {
    let spec = Spec::load(path)?;
    text.check_size(spec.vocab_size)?;
    Weights::check(path, &spec)?;
    Ok(spec)
}

/// Checks that adapters are for the model at `path` with the tokenizer and chat template of `text`,
/// without reading the weights of either.
///
/// # Errors
/// Names the adapter that is not, and why.
pub fn check_adapters(
    path: &Path,
    text: &ChatTokenizer,
    adapters: &[PathBuf],
) -> anyhow::Result<()> {
    if adapters.is_empty() {
        return Ok(());
    }
    for folder in adapters {
        check_adapter(folder).with_context(|| not_loaded(folder))?;
        not_applied_yet(folder, path)?;
    }
    for folder in adapters {
        check_text(folder, text, path)?;
    }
    let spec = Spec::load(path)?;
    for folder in adapters {
        Adapter::check(folder, &spec).with_context(|| not_loaded(folder))?;
    }
    Ok(())
}

/// The error text for an adapter that cannot be loaded.
pub fn not_loaded(adapter: &Path) -> String {
    format!("cannot load the adapter `{}`", adapter.display())
}

/// The context length of the model in a folder or GGUF file, if its files contain it. The
/// architecture need not be supported.
pub fn declared_context(path: &Path) -> Option<usize> {
    if Gguf::is_path(path) {
        let file = Gguf::open(path).ok()?;
        let kind = file.text("general.architecture").ok()??.to_owned();
        return file.number(&format!("{kind}.context_length")).ok()?.map(|size| size as usize);
    }
    let config: Value =
        serde_json::from_slice(&std::fs::read(path.join("config.json")).ok()?).ok()?;
    let sizes = [Some(&config), config.get("text_config")];
    let size = sizes.into_iter().flatten().find_map(|sizes| sizes.get(CONTEXT)?.as_u64());
    size.map(|size| size as usize)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_that_no_model_has() {
        let folder = tempfile::tempdir().unwrap();
        let huge = 1_000_000_000_000_000_u64;
        let table = [
            (json!({"hidden_size": 64, "rope_theta": 1e6}), None),
            (json!({"head_dim": null}), None),
            (json!({"max_position_embeddings": huge}), Some("max_position_embeddings")),
            (json!({"max_position_embeddings": 0}), Some("max_position_embeddings")),
            (json!({"num_hidden_layers": 1_000_000_000}), Some("num_hidden_layers")),
            (json!({"num_attention_heads": 0}), Some("num_attention_heads")),
            (json!({"hidden_size": -1}), Some("hidden_size")),
            (json!({"rope_theta": 0}), Some("rope_theta")),
            (json!({"text_config": {"vocab_size": huge}}), Some("vocab_size")),
        ];
        for (config, expected) in table {
            std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
            let error = check_sizes(folder.path()).err().map(|error| error.to_string());
            assert_eq!(error.is_some(), expected.is_some(), "{config}");
            assert!(error.unwrap_or_default().contains(expected.unwrap_or_default()), "{config}");
        }
    }
}
