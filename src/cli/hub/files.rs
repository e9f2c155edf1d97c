//! Selects the files of a repository that make a model.

use std::collections::BTreeSet;
use std::fs::DirEntry;
use std::path::Path;

use serde_json::Value;

use crate::hint::Reason;
use crate::model::ADAPTER_CONFIG;
use crate::protocol::TEMPLATES;

/// The index of sharded weights.
pub(super) const INDEX: &str = "model.safetensors.index.json";
const WEIGHTS: &str = "model.safetensors";
/// What says what a model is.
const CONFIG: &str = "config.json";
/// The weights of an adapter.
const ADAPTER: &str = "adapter_model.safetensors";

/// The useful files of a repository.
#[derive(Debug, PartialEq)]
pub(super) struct Listing<'a> {
    /// Configurations, tokenizer and templates.
    pub small: Vec<&'a str>,
    /// The weights, if there is no index.
    pub weights: Vec<&'a str>,
}

impl<'a> Listing<'a> {
    /// Selects from the `names` in the repository `id`, or explains why they are not a model. With
    /// `file`, selects that file alone.
    pub(super) fn new(
        id: &str,
        names: impl Iterator<Item = &'a str>,
        file: Option<&'a str>,
    ) -> Result<Self, Reason> {
        let (mut small, mut weights, mut ggufs) = (Vec::new(), Vec::new(), Vec::new());
        for name in names {
            if name.ends_with(".gguf") {
                ggufs.push(name);
                continue;
            }
            let folder = name.rsplit_once('/').map(|(folder, _)| folder);
            match folder {
                None if name.ends_with(".json") || name.ends_with(".jinja") => small.push(name),
                None if name.ends_with(".safetensors") => weights.push(name),
                Some(TEMPLATES) if name.ends_with(".j2") || name.ends_with(".json") => {
                    small.push(name);
                }
                // How a sentence model pools.
                Some(folder) if folder.ends_with("_Pooling") && name.ends_with("/config.json") => {
                    small.push(name);
                }
                _ => {}
            }
        }
        if let Some(file) = file {
            if ggufs.contains(&file) {
                if let Some(parts) = parts_of(file) {
                    return Err(reason!(
                        "`{file}` is one of {parts} parts of a model";
                        hint: "download all of them, join them with `llama-gguf-split --merge`, and give the joined file"
                    ));
                }
                return Ok(Self { small: Vec::new(), weights: vec![file] });
            }
            return Err(match ggufs.is_empty() {
                true => reason!(
                    "it holds no `{file}`, nor another GGUF file";
                    hint: "leave the file's name out"
                ),
                false => reason!(
                    "it holds no `{file}`";
                    hint: "its GGUF files are {}", listed(id, &ggufs)
                ),
            });
        }
        let has_adapter = small.contains(&ADAPTER_CONFIG) && weights.contains(&ADAPTER);
        if has_adapter && !small.contains(&CONFIG) {
            return Ok(Self { small, weights: vec![ADAPTER] });
        }
        if !ggufs.is_empty() && weights.is_empty() {
            return Err(reason!(
                "it holds GGUF files and no safetensors";
                hint: "name one of them: {}", listed(id, &ggufs)
            ));
        }
        if weights.is_empty() || !small.contains(&CONFIG) {
            return Err(reason!(
                "it holds no `config.json` with safetensors";
                hint: "give a model in the format of transformers; an adapter must be merged into its model first"
            ));
        }
        if !small.contains(&"tokenizer.json") {
            return Err(reason!(
                "it holds no `tokenizer.json`";
                hint: "load its tokenizer with transformers and save it again, beside the model's other files; then give that folder"
            ));
        }
        if has_adapter && weights.len() > 1 {
            return Err(reason!(
                "it holds a model and an adapter, which is not applied";
                hint: "download it into a folder, and give that; as its `adapter` too, if the adapter is to be applied"
            ));
        }
        // Some repositories have the same weights twice, under different names.
        if weights.contains(&WEIGHTS) {
            weights = vec![WEIGHTS];
        }
        Ok(Self { small, weights })
    }
}

/// Of how many parts a GGUF file of this name is one, if it is: `…-00001-of-00003.gguf`.
fn parts_of(file: &str) -> Option<u32> {
    let number = |digits: &str| digits.parse::<u32>().ok().filter(|_| digits.len() == 5);
    let (start, total) = file.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    number(start.rsplit_once('-')?.1)?;
    number(total).filter(|&total| total > 1)
}

/// The first of many names, each in the form of a command-line argument.
fn listed(id: &str, names: &[&str]) -> String {
    const MAX_SHOWN_FILES: usize = 8;
    let shown: Vec<_> =
        names.iter().take(MAX_SHOWN_FILES).map(|name| format!("`{id}:{name}`")).collect();
    let more = if names.len() > MAX_SHOWN_FILES { " and others" } else { "" };
    shown.join(", ") + more
}

/// The files that the index in `folder` names.
pub(super) fn shards(folder: &Path) -> Result<BTreeSet<String>, Reason> {
    let text = std::fs::read_to_string(folder.join(INDEX));
    let index: Option<Value> = text.ok().and_then(|text| serde_json::from_str(&text).ok());
    let map = index.as_ref().and_then(|index| index.get("weight_map")?.as_object());
    let files: Option<BTreeSet<String>> =
        map.and_then(|map| map.values().map(|file| file.as_str().map(str::to_owned)).collect());
    // A name must be a file in this folder.
    files
        .filter(|files| {
            files.iter().all(|file| file.ends_with(".safetensors") && !file.contains('/'))
        })
        .filter(|files| !files.is_empty())
        .ok_or_else(|| {
            reason!(
                "its `{INDEX}` does not say where its weights are";
                hint: "choose another model, or give a local folder"
            )
        })
}

/// The files of which a folder of the cache has one, by which it is found.
pub(super) const FOUND_BY: [&str; 2] = [CONFIG, ADAPTER_CONFIG];

/// Whether a folder of the cache contains a complete model or adapter: other programs download
/// single files.
pub(super) fn is_complete(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    if is_adapter(folder) {
        return has(ADAPTER);
    }
    let is_weights = |entry: std::io::Result<DirEntry>| {
        entry.is_ok_and(|entry| entry.path().extension().is_some_and(|end| end == "safetensors"))
    };
    let weights = match has(INDEX) {
        true => shards(folder).is_ok_and(|files| files.iter().all(|file| has(file))),
        false => folder.read_dir().is_ok_and(|mut entries| entries.any(is_weights)),
    };
    has_text(folder) && weights
}

/// Whether a folder of the cache contains a complete model or adapter except for its weights.
pub(super) fn has_text(folder: &Path) -> bool {
    is_adapter(folder) || [CONFIG, "tokenizer.json"].iter().all(|name| folder.join(name).is_file())
}

/// Whether a folder of the cache is of an adapter.
fn is_adapter(folder: &Path) -> bool {
    folder.join(ADAPTER_CONFIG).is_file() && !folder.join(CONFIG).is_file()
}
