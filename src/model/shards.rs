//! Which files of a folder hold its weights.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::ModelError;
use super::files;
use super::path_check::pickled;
use crate::hint::Reason;

/// `model.safetensors`, or the shards that the index names.
///
/// # Errors
/// When there are none, or the index is not what they hold: one of two tensors of a name would be
/// used by chance.
pub(super) fn safetensors_files(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    let invalid = |reason: Reason| ModelError::Invalid {
        path: index.display().to_string(),
        reason: reason.with_hint("copy the folder again, or save the model again"),
    };
    let text = std::fs::read_to_string(&index).map_err(|source| match source.kind() {
        ErrorKind::NotFound => ModelError::Invalid {
            path: folder.display().to_string(),
            reason: pickled(folder).unwrap_or_else(|| {
                "holds neither `model.safetensors` nor `model.safetensors.index.json`".into()
            }),
        },
        _ => ModelError::Io { path: index.display().to_string(), source },
    })?;
    let value: Value =
        serde_json::from_str(&text).map_err(|error| invalid(error.to_string().into()))?;
    let map = value.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| invalid("has no `weight_map`".into()))?;
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, file) in map {
        let name = file.as_str().filter(|name| is_file_name(name)).ok_or_else(|| {
            invalid(
                format!("places `{tensor}` in {file}, which is not a file of this folder").into(),
            )
        })?;
        shards.entry(name).or_default().push(tensor);
    }
    for (name, tensors) in &shards {
        let mut held = files::tensor_heads(&folder.join(name))?;
        for tensor in tensors {
            if held.remove(*tensor).is_none() {
                let reason = format!("places `{tensor}` in `{name}`, which does not hold it");
                return Err(invalid(reason.into()));
            }
        }
        if let Some(tensor) = held.keys().next() {
            let reason = format!("does not place `{tensor}` in `{name}`, which holds it");
            return Err(invalid(reason.into()));
        }
    }
    Ok(shards.keys().map(|name| folder.join(name)).collect())
}

fn is_file_name(name: &str) -> bool {
    !["", ".", ".."].contains(&name) && !name.contains(['/', '\\'])
}
