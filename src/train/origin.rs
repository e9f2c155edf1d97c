//! The configuration and data of a run: written next to its checkpoints, and compared when it is
//! resumed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::error::TrainError;
use super::run_folder::RunFolder;
use crate::atomic_file::replace;
use crate::dataset::data_files;

const FILE: &str = "origin.json";

/// Settings that may change freely: they bound resources or select what is measured and stored, not
/// what is learnt.
const FREE: [&str; 23] = [
    "output",
    "steps",
    "checkpoint_every",
    "keep_checkpoints",
    "eval",
    "eval_every",
    "micro_batch_tokens",
    "max_in_flight",
    "max_policy_lag",
    "max_rejected",
    "outage",
    "guards",
    "samples",
    "engine",
    "judge.max_calls",
    "judge.max_cost",
    "model.device",
    "trainer.url",
    "trainer.api_key_env",
    "trainer.request_timeout_ms",
    "trainer.outage_ms",
    "trainer.result_timeout_ms",
    // The checkpoint fixes the type that it needs.
    "model.dtype",
];

/// Files up to this size are hashed whole; of larger ones, evenly spaced blocks are.
const WHOLE: u64 = 16 << 20;
const BLOCKS: u64 = 64;
const BLOCK: usize = 64 << 10;

/// How a run starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// In an empty folder.
    No,
    /// From the last checkpoint, with unchanged configuration and data.
    Same,
    /// From the last checkpoint, whatever has changed.
    Changed,
}

impl From<bool> for Resume {
    fn from(resume: bool) -> Self {
        if resume { Self::Same } else { Self::No }
    }
}

/// Compares the origin of the run in `folder` to `config`, the files of `data` and the model in
/// `model`, and records it. Returns the differences.
///
/// # Errors
/// When something has changed that [`Resume::Same`] does not allow.
pub fn check(
    folder: &RunFolder,
    resume: Resume,
    config: &impl Serialize,
    data: &[&PathBuf],
    model: &Path,
) -> Result<Vec<String>, TrainError> {
    let mut origin = Map::new();
    origin.insert("config".into(), serde_json::to_value(config).map_err(io::Error::other)?);
    let mut files = Map::new();
    for path in data {
        for file in data_files(path)? {
            let hash = whole(&file).map_err(|source| TrainError::read(&file, source))?;
            files.insert(file.display().to_string(), hash.into());
        }
    }
    origin.insert("data".into(), files.into());
    let hash = fingerprint(model).map_err(|source| TrainError::read(model, source))?;
    origin.insert("model".into(), hash.into());
    let origin = Value::Object(origin);

    let path = folder.root().join(FILE);
    let before = match recorded(&path) {
        _ if folder.is_fresh() => None,
        Err(_) if resume == Resume::Changed => None,
        before => before?,
    };
    let mut changed = Vec::new();
    if let Some(before) = before {
        differences("", &before, &origin, &mut changed);
    }
    if !changed.is_empty() && resume != Resume::Changed {
        return Err(TrainError::Changed(changed.join("\n  ")));
    }
    let text = serde_json::to_string_pretty(&origin).map_err(io::Error::other)?;
    replace(&path, |beside| std::fs::write(beside, text + "\n"))?;
    Ok(changed)
}

/// What was recorded; `None` where nothing was.
fn recorded(path: &Path) -> Result<Option<Value>, TrainError> {
    let read = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.and_then(|text| serde_json::from_str(&text).map_err(io::Error::other)),
    };
    read.map(Some).map_err(|error| {
        TrainError::Config(reason!(
            "cannot tell whether anything has changed since the run began: `{}` cannot be read: {error}", path.display();
            hint: "continue by `--resume --allow-changes` if nothing has"
        ))
    })
}

fn differences(key: &str, before: &Value, now: &Value, found: &mut Vec<String>) {
    let name = key.strip_prefix("config.").unwrap_or(key);
    if FREE.contains(&name) {
        return;
    }
    if let (Value::Object(a), Value::Object(b)) = (before, now) {
        let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
        keys.sort();
        keys.dedup();
        for part in keys {
            let inner = if key.is_empty() { part.clone() } else { format!("{key}.{part}") };
            let get = |map: &Map<String, Value>| map.get(part).cloned().unwrap_or(Value::Null);
            differences(&inner, &get(a), &get(b), found);
        }
    } else if before != now {
        found.push(match key {
            "model" => "the base model's weights".to_owned(),
            key if key.starts_with("data.") => {
                format!("the contents or the name of `{}`", &key[5..])
            }
            _ => format!("`{name}`: {before} became {now}"),
        });
    }
}

/// The hash of a file's contents.
fn whole(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(format!("{:x}", hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// A hash of the weights in a folder: for large files, of their size and of sampled blocks.
///
/// # Errors
/// When a file cannot be read.
pub fn fingerprint(folder: &Path) -> io::Result<String> {
    let mut paths: Vec<PathBuf> = match folder.is_dir() {
        true => std::fs::read_dir(folder)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|end| end == "safetensors"))
            .collect(),
        false => vec![folder.to_owned()],
    };
    paths.sort();
    let mut hash = Sha256::new();
    for path in paths {
        let mut file = File::open(&path)?;
        let size = file.metadata()?.len();
        hash.update(size.to_le_bytes());
        if size <= WHOLE {
            hash.update(whole(&path)?);
            continue;
        }
        let mut block = vec![0; BLOCK];
        for index in 0..BLOCKS {
            file.seek(SeekFrom::Start((size - BLOCK as u64) / (BLOCKS - 1) * index))?;
            file.read_exact(&mut block)?;
            hash.update(&block);
        }
    }
    Ok(format!("{:x}", hash.finalize()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_are_named_and_refused_unless_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(&folder.path().join("run")).unwrap();
        let data = folder.path().join("a.jsonl");
        let model = folder.path().join("base");
        std::fs::create_dir(&model).unwrap();
        std::fs::write(&data, "one").unwrap();
        std::fs::write(model.join("model.safetensors"), "weights").unwrap();
        let config = json!({ "seed": 1, "steps": 5, "lora": { "alpha": 8.0 } });
        let check = |config: &Value, resume| super::check(&run, resume, config, &[&data], &model);
        check(&config, Resume::No).unwrap();
        run.checkpoint(1, 1, None, |_| Ok::<(), io::Error>(())).unwrap();
        assert!(check(&config, Resume::Same).unwrap().is_empty());
        let longer = json!({ "seed": 1, "steps": 9, "lora": { "alpha": 8.0 } });
        assert!(
            check(&longer, Resume::Same).unwrap().is_empty(),
            "more steps change nothing learnt"
        );

        std::fs::write(&data, "two").unwrap();
        std::fs::write(model.join("model.safetensors"), "other").unwrap();
        let other = json!({ "seed": 2, "steps": 5, "lora": { "alpha": 128.0 } });
        let error = check(&other, Resume::Same).unwrap_err().to_string();
        for named in
            ["`seed`: 1 became 2", "`lora.alpha`: 8.0 became 128.0", "a.jsonl`", "base model"]
        {
            assert!(error.contains(named), "{named} is not in {error}");
        }
        assert_eq!(check(&other, Resume::Changed).unwrap().len(), 4);
        assert!(check(&other, Resume::Same).unwrap().is_empty(), "it goes on with those");

        std::fs::write(run.root().join(FILE), "{\"config\": {").unwrap();
        let error = check(&other, Resume::Same).unwrap_err().to_string();
        assert!(error.contains("origin.json` cannot be read"), "{error}");
        assert!(check(&other, Resume::Changed).unwrap().is_empty());
        assert!(check(&other, Resume::Same).unwrap().is_empty(), "it is written again");
    }
}
