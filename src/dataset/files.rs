//! The files that a path names: itself, those of a folder, or those that a glob matches.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::DatasetError;

/// How the names of files end that a folder is searched for.
const ENDINGS: [&str; 6] = [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"];
/// Files that `datasets` and the hub put next to the data.
const NO_DATA: [&str; 4] =
    ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];
/// Names of splits that are not to be mixed.
const SPLITS: [&str; 5] = ["train", "test", "validation", "valid", "dev"];
/// Folders in folders, at most.
const MAX_DEPTH: usize = 8;

/// The files that are read at `path`, in the order of their names: itself, those of a folder, or
/// those that a glob matches.
///
/// # Errors
/// When a folder cannot be listed, holds no data or more than one split, or a glob matches nothing.
pub fn find(path: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    if path.is_dir() {
        let mut found = Vec::new();
        search(path, 0, &mut found)?;
        found.sort();
        let splits: BTreeSet<&str> = found.iter().filter_map(|file| split(path, file)).collect();
        return match (found.is_empty(), splits.len()) {
            (true, _) => Err(DatasetError::NoFile { path: path.to_owned() }),
            (false, 0 | 1) => Ok(found),
            _ => {
                let splits = splits.into_iter().collect::<Vec<_>>().join(", ");
                Err(DatasetError::MixedSplits { path: path.to_owned(), splits })
            }
        };
    }
    let text = path.to_string_lossy();
    if path.exists() || !text.contains(['*', '?', '[']) {
        return Ok(vec![path.to_owned()]);
    }
    let matches = glob::glob(&text).map_err(|error| DatasetError::Io {
        path: path.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidInput, error),
    })?;
    let mut found: Vec<PathBuf> =
        matches.filter_map(Result::ok).filter(|file| file.is_file()).collect();
    found.sort();
    if found.is_empty() {
        return Err(DatasetError::NoFile { path: path.to_owned() });
    }
    Ok(found)
}

fn search(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), DatasetError> {
    let io = |source| DatasetError::Io { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        if name.starts_with('.') || NO_DATA.contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            if depth < MAX_DEPTH {
                search(&path, depth + 1, found)?;
            }
            continue;
        }
        let bare = name.trim_end_matches(".gz").trim_end_matches(".zst");
        if ENDINGS.iter().any(|ending| bare.ends_with(ending)) {
            found.push(path);
        }
    }
    Ok(())
}

/// The split that a file's name or its folder says.
fn split(root: &Path, file: &Path) -> Option<&'static str> {
    let below = file.strip_prefix(root).ok()?.to_string_lossy().to_ascii_lowercase();
    let mut parts = below.split(|c: char| !c.is_alphanumeric());
    parts.find_map(|part| SPLITS.into_iter().find(|split| part == *split))
}
