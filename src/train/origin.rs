//! The configuration and data of a run: written next to its checkpoints, and compared when it is
//! resumed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::error::TrainError;
use super::json_file;
use super::run_folder::{RunFolder, TEXT_FILES};
use crate::dataset::data_files;
use crate::model::ADAPTER_CONFIG;

const FILE: &str = "origin.json";

/// Settings that may change freely: they bound resources or select what is measured and stored, not
/// what is learnt.
const UNCHECKED_SETTINGS: [&str; 21] = [
    "output",
    "checkpoint_every",
    "keep_checkpoints",
    "eval.every",
    "eval_every",
    "micro_batch_tokens",
    "max_in_flight",
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

/// Settings that may change although they act on what is learnt from then on, which is noted.
const NOTED_SETTINGS: [&str; 3] = ["guards.rollback_lr_factor", "max_policy_lag", "steps"];

/// Files up to this size are hashed whole; of larger ones, evenly spaced blocks are.
const MAX_WHOLE_HASH_BYTES: u64 = 16 << 20;
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

/// What a run is made from, besides its configuration.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// Files of data.
    pub data: &'a [&'a PathBuf],
    /// The initial model.
    pub model: &'a Path,
    /// Files that prompts and their tokens are made by, with their names.
    pub text: &'a [(String, PathBuf)],
    /// Parts of models, with their names: files, and folders of weights. See [`model_parts`].
    pub parts: &'a [(String, PathBuf)],
    /// Files that may change, which is noted, with their names.
    pub noted: &'a [(String, PathBuf)],
}

/// The parts of the model in a folder or file, with their names: its weights, and what says how
/// they are used. None of a model that is not there, such as one on the hub.
pub fn model_parts(name: &str, path: &Path) -> Vec<(String, PathBuf)> {
    let files = ["config.json", ADAPTER_CONFIG].into_iter().chain(TEXT_FILES);
    let files = files.map(|file| (format!("{name}/{file}"), path.join(file)));
    let all = [(name.to_owned(), path.to_owned())].into_iter().chain(files);
    all.filter(|(_, path)| path.exists()).collect()
}

/// Compares the origin of the run in `folder` to `config` and `sources`, and records it. Returns
/// the differences.
///
/// # Errors
/// When something has changed that [`Resume::Same`] does not allow.
pub fn check(
    folder: &RunFolder,
    resume: Resume,
    config: &impl Serialize,
    sources: Sources<'_>,
) -> Result<Vec<String>, TrainError> {
    let Sources { data, model, text, parts, noted } = sources;
    let hashed =
        |path: &Path| whole(path).map(Value::from).map_err(|source| TrainError::read(path, source));
    let mut origin = Map::new();
    origin.insert("config".into(), serde_json::to_value(config).map_err(io::Error::other)?);
    let mut files = Map::new();
    for path in data {
        for file in data_files(path)? {
            files.insert(file.display().to_string(), hashed(&file)?);
        }
    }
    origin.insert("data".into(), files.into());
    origin.insert("text".into(), hashes(text, whole)?);
    origin.insert("parts".into(), hashes(parts, part)?);
    origin.insert("noted".into(), hashes(noted, part)?);
    let hash = weights_hash(model).map_err(|source| TrainError::read(model, source))?;
    origin.insert("model".into(), hash.into());
    let origin = Value::Object(origin);

    let path = folder.root().join(FILE);
    let before = match recorded(&path) {
        _ if folder.is_fresh() => None,
        Err(_) if resume == Resume::Changed => None,
        before => before?,
    };
    let (mut changed, mut noted) = (Vec::new(), Vec::new());
    if let Some(mut before) = before {
        complete(&mut before, &origin);
        differences("", &before, &origin, &mut changed);
        noted = notes(&before, &origin);
    }
    if !changed.is_empty() && resume != Resume::Changed {
        return Err(TrainError::Changed(changed.join("\n  ")));
    }
    changed.extend(noted);
    json_file::write(&path, &origin)?;
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

/// Adds what earlier versions did not record, which then counts as unchanged.
fn complete(before: &mut Value, now: &Value) {
    let Some(before) = before.as_object_mut() else { return };
    before.entry("text").or_insert_with(|| now["text"].clone());
    for section in ["parts", "noted"] {
        let files = before.entry(section).or_insert_with(|| Value::Object(Map::new()));
        let Some(files) = files.as_object_mut() else { continue };
        for (name, hash) in now[section].as_object().into_iter().flatten() {
            files.entry(name.clone()).or_insert_with(|| hash.clone());
        }
    }
}

/// The hashes of files by their names.
fn hashes(
    files: &[(String, PathBuf)],
    hash: fn(&Path) -> io::Result<String>,
) -> Result<Value, TrainError> {
    let mut all = Map::new();
    for (name, path) in files {
        let hash = hash(path).map_err(|source| TrainError::read(path, source))?;
        all.insert(name.clone(), hash.into());
    }
    Ok(all.into())
}

fn differences(key: &str, before: &Value, now: &Value, found: &mut Vec<String>) {
    let name = key.strip_prefix("config.").unwrap_or(key);
    if UNCHECKED_SETTINGS.contains(&name) || NOTED_SETTINGS.contains(&name) || key == "noted" {
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
            key if key.starts_with("data.") || key.starts_with("text.") => {
                format!("the contents or the name of `{}`", &key[5..])
            }
            _ => match key.strip_prefix("parts.") {
                Some(part) => format!("the contents of `{part}`"),
                None => format!("`{name}`: {before} became {now}"),
            },
        });
    }
}

/// Changes that are noted and no reason to refuse.
fn notes(before: &Value, now: &Value) -> Vec<String> {
    let is_constant = |origin: &Value| {
        let decay = setting(origin, "schedule.decay").as_str();
        matches!(decay, Some("constant") | None)
    };
    let acts = |name: &str| name != "steps" || !(is_constant(before) && is_constant(now));
    let settings = NOTED_SETTINGS
        .into_iter()
        .map(|name| (name, setting(before, name), setting(now, name)))
        .filter(|(name, before, now)| before != now && acts(name))
        .map(|(name, before, now)| {
            format!("`{name}`: {before} became {now}, which acts on what is learnt from here on")
        });
    let files = now["noted"].as_object().into_iter().flatten();
    let files =
        files.filter(|(name, hash)| before["noted"][name.as_str()] != **hash).map(|(name, _)| {
            format!("the contents of `{name}`, which act on what is learnt from here on")
        });
    settings.chain(files).collect()
}

/// A setting of an origin's configuration by its path.
fn setting<'o>(origin: &'o Value, path: &str) -> &'o Value {
    path.split('.').fold(&origin["config"], |value, key| &value[key])
}

/// The hash of a file's contents.
fn whole(path: &Path) -> io::Result<String> {
    hash_of(File::open(path)?)
}

fn hash_of(mut source: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match source.read(&mut buffer)? {
            0 => return Ok(format!("{:x}", hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

/// A hash of a part of a model. The beginning of a file counts whole: there a GGUF file has its
/// settings and its tokenizer.
fn part(path: &Path) -> io::Result<String> {
    let sampled = weights_hash(path)?;
    match path.is_dir() {
        true => Ok(sampled),
        false => Ok(sampled + &hash_of(File::open(path)?.take(MAX_WHOLE_HASH_BYTES))?),
    }
}

/// A hash of the weights in a folder: for large files, of their size and of sampled blocks.
///
/// # Errors
/// When a file cannot be read.
pub fn weights_hash(folder: &Path) -> io::Result<String> {
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
        if size <= MAX_WHOLE_HASH_BYTES {
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
        let template = folder.path().join("policy.j2");
        std::fs::write(&template, "{{ question }}").unwrap();
        let text = [("templates/policy.j2".to_owned(), template.clone())];
        let check = |config: &Value, resume| {
            let text = &text;
            let sources = Sources { data: &[&data], model: &model, text, parts: &[], noted: &[] };
            super::check(&run, resume, config, sources)
        };
        check(&config, Resume::No).unwrap();
        run.checkpoint(1, 1, None, |_| Ok::<(), io::Error>(())).unwrap();
        assert!(check(&config, Resume::Same).unwrap().is_empty());
        let longer = json!({ "seed": 1, "steps": 9, "lora": { "alpha": 8.0 } });
        assert!(
            check(&longer, Resume::Same).unwrap().is_empty(),
            "more steps change nothing learnt"
        );

        std::fs::write(&data, "two").unwrap();
        std::fs::write(&template, "Answer: {{ question }}").unwrap();
        std::fs::write(model.join("model.safetensors"), "other").unwrap();
        let other = json!({ "seed": 2, "steps": 5, "lora": { "alpha": 128.0 } });
        let error = check(&other, Resume::Same).unwrap_err().to_string();
        for named in [
            "`seed`: 1 became 2",
            "`lora.alpha`: 8.0 became 128.0",
            "a.jsonl`",
            "base model",
            "`templates/policy.j2`",
        ] {
            assert!(error.contains(named), "{named} is not in {error}");
        }
        assert_eq!(check(&other, Resume::Changed).unwrap().len(), 5);
        assert!(check(&other, Resume::Same).unwrap().is_empty(), "it goes on with those");

        std::fs::write(run.root().join(FILE), "{\"config\": {").unwrap();
        let error = check(&other, Resume::Same).unwrap_err().to_string();
        assert!(error.contains("origin.json` cannot be read"), "{error}");
        assert!(check(&other, Resume::Changed).unwrap().is_empty());
        assert!(check(&other, Resume::Same).unwrap().is_empty(), "it is written again");

        // Runs of earlier versions say nothing about texts.
        let path = run.root().join(FILE);
        let mut origin: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        origin.as_object_mut().unwrap().remove("text").unwrap();
        std::fs::write(&path, origin.to_string()).unwrap();
        assert!(check(&other, Resume::Same).unwrap().is_empty());
    }

    #[test]
    fn what_says_how_weights_are_used_may_not_change_either() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(&folder.path().join("run")).unwrap();
        let model = folder.path().join("base");
        std::fs::create_dir(&model).unwrap();
        let put = |name: &str, text: &str| std::fs::write(model.join(name), text).unwrap();
        put("model.safetensors", "weights");
        put("config.json", "{\"rope_theta\": 10000.0}");
        let check = |resume| {
            let parts = model_parts("model.path", &model);
            let (model, parts) = (folder.path(), &parts);
            let sources = Sources { data: &[], model, text: &[], parts, noted: &[] };
            super::check(&run, resume, &json!({ "steps": 1 }), sources)
        };
        check(Resume::No).unwrap();
        run.checkpoint(1, 1, None, |_| Ok::<(), io::Error>(())).unwrap();
        assert!(check(Resume::Same).unwrap().is_empty());
        put("config.json", "{\"rope_theta\": 1000000.0}");
        put("model.safetensors", "other");
        let error = check(Resume::Same).unwrap_err().to_string();
        for named in ["the contents of `model.path/config.json`", "the contents of `model.path`"] {
            assert!(error.contains(named), "{named} is not in {error}");
        }
        assert_eq!(check(Resume::Changed).unwrap().len(), 2);
        assert!(check(Resume::Same).unwrap().is_empty(), "it goes on with those");

        // Runs of earlier versions say nothing about some files.
        put("generation_config.json", "{}");
        assert!(check(Resume::Same).unwrap().is_empty());
        let path = run.root().join(FILE);
        let mut origin = recorded(&path).unwrap().unwrap();
        origin.as_object_mut().unwrap().remove("parts").unwrap();
        std::fs::write(&path, origin.to_string()).unwrap();
        put("config.json", "{}");
        assert!(check(Resume::Same).unwrap().is_empty());
        put("config.json", "{ }");
        check(Resume::Same).unwrap_err();
    }

    #[test]
    fn the_beginning_of_a_file_counts_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let mut bytes = vec![0_u8; MAX_WHOLE_HASH_BYTES as usize + BLOCK];
        std::fs::write(&path, &bytes).unwrap();
        let before = (weights_hash(&path).unwrap(), part(&path).unwrap());
        // Between two of the blocks that are sampled.
        bytes[BLOCK + 9] = 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(weights_hash(&path).unwrap(), before.0);
        assert_ne!(part(&path).unwrap(), before.1);
    }

    #[test]
    fn changes_that_act_on_the_rest_of_a_run_are_noted() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(&folder.path().join("run")).unwrap();
        let check = |steps: u64, lag: u64, decay: &str| {
            let schedule = json!({ "decay": decay });
            let config = json!({ "steps": steps, "max_policy_lag": lag, "schedule": schedule });
            let model = folder.path();
            let sources = Sources { data: &[], model, text: &[], parts: &[], noted: &[] };
            super::check(&run, Resume::Same, &config, sources).unwrap()
        };
        check(5, 0, "constant");
        run.checkpoint(1, 1, None, |_| Ok::<(), io::Error>(())).unwrap();
        assert!(check(9, 0, "constant").is_empty(), "the rate of each step is the same");
        let noted = check(9, 2, "constant");
        assert_eq!(noted.len(), 1);
        assert!(noted[0].starts_with("`max_policy_lag`: 0 became 2"), "{noted:?}");
        assert!(check(9, 2, "constant").is_empty(), "once");
    }

    #[test]
    fn programs_and_factors_may_change_and_are_noted() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(&folder.path().join("run")).unwrap();
        let program = folder.path().join("reward.py");
        let noted = [("reward.py".to_owned(), program.clone())];
        let check = |factor: f64, kl: f64| {
            let guards = json!({ "rollback_lr_factor": factor, "max_kl": kl });
            let model = folder.path();
            let sources = Sources { data: &[], model, text: &[], parts: &[], noted: &noted };
            super::check(&run, Resume::Same, &json!({ "guards": guards }), sources).unwrap()
        };
        std::fs::write(&program, "print(1)").unwrap();
        check(0.5, 5.0);
        run.checkpoint(1, 1, None, |_| Ok::<(), io::Error>(())).unwrap();
        assert!(check(0.5, 9.0).is_empty(), "a bound");
        std::fs::write(&program, "print(2)").unwrap();
        let changes = check(0.25, 9.0);
        assert_eq!(changes.len(), 2);
        assert!(changes[0].starts_with("`guards.rollback_lr_factor`: 0.5 became 0.25"));
        assert!(changes[1].starts_with("the contents of `reward.py`"), "{changes:?}");
        assert!(check(0.25, 9.0).is_empty(), "once");
    }

    #[test]
    fn more_steps_of_a_decaying_rate_are_noted() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::open(&folder.path().join("run")).unwrap();
        let check = |steps: u64| {
            let config = json!({ "steps": steps, "schedule": { "decay": "cosine" } });
            let model = folder.path();
            let sources = Sources { data: &[], model, text: &[], parts: &[], noted: &[] };
            super::check(&run, Resume::Same, &config, sources).unwrap()
        };
        check(5);
        run.checkpoint(1, 1, None, |_| Ok::<(), io::Error>(())).unwrap();
        assert!(check(9)[0].starts_with("`steps`: 5 became 9"));
    }
}
