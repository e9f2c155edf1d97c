//! Files of tensors and settings, written atomically.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{Device, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensorError};
use serde_json::Value;

use super::error::ModelError;
use crate::atomic_file::replace;
use crate::gguf::pointer_at;
use crate::hint::Reason;

fn io(path: &Path) -> impl Fn(std::io::Error) -> ModelError {
    let path = path.display().to_string();
    move |source| ModelError::Io { path: path.clone(), source }
}

/// Creates `folder` and its parents.
pub(crate) fn make_folder(folder: &Path) -> Result<(), ModelError> {
    std::fs::create_dir_all(folder).map_err(io(folder))
}

/// Writes `value`, indented.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    replace(path, |beside| std::fs::write(beside, format!("{value:#}\n"))).map_err(io(path))
}

/// Writes tensors by name.
pub(crate) fn save_tensors(path: &Path, tensors: &[(String, &Tensor)]) -> Result<(), ModelError> {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let views = tensors.iter().map(|(name, tensor)| (name.as_str(), *tensor));
    replace(path, |beside| {
        safetensors::serialize_to_file(views, Some(metadata), beside).map_err(|error| match error {
            SafeTensorError::IoError(source) => source,
            other => std::io::Error::other(other),
        })
    })
    .map_err(io(path))
}

/// Reads every tensor of a file.
pub(crate) fn load_tensors(
    path: &Path,
    device: &Device,
) -> Result<HashMap<String, Tensor>, ModelError> {
    let bytes = std::fs::read(path).map_err(io(path))?;
    candle_core::safetensors::load_buffer(&bytes, device).map_err(damaged(path))
}

/// What a file says of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TensorHead {
    pub kind: Dtype,
    pub shape: Vec<usize>,
}

/// Every tensor of a file. Their values are not read.
pub(crate) fn tensor_heads(path: &Path) -> Result<BTreeMap<String, TensorHead>, ModelError> {
    File::open(path).map_err(io(path))?;
    // SAFETY: mapped read-only, and dropped before anything else touches the file.
    let file = unsafe { MmapedSafetensors::new(path) }.map_err(damaged(path))?;
    let head =
        |view: TensorView<'_>| TensorHead { kind: view.dtype(), shape: view.shape().to_vec() };
    Ok(file.tensors().into_iter().map(|(name, view)| (name, head(view))).collect())
}

/// Whether values of this type are weights as they are.
pub(crate) fn is_float(kind: Dtype) -> bool {
    matches!(kind, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64)
}

/// The tensor `name` is of a type that weights cannot be of.
pub(crate) fn unsupported_type(name: &str, kind: &str) -> Reason {
    reason!(
        "`{name}` is of type {}, which is not supported", kind.to_lowercase();
        hint: "save the model in bf16 or f32"
    )
}

fn damaged(path: &Path) -> impl Fn(candle_core::Error) -> ModelError {
    let path = path.to_owned();
    move |error| ModelError::Invalid {
        path: path.display().to_string(),
        reason: pointer_at(&path).unwrap_or_else(
            || reason!("{error}"; hint: "the file may be truncated; copy it again"),
        ),
    }
}
