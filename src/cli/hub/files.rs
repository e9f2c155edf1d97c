//! Which files of a repository make a model.

use std::collections::BTreeSet;
use std::fs::DirEntry;
use std::path::Path;

use serde_json::Value;

use crate::train::run_folder::TEMPLATES;

/// Names the files that weights are spread over.
pub(super) const INDEX: &str = "model.safetensors.index.json";
const WEIGHTS: &str = "model.safetensors";

/// The files of a repository that are of use here.
#[derive(Debug, PartialEq)]
pub(super) struct Listing<'a> {
    /// Configurations, tokenizer and templates.
    pub small: Vec<&'a str>,
    /// The weights, where no index names them.
    pub weights: Vec<&'a str>,
}

impl<'a> Listing<'a> {
    /// Chooses among `names`, or says why they are no model.
    pub(super) fn new(names: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let (mut small, mut weights, mut gguf) = (Vec::new(), Vec::new(), None);
        for name in names {
            let folder = name.rsplit_once('/').map(|(folder, _)| folder);
            match folder {
                None if name.ends_with(".json") || name.ends_with(".jinja") => small.push(name),
                None if name.ends_with(".safetensors") => weights.push(name),
                None if name.ends_with(".gguf") => gguf = Some(name),
                Some(TEMPLATES) if name.ends_with(".j2") => small.push(name),
                _ => {}
            }
        }
        if let (Some(gguf), true) = (gguf, weights.is_empty()) {
            return Err(format!(
                "it holds GGUF files and no safetensors\nhint: download one of them, such as `{gguf}`, and the original model's `tokenizer.json` and `tokenizer_config.json` into a folder, and give the file's path"
            ));
        }
        if weights.is_empty() || !small.contains(&"config.json") {
            return Err(
                "it holds no `config.json` with safetensors\nhint: give a model in the format of transformers; an adapter must be merged into its model first".into(),
            );
        }
        // Some repositories hold the same weights twice, under other names.
        if weights.contains(&WEIGHTS) {
            weights = vec![WEIGHTS];
        }
        Ok(Self { small, weights })
    }
}

/// The files that the index in `folder` names.
pub(super) fn shards(folder: &Path) -> Result<BTreeSet<String>, String> {
    let text = std::fs::read_to_string(folder.join(INDEX));
    let index: Option<Value> = text.ok().and_then(|text| serde_json::from_str(&text).ok());
    let map = index.as_ref().and_then(|index| index.get("weight_map")?.as_object());
    let files: Option<BTreeSet<String>> =
        map.and_then(|map| map.values().map(|file| file.as_str().map(str::to_owned)).collect());
    // A name is a file of this folder and of no other.
    files
        .filter(|files| {
            files.iter().all(|file| file.ends_with(".safetensors") && !file.contains('/'))
        })
        .filter(|files| !files.is_empty())
        .ok_or_else(|| {
            format!(
                "its `{INDEX}` does not say where its weights are\nhint: choose another model, or give a local folder"
            )
        })
}

/// Whether a folder of the cache holds all of a model: other programs fetch single files.
pub(super) fn is_complete(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    let is_weights = |entry: std::io::Result<DirEntry>| {
        entry.is_ok_and(|entry| entry.path().extension().is_some_and(|end| end == "safetensors"))
    };
    let weights = match has(INDEX) {
        true => shards(folder).is_ok_and(|files| files.iter().all(|file| has(file))),
        false => folder.read_dir().is_ok_and(|mut entries| entries.any(is_weights)),
    };
    has("config.json") && has("tokenizer.json") && weights
}
