//! Prepares a model folder for mistral.rs.

use std::path::{Path, PathBuf};

use candle_core::safetensors::MmapedSafetensors;
use serde_json::Value;
use tempfile::TempDir;

use super::unsupported::{check_config, check_gguf};
use crate::engine::EngineError;
use crate::gguf::Gguf;
use crate::hint::{Hint, Reason};
use crate::model::Spec;
use crate::tokenization::write_text_files;

/// What mistral.rs is to load.
pub(super) struct ModelFiles {
    /// The folder.
    pub path: PathBuf,
    /// The file in it, for GGUF.
    pub gguf: Option<String>,
    /// Where `tokenizer.json` is. mistral.rs requires one, but only its ids are used here.
    pub tokenizer: PathBuf,
    /// The key-value cache per token of context, bytes.
    pub cache_bytes_per_token: usize,
    /// Temporary files for it.
    pub rewritten: Option<TempDir>,
}

/// An estimate for GGUF files of unknown shape: that of a 4-billion-parameter Qwen3.
const GGUF_CACHE_BYTES_PER_TOKEN: usize = 36 * 8 * 128 * 2 * 4;

impl ModelFiles {
    /// Checks a folder or GGUF file before the engine does, for errors with hints.
    pub(super) fn open(path: &Path) -> Result<Self, EngineError> {
        let failed =
            |reason: Reason| EngineError::Load { path: path.display().to_string(), reason };
        if Gguf::is_path(path) {
            return Self::open_gguf(path);
        }
        if !path.is_dir() {
            return Err(failed(reason!(
                "there is no such folder";
                hint: "give a folder with `config.json` and safetensors files, or a `.gguf` file"
            )));
        }
        check_weights(path).map_err(&failed)?;
        let config_path = path.join("config.json");
        let text = std::fs::read_to_string(&config_path)
            .map_err(|error| failed(format!("cannot read `config.json`: {error}").into()))?;
        let config: Value = serde_json::from_str(&text)
            .map_err(|error| failed(format!("`config.json` is not valid: {error}").into()))?;
        check_config(&config).map_err(&failed)?;
        let cache_bytes_per_token = cache_bytes_per_token(&config);
        let rewritten = match with_flat_rope(config) {
            None => None,
            Some(config) => Some(
                copy_with_config(path, &config)
                    .map_err(|error| failed(format!("cannot prepare a copy: {error}").into()))?,
            ),
        };
        let path = rewritten.as_ref().map_or(path, TempDir::path).to_owned();
        Ok(Self { tokenizer: path.clone(), path, gguf: None, cache_bytes_per_token, rewritten })
    }

    fn open_gguf(path: &Path) -> Result<Self, EngineError> {
        let failed =
            |reason: Reason| EngineError::Load { path: path.display().to_string(), reason };
        let file = Gguf::open(path).map_err(|error| failed(error.reason()))?;
        check_gguf(&file).map_err(failed)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let folder = parent.unwrap_or(Path::new(".")).to_owned();
        let rewritten = match folder.join("tokenizer.json").is_file() {
            true => None,
            false => Some(text_files(&file).map_err(failed)?),
        };
        let cache_bytes_per_token = Spec::from_gguf(&file)
            .map_or(GGUF_CACHE_BYTES_PER_TOKEN, |spec| {
                spec.layers.len() * spec.key_width() * 2 * size_of::<f32>()
            });
        Ok(Self {
            gguf: path.file_name().map(|name| name.to_string_lossy().into_owned()),
            tokenizer: rewritten.as_ref().map_or(&*folder, TempDir::path).to_owned(),
            path: folder,
            cache_bytes_per_token,
            rewritten,
        })
    }
}

/// A folder with the tokenizer that is in `file`.
fn text_files(file: &Gguf) -> Result<TempDir, Reason> {
    let folder = tempfile::Builder::new().prefix("prompt-r1-").tempdir();
    let folder = folder.map_err(|error| format!("cannot make a temporary folder: {error}"))?;
    write_text_files(file, folder.path()).map_err(|error| {
        reason!(
            "there is no `tokenizer.json` beside it, and none can be made out of it: {error}";
            hint: "copy `tokenizer.json` of the original model into the same folder"
        )
    })?;
    Ok(folder)
}

/// Opens every safetensors file of a folder: a truncated one would otherwise end the engine's
/// thread. GGUF files are checked where they are opened.
///
/// # Errors
/// When there is none, or one is damaged.
pub fn check_weights(folder: &Path) -> Result<(), Reason> {
    if Gguf::is_path(folder) {
        return Ok(());
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(|error| error.to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    files.sort();
    if files.is_empty() {
        return Err("there is no `.safetensors` file in it".into());
    }
    for file in files {
        // SAFETY: mapped read-only, and dropped before anything else touches the file.
        unsafe { MmapedSafetensors::new(&file) }.map_err(|error| {
            reason!(
                "`{}` is damaged: {error}", file.display();
                hint: "it may be truncated; copy it again"
            )
        })?;
    }
    Ok(())
}

fn cache_bytes_per_token(config: &Value) -> usize {
    let number = |key: &str| config.get(key).and_then(Value::as_u64).map(|n| n as usize);
    let heads = number("num_attention_heads").unwrap_or(1);
    let kv_heads = number("num_key_value_heads").unwrap_or(heads);
    let head_dim = number("head_dim")
        .unwrap_or_else(|| number("hidden_size").unwrap_or(1).div_ceil(heads.max(1)));
    let layers = number("num_hidden_layers").unwrap_or(1);
    layers * kv_heads * head_dim * 2 * size_of::<f32>()
}

/// transformers 5 nests the rotary base; mistral.rs reads it only at the top level. `None` if there
/// is nothing to change.
fn with_flat_rope(mut config: Value) -> Option<Value> {
    let nested = config.get("rope_parameters")?.clone();
    let object = config.as_object_mut()?;
    if object.contains_key("rope_theta") {
        return None;
    }
    object.insert("rope_theta".into(), nested.get("rope_theta")?.clone());
    // A scaling of the frequencies had its own key before.
    let kind = nested.get("rope_type").and_then(Value::as_str).unwrap_or("default");
    if kind != "default" && !object.contains_key("rope_scaling") {
        object.insert("rope_scaling".into(), nested);
    }
    Some(config)
}

/// A folder with the same files and another `config.json`.
fn copy_with_config(folder: &Path, config: &Value) -> std::io::Result<TempDir> {
    let copy = tempfile::Builder::new().prefix("prompt-r1-").tempdir()?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() == "config.json" {
            continue;
        }
        let original = entry.path().canonicalize()?;
        let linked = copy.path().join(entry.file_name());
        #[cfg(unix)]
        std::os::unix::fs::symlink(original, linked)?;
        #[cfg(not(unix))]
        std::fs::copy(original, linked)?;
    }
    std::fs::write(copy.path().join("config.json"), config.to_string())?;
    Ok(copy)
}
