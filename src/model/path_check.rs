//! Detects what is at a path where a model or an adapter is expected, by file names and by the
//! metadata of a GGUF file.

use std::path::Path;

use super::error::ModelError;
use super::lora::{ADAPTER_CONFIG, Adapter, TENSORS};
use crate::gguf::Gguf;
use crate::hint::Reason;

/// The weights of an adapter in PyTorch's own format.
const PICKLED_TENSORS: &str = "adapter_model.bin";

/// Why no model can be loaded from `path`, as far as file names show. `adapters` are the adapters
/// that are loaded with it.
pub fn misplaced<P: AsRef<Path>>(path: &Path, adapters: &[P]) -> Option<Reason> {
    let shown = path.display();
    if !path.exists() {
        return Some(format!("there is no folder or file `{shown}`").into());
    }
    if path.is_file() && !Gguf::is_path(path) {
        return Some(reason!(
            "`{shown}` is a file, and no GGUF file";
            hint: "give the folder of the model, or a GGUF file"
        ));
    }
    if let Some(kind) = other_kind(path) {
        return Some(reason!(
            "`{shown}` is a GGUF file of the type `{kind}`, and no model";
            hint: "give the file of the model itself; adapters are read from folders as PEFT saves them"
        ));
    }
    if Adapter::is_adapter_only(path) {
        return Some(reason!(
            "`{shown}` holds an adapter and no model";
            hint: "give the model that it was made for, and this folder as its `adapter`"
        ));
    }
    if has_adapter(path) && !adapters.iter().any(|adapter| is_same(adapter.as_ref(), path)) {
        return Some(reason!(
            "`{shown}` also holds an adapter, which is not applied";
            hint: "give the same folder as `adapter` (`--adapter`) too, or move `{ADAPTER_CONFIG}` out of it"
        ));
    }
    if let Some(reason) = pickled(path) {
        return Some(reason.map_text(|text| format!("`{shown}` {text}")));
    }
    if path.is_dir() && !path.join("config.json").is_file() {
        return Some(reason!(
            "`{shown}` holds no `config.json`, so it is not the folder of a model";
            hint: "give a folder with `config.json`, `tokenizer.json` and safetensors, or a `.gguf` file itself"
        ));
    }
    None
}

/// What a GGUF file says that it is, other than a model: an adapter, or a part for images.
fn other_kind(path: &Path) -> Option<String> {
    let file = Gguf::is_path(path).then(|| Gguf::open(path).ok()).flatten()?;
    let kind = file.text("general.type").ok().flatten()?;
    (kind != "model").then(|| kind.to_owned())
}

/// Why the weights in a folder are not read, if they are in PyTorch's own format.
pub(super) fn pickled(folder: &Path) -> Option<Reason> {
    let has = |name: &str| folder.join(name).exists();
    let is_pickled = (has("pytorch_model.bin") || has("pytorch_model.bin.index.json"))
        && !has("model.safetensors")
        && !has("model.safetensors.index.json");
    is_pickled.then(|| {
        reason!(
            "holds its weights as `pytorch_model.bin`, which this program does not read";
            hint: "load it with transformers and save it again; that writes safetensors"
        )
    })
}

/// Whether a folder has weights of a model, those of an adapter aside.
pub(super) fn has_weights(folder: &Path) -> bool {
    let names = std::fs::read_dir(folder).into_iter().flatten();
    let mut names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.any(|name| {
        name.starts_with("pytorch_model") || (name.ends_with(".safetensors") && name != TENSORS)
    })
}

/// Fails if file names show that no adapter can be loaded from `path`; the error names the files of
/// an adapter.
///
/// # Errors
/// Says what is there.
pub fn check_adapter(path: &Path) -> Result<(), ModelError> {
    let shown = path.display();
    let has = |name: &str| path.join(name).is_file();
    let text = if !path.exists() {
        format!("there is no folder `{shown}`")
    } else if path.is_file() {
        let kind = if Gguf::is_path(path) { "a GGUF file" } else { "a file" };
        format!("`{shown}` is {kind}, not a folder")
    } else if path.is_dir() && !has(ADAPTER_CONFIG) {
        format!("`{shown}` holds no `{ADAPTER_CONFIG}`")
    } else if has(PICKLED_TENSORS) && !has(TENSORS) {
        return Err(ModelError::Adapter(reason!(
            "`{shown}` holds its weights as `{PICKLED_TENSORS}`, which this program does not read";
            hint: "load it with PEFT and save it again; that writes `{TENSORS}`"
        )));
    } else {
        return Ok(());
    };
    Err(ModelError::Adapter(Reason::from(text).with_hint(format!(
        "an adapter is a folder as PEFT saves it, with `{ADAPTER_CONFIG}` and `{TENSORS}`"
    ))))
}

fn has_adapter(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    has(ADAPTER_CONFIG) && (has(TENSORS) || has(PICKLED_TENSORS))
}

fn is_same(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::gguf::{Entry, Writer};
    use crate::hint::Hint;

    #[test]
    fn names_of_files_say_what_a_folder_is() {
        let folder = tempfile::tempdir().unwrap();
        let with = |name: &str, files: &[&str]| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            for file in files {
                std::fs::write(path.join(file), "{}").unwrap();
            }
            path
        };
        let model = with("model", &["config.json", "model.safetensors"]);
        let shard = with("shard", &["config.json", "model-00001-of-00002.safetensors"]);
        let adapter = with("adapter", &[ADAPTER_CONFIG, TENSORS]);
        let copied = with("copied", &[ADAPTER_CONFIG, TENSORS, "config.json"]);
        let both = with("both", &[ADAPTER_CONFIG, TENSORS, "config.json", "model.safetensors"]);
        let old = with("old", &["config.json", "pytorch_model.bin"]);
        let bare = with("bare", &["pytorch_model.bin"]);
        let rest = with("rest", &[ADAPTER_CONFIG, "config.json", "model.safetensors"]);
        let empty = with("empty", &[]);
        let (file, gguf) = (model.join("model.safetensors"), folder.path().join("blob"));
        std::fs::write(&gguf, "GGUF").unwrap();
        let images = folder.path().join("images.gguf");
        let mut writer = Writer::default();
        writer.set("general.type", Entry::Text("mmproj".into()));
        writer.write(&mut std::fs::File::create(&images).unwrap()).unwrap();
        for (path, adapters, said) in [
            (&images, vec![], Some("is a GGUF file of the type `mmproj`")),
            (&model, vec![], None),
            (&model, vec![&adapter], None),
            (&shard, vec![], None),
            (&rest, vec![], None),
            (&gguf, vec![], None),
            (&adapter, vec![], Some("holds an adapter and no model")),
            (&adapter, vec![&copied], Some("holds an adapter and no model")),
            (&copied, vec![], Some("holds an adapter and no model")),
            (&both, vec![], Some("also holds an adapter, which is not applied")),
            (&both, vec![&adapter], Some("also holds an adapter")),
            (&both, vec![&both], None),
            (&old, vec![], Some("`pytorch_model.bin`")),
            (&bare, vec![], Some("`pytorch_model.bin`")),
            (&empty, vec![], Some("holds no `config.json`")),
            (&file, vec![], Some("is a file, and no GGUF file")),
        ] {
            let found = misplaced(path, &adapters);
            let text = found.as_ref().map(|reason| &*reason.text);
            assert_eq!(text.is_some(), said.is_some(), "{} {text:?}", path.display());
            assert!(text.unwrap_or_default().contains(said.unwrap_or_default()), "{text:?}");
            assert!(found.is_none_or(|reason| reason.hint.is_some()));
        }
    }

    #[test]
    fn errors_name_the_files_of_an_adapter() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("a.gguf"), "GGUF").unwrap();
        std::fs::write(path("a.safetensors"), "").unwrap();
        std::fs::create_dir(path("empty")).unwrap();
        std::fs::create_dir(path("old")).unwrap();
        std::fs::write(path("old").join(ADAPTER_CONFIG), "{}").unwrap();
        std::fs::write(path("old").join(PICKLED_TENSORS), "").unwrap();
        for (name, said) in [
            ("a.gguf", "is a GGUF file"),
            ("a.safetensors", "is a file"),
            ("empty", "holds no `adapter_config.json`"),
            ("none", "there is no folder"),
            ("old", "`adapter_model.bin`, which this program does not read"),
        ] {
            let error = check_adapter(&path(name)).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert!(error.hint().unwrap().contains(TENSORS), "{error}");
        }
        std::fs::write(path("old").join(TENSORS), "").unwrap();
        check_adapter(&path("old")).unwrap();
    }
}
