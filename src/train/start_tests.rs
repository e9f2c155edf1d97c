//! Initial models as users have them.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use candle_core::{Device, safetensors};

use super::*;
use crate::hint::Hint;
use crate::model::{AdapterConfig, Projection};

/// The shape of a tiny model.
fn tiny() -> NewModel {
    NewModel {
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 8,
        max_position_embeddings: 64,
        last_message_only: false,
        templates: None,
    }
}

/// The start of a run in `folder` from a new model over a tiny world.
fn prepared(folder: &Path, new: NewModel, lora: Option<AdapterConfig>, seed: u64) -> Start {
    let config = StartConfig { new: Some(new), lora, ..StartConfig::default() };
    let world =
        WorldConfig { people: 12, companies: 3, cities: 6, countries: 3, ..Default::default() };
    Start::prepare(&config, &RunFolder::open(folder).unwrap(), &world, seed).unwrap()
}

/// A tiny new model in `folder`, with a fresh adapter where that is asked for.
fn start(folder: &Path, lora: bool) -> Start {
    let lora =
        lora.then(|| AdapterConfig { rank: 2, alpha: 4.0, targets: vec![Projection::Query] });
    prepared(folder, tiny(), lora, 1)
}

fn open(path: &Path, adapter: Option<&Path>) -> Result<Start, String> {
    let config = StartConfig {
        path: Some(path.to_owned()),
        adapter: adapter.map(Path::to_owned),
        ..StartConfig::default()
    };
    config
        .check()
        .and_then(|()| Start::open(&config, path.to_owned(), 0))
        .map_err(|error| error.explained())
}

/// A first attempt may be killed, or fail on its data, before its first checkpoint.
#[test]
fn a_new_model_is_made_again_where_no_step_was_trained() {
    let folder = tempfile::tempdir().unwrap();
    let templates = folder.path().join("mine");
    std::fs::create_dir(&templates).unwrap();
    std::fs::write(templates.join("policy.j2"), "{{ question }}").unwrap();
    let run = folder.path().join("run");
    prepared(&run, NewModel { templates: Some(templates), ..tiny() }, None, 1);

    let wider = || NewModel { hidden_size: 32, ..tiny() };
    let weights = || std::fs::read(run.join("start/model.safetensors")).unwrap();
    let made = prepared(&run, wider(), None, 7);
    assert_eq!(made.model.spec().hidden_size, 32);
    assert_eq!(made.own_templates(), None, "those were of the first attempt");
    let first = weights();
    prepared(&run, wider(), None, 8);
    assert!(weights() != first, "of another seed");

    // A checkpoint belongs to the model that is there.
    let begun = weights();
    let kept = RunFolder::open(&run).unwrap();
    kept.checkpoint(1, 1, None, |_| Ok::<(), std::io::Error>(())).unwrap();
    drop(kept);
    prepared(&run, tiny(), None, 1);
    assert!(weights() == begun);
}

#[test]
fn weights_that_are_no_numbers_end_a_run_before_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let made = start(folder.path(), false);
    assert!(open(&made.folder, None).is_ok());
    let file = made.folder.join("model.safetensors");
    let mut tensors = safetensors::load(&file, &Device::Cpu).unwrap();
    let name = "model.layers.0.mlp.up_proj.weight";
    let nan = (&tensors[name] * f64::NAN).unwrap();
    tensors.insert(name.to_owned(), nan);
    safetensors::save(&tensors, &file).unwrap();
    let error = open(&made.folder, None).err().unwrap();
    assert!(error.contains(name) && error.contains("not finite"), "{error}");
}

#[test]
fn weights_that_became_no_numbers_are_not_saved() {
    for lora in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let made = start(folder.path(), lora);
        let (file, saved) =
            (folder.path().join("trained.safetensors"), folder.path().join("saved"));
        made.model.save_trainable(&file).unwrap();
        let mut tensors = safetensors::load(&file, &Device::Cpu).unwrap();
        let name = tensors.keys().next().unwrap().clone();
        let nan = (&tensors[&name] * f64::NAN).unwrap();
        tensors.insert(name, nan);
        safetensors::save(&tensors, &file).unwrap();
        let mut model = made.model.clone();
        model.load_trainable(&file).unwrap();
        let error = made.save(&model, &saved).unwrap_err().explained();
        assert!(error.contains("not saved") && error.contains("`schedule.peak`"), "{error}");
        assert!(!saved.exists());
        made.save(&made.model, &saved).unwrap();
    }
}

#[test]
fn a_run_is_made_from_tokenizer_and_templates_too() {
    let folder = tempfile::tempdir().unwrap();
    let made = start(&folder.path().join("run"), false);
    let templates = folder.path().join("mine");
    std::fs::create_dir(&templates).unwrap();
    std::fs::write(templates.join("policy.j2"), "{{ question }}").unwrap();
    let files = Start { templates: Some(templates.clone()), ..made }.text_files();
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        assert!(files.iter().any(|(known, path)| known == name && path.is_file()), "{files:?}");
    }
    let policy = ("templates/policy.j2".to_owned(), templates.join("policy.j2"));
    assert!(files.contains(&policy), "{files:?}");
    assert!(!files.iter().any(|(name, _)| name == "templates/prompt.j2"), "{files:?}");
}

#[test]
fn an_adapter_lends_its_chat_template_to_a_base_without_one() {
    const TEMPLATE: &str = "chat_template.jinja";
    let folder = tempfile::tempdir().unwrap();
    let made = start(&folder.path().join("run"), true);
    let saved = folder.path().join("saved");
    made.save(&made.model, &saved).unwrap();
    let adapter = folder.path().join("adapter");
    std::fs::rename(saved.join("adapter"), &adapter).unwrap();
    let ids = |start: &Start| start.text.opening_ids(&[Piece::Text("a".into())]).unwrap();
    let expected = ids(&made);
    assert_eq!(ids(&open(&made.folder, Some(&adapter)).unwrap()), expected);

    std::fs::rename(made.folder.join(TEMPLATE), adapter.join(TEMPLATE)).unwrap();
    let error = open(&made.folder, None).err().unwrap();
    assert!(error.contains("the chat template of"), "{error}");
    let opened = open(&made.folder, Some(&adapter)).unwrap();
    assert_eq!(ids(&opened), expected);
    let lent = (format!("model.adapter/{TEMPLATE}"), adapter.join(TEMPLATE));
    assert!(opened.text_files().contains(&lent));
    // What is made of the two has it as well: the merged weights, and the adapter beside its base.
    let out = folder.path().join("out");
    opened.save(&opened.model, &out).unwrap();
    assert_eq!(ids(&open(&out, None).unwrap()), expected);
    assert_eq!(ids(&open(&made.folder, Some(&out.join("adapter"))).unwrap()), expected);
}

#[test]
fn an_adapter_brings_its_own_templates() {
    let folder = tempfile::tempdir().unwrap();
    let made = start(&folder.path().join("run"), true);
    let saved = folder.path().join("saved");
    made.save(&made.model, &saved).unwrap();
    let adapter = folder.path().join("adapter");
    std::fs::rename(saved.join("adapter"), &adapter).unwrap();
    let settings = "{\"history\": false}\n";
    std::fs::write(adapter.join("templates/protocol.json"), settings).unwrap();
    for base_has_some in [false, true] {
        if base_has_some {
            Protocol::record(None, &made.folder.join("templates")).unwrap();
        }
        let opened = open(&made.folder, Some(&adapter)).unwrap();
        let parts: Vec<String> = opened.parts().into_iter().map(|(name, _)| name).collect();
        for name in ["config.json", "model.adapter", "model.adapter/adapter_config.json"] {
            assert!(parts.iter().any(|known| known == name), "{name} is not in {parts:?}");
        }
        assert!(!opened.protocol().unwrap().settings().history);
        let own = ("templates/protocol.json".to_owned(), adapter.join("templates/protocol.json"));
        assert!(opened.text_files().contains(&own));
        let out = folder.path().join(format!("out-{base_has_some}"));
        opened.save(&opened.model, &out).unwrap();
        for place in ["templates", "adapter/templates"] {
            let written = std::fs::read_to_string(out.join(place).join("protocol.json")).unwrap();
            assert_eq!(written, settings, "{place}");
        }
    }
    // Trained with as much of a reply as the run and the folder allow.
    let settings = r#"{"sampling":{"temperature":0,"top_p":1},"observation_chars":120}"#;
    std::fs::write(adapter.join("templates/protocol.json"), settings).unwrap();
    for (limit, shown) in [(100, 100), (200, 120)] {
        let opened = open(&made.folder, Some(&adapter)).unwrap().showing(limit);
        let out = folder.path().join(format!("showing-{limit}"));
        opened.save(&opened.model, &out).unwrap();
        for place in ["templates", "adapter/templates"] {
            let written = Settings::load(Some(&out.join(place))).unwrap();
            assert_eq!(written.observation_chars, Some(shown), "{place}");
            let sampling = written.sampling.unwrap();
            assert_eq!((sampling.temperature, sampling.top_p), (0.0, 1.0), "{place}");
        }
    }
    // Without its own, those of the base.
    std::fs::remove_dir_all(adapter.join("templates")).unwrap();
    let opened = open(&made.folder, Some(&adapter)).unwrap();
    assert_eq!(opened.own_templates(), Some(made.folder.join("templates")));
}

#[test]
fn what_is_no_model_folder_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let with = |name: &str, file: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join(file), "{}").unwrap();
        path
    };
    for (path, said) in [
        (Path::new("Qwen/Qwen3-0.6B").to_owned(), "there is no folder or file"),
        (folder.path().join("no/such/folder"), "there is no folder"),
        (with("adapter", "adapter_config.json"), "holds an adapter and no model"),
        (with("torch", "pytorch_model.bin"), "load it with transformers and save it again"),
    ] {
        let error = open(&path, None).err().unwrap();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn an_adapter_is_applied_once_and_to_its_own_base() {
    let folder = tempfile::tempdir().unwrap();
    let made = start(&folder.path().join("run"), true);
    let merged = folder.path().join("merged");
    made.save(&made.model, &merged).unwrap();
    let adapter = merged.join("adapter");
    let config = std::fs::read_to_string(adapter.join("adapter_config.json")).unwrap();
    assert!(config.contains(&made.folder.display().to_string()), "{config}");
    assert!(open(&made.folder, Some(&adapter)).is_ok());

    let twice = open(&merged, Some(&adapter)).err().unwrap();
    assert!(twice.contains("hold the adapter") && twice.contains("already"), "{twice}");
    // Even if the adapter has been moved away.
    let moved = folder.path().join("moved");
    std::fs::rename(&adapter, &moved).unwrap();
    let file = made.folder.join("model.safetensors");
    let mut tensors = safetensors::load(&file, &Device::Cpu).unwrap();
    for tensor in tensors.values_mut() {
        *tensor = (&*tensor * 1.5).unwrap();
    }
    safetensors::save(&tensors, &file).unwrap();
    let another = open(&made.folder, Some(&moved)).err().unwrap();
    assert!(another.contains("was trained on other weights"), "{another}");

    std::fs::remove_file(moved.join(BASE)).unwrap();
    assert!(open(&made.folder, Some(&moved)).is_ok());
    std::fs::write(moved.join("chat_template.jinja"), "{{ raise_exception('no') }}").unwrap();
    let template = open(&made.folder, Some(&moved)).err().unwrap();
    assert!(template.contains("chat template"), "{template}");
}

#[test]
fn a_model_of_read_only_files_is_saved_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let made = start(&folder.path().join("run"), false);
    let settings = made.folder.join("generation_config.json");
    std::fs::write(settings, "{ \"temperature\": 0.6 }").unwrap();
    Protocol::record(None, &made.folder.join(TEMPLATES)).unwrap();
    let files = |folder: &Path| -> Vec<PathBuf> {
        let folders = [folder.to_owned(), folder.join(TEMPLATES)];
        let entries = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
    };
    for file in files(&made.folder) {
        let mut permissions = std::fs::metadata(&file).unwrap().permissions();
        permissions.set_readonly(true);
        std::fs::set_permissions(&file, permissions).unwrap();
    }
    let opened = open(&made.folder, None).unwrap();
    let saved = folder.path().join("saved");
    for _ in 0..2 {
        opened.save(&opened.model, &saved).unwrap();
        for file in files(&saved) {
            // Whoever may write to all files sees no other effect of it.
            let is_read_only = std::fs::metadata(&file).unwrap().permissions().readonly();
            assert!(!is_read_only, "`{}`", file.display());
        }
    }
    let named: Vec<PathBuf> = files(&saved);
    for name in ["generation_config.json", "tokenizer.json", "templates/protocol.json"] {
        assert!(named.contains(&saved.join(name)), "{named:?}");
    }
}

#[test]
fn the_end_of_a_turn_is_written_into_the_saved_folder() {
    let folder = tempfile::tempdir().unwrap();
    let made = start(&folder.path().join("run"), false);
    let end = made.text.turn_end().unwrap();
    // As many publish it: with another stop token, and further settings.
    let settings = format!("{{ \"eos_token_id\": [{}], \"temperature\": 0.6 }}", end + 1);
    std::fs::write(made.folder.join("generation_config.json"), settings).unwrap();
    let path = made.folder.clone();
    let made = open(&path, None).unwrap();
    let saved = folder.path().join("saved");
    made.save(&made.model, &saved).unwrap();
    let text = std::fs::read_to_string(saved.join("generation_config.json")).unwrap();
    let settings: Value = serde_json::from_str(&text).unwrap();
    let ends: Vec<u64> =
        settings["eos_token_id"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
    assert_eq!(ends[0], u64::from(made.text.turn_end().unwrap()), "what is learnt comes first");
    assert!(ends.contains(&u64::from(end + 1)), "{ends:?}");
    assert_eq!(settings["temperature"], 0.6);
}
