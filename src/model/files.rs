//! Writing files that are either whole or absent, and tensors in them.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use safetensors::SafeTensorError;
use serde_json::Value;

use super::error::ModelError;

fn io(path: &Path) -> impl Fn(std::io::Error) -> ModelError {
    let path = path.display().to_string();
    move |source| ModelError::Io { path: path.clone(), source }
}

/// Makes `folder` and what is above it.
pub(crate) fn make_folder(folder: &Path) -> Result<(), ModelError> {
    std::fs::create_dir_all(folder).map_err(io(folder))
}

/// Lets `write` make a file beside `path`, brings it to the disk and renames it to `path`: after a crash
/// the old file or the new one is there, never half of one.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let beside = PathBuf::from(name);
    write(&beside)?;
    File::open(&beside).and_then(|file| file.sync_all()).map_err(io(&beside))?;
    std::fs::rename(&beside, path).map_err(io(path))?;
    // The rename is on the disk once the folder is; where folders cannot be opened there is no such thing.
    if let Some(Ok(folder)) = path.parent().map(File::open) {
        folder.sync_all().map_err(io(path))?;
    }
    Ok(())
}

/// Writes `value`, indented.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    replace(path, |beside| std::fs::write(beside, format!("{value:#}\n")).map_err(io(beside)))
}

/// Writes tensors under their names.
pub(crate) fn save_tensors(path: &Path, tensors: &[(String, &Tensor)]) -> Result<(), ModelError> {
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let views = tensors.iter().map(|(name, tensor)| (name.as_str(), *tensor));
    replace(path, |beside| {
        safetensors::serialize_to_file(views, Some(metadata), beside).map_err(|error| match error {
            SafeTensorError::IoError(source) => io(path)(source),
            other => {
                let reason = other.to_string();
                ModelError::Invalid { path: path.display().to_string(), reason }
            }
        })
    })
}

/// Reads every tensor of a file.
pub(crate) fn load_tensors(
    path: &Path,
    device: &Device,
) -> Result<HashMap<String, Tensor>, ModelError> {
    let bytes = std::fs::read(path).map_err(io(path))?;
    candle_core::safetensors::load_buffer(&bytes, device).map_err(|error| ModelError::Invalid {
        path: path.display().to_string(),
        reason: format!("{error}\nhint: the file may be truncated; copy it again"),
    })
}
