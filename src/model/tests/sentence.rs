//! Sentence embeddings against sentence-transformers'. `tests/golden/ssim/make.py` made the files.

use std::path::Path;

use serde_json::{Value, json};

use crate::hint::Hint;
use crate::model::SentenceModel;

fn golden(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ssim").join(name);
    let value: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let pairs = value["pairs"].as_array().unwrap().clone();
    assert!(pairs.len() > 12);
    pairs
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn agrees(folder: &Path, pairs: &[Value], tolerance: f64) {
    let model = SentenceModel::load(folder).unwrap();
    for pair in pairs {
        let [a, b] = ["a", "b"].map(|side| model.embed(pair[side].as_str().unwrap()).unwrap());
        let found = cosine(&a, &b);
        let expected = pair["cosine"].as_f64().unwrap();
        assert!((found - expected).abs() < tolerance, "{found} is not {expected}: {pair}");
        if let Some(expected) = pair["embedding"].as_array() {
            for (found, expected) in a.iter().zip(expected) {
                let expected = expected.as_f64().unwrap();
                assert!((f64::from(*found) - expected).abs() < tolerance, "{pair}");
            }
        }
    }
}

#[test]
fn a_small_encoder_agrees_with_sentence_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ssim/tiny");
    agrees(&folder, &golden("tiny/pairs.json"), 2e-6);
}

#[test]
fn of_a_text_of_ten_megabytes_the_head_counts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ssim/tiny");
    let model = SentenceModel::load(&folder).unwrap();
    let long = "a man ".repeat(1_700_000);
    assert_eq!(model.embed(&long).unwrap(), model.embed(&long[..6_000]).unwrap());
}

/// Needs the published weights, which are too large for the repository: `tests/golden/ssim/run.sh`
/// fetches them and runs this.
#[test]
#[ignore = "needs SENTENCE_MODEL, the folder of all-MiniLM-L6-v2"]
fn the_published_encoder_agrees_with_sentence_transformers() {
    let folder = std::env::var("SENTENCE_MODEL").unwrap();
    agrees(Path::new(&folder), &golden("minilm.json"), 1e-5);
}

#[test]
fn what_is_no_sentence_encoder_is_said() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ssim/tiny");
    let error = |change: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&tiny).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        change(folder.path());
        SentenceModel::load(folder.path()).err().unwrap().explained()
    };
    let replaced = |file: &'static str, from: &'static str, to: &'static str| {
        move |folder: &Path| {
            let text = std::fs::read_to_string(folder.join(file)).unwrap();
            assert!(text.contains(from));
            std::fs::write(folder.join(file), text.replace(from, to)).unwrap();
        }
    };
    let said =
        error(&replaced("config.json", "\"model_type\": \"bert\"", "\"model_type\": \"mpnet\""));
    assert!(said.contains("`mpnet`") && said.contains("all-MiniLM-L6-v2"), "{said}");
    let said =
        error(&replaced("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"));
    assert!(said.contains("`encoder.layer.2.attention.self.query.weight`"), "{said}");
    let said = error(&|folder| std::fs::remove_file(folder.join("tokenizer.json")).unwrap());
    assert!(said.contains("tokenizer.json"), "{said}");
    let said = error(&|folder| std::fs::remove_file(folder.join("config.json")).unwrap());
    assert!(said.contains("no `config.json`"), "{said}");
    let said = error(&|folder| std::fs::write(folder.join("model.safetensors"), "x").unwrap());
    assert!(said.contains("truncated"), "{said}");
}

#[test]
fn what_a_sentence_encoder_does_beside_the_mean_is_said() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ssim/tiny");
    let step = |path: &str, class: &str| {
        let kind = format!("sentence_transformers.models.{class}");
        json!({ "idx": 0, "name": "0", "path": path, "type": kind })
    };
    let steps = [step("", "Transformer"), step("1_Pooling", "Pooling"), step("2_N", "Normalize")];
    let usual = json!(steps);
    let dense = json!([&steps[..], &[step("2_Dense", "Dense")]].concat());
    let cls = json!({ "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false });
    let both = json!({ "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true });
    let mean = json!({ "pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true });
    for (modules, pooling, said) in [
        (None, None, None),
        (None, Some(&mean), None),
        (None, Some(&cls), Some("pool by the mean")),
        (Some(&usual), Some(&mean), None),
        (Some(&usual), Some(&json!({ "pooling_mode": "mean", "include_prompt": true })), None),
        (Some(&usual), Some(&json!({ "pooling_mode": "cls" })), Some("pool by the mean")),
        (Some(&usual), Some(&json!({ "pooling_mode": ["mean", "max"] })), Some("pool by the mean")),
        (Some(&usual), Some(&both), Some("pool by the mean")),
        (Some(&usual), None, Some("it has no `1_Pooling/config.json`")),
        (Some(&dense), Some(&mean), Some("`sentence_transformers.models.Dense` in `2_Dense`")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&tiny).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
        for (name, value) in [("modules.json", modules), ("1_Pooling/config.json", pooling)] {
            if let Some(value) = value {
                std::fs::write(folder.path().join(name), value.to_string()).unwrap();
            }
        }
        let found = SentenceModel::load(folder.path()).err().map(|error| error.explained());
        assert_eq!(found.is_some(), said.is_some(), "{found:?}");
        let found = found.unwrap_or_default();
        assert!(found.contains(said.unwrap_or_default()), "{found}");
    }
}

#[test]
fn texts_are_read_as_the_settings_say() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ssim/tiny");
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&tiny).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let put = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
    let mut tokenizer: Value =
        serde_json::from_str(&std::fs::read_to_string(tiny.join("tokenizer.json")).unwrap())
            .unwrap();
    tokenizer["normalizer"] = Value::Null;
    put("tokenizer.json", tokenizer.to_string());
    let is_alike = || {
        let model = SentenceModel::load(folder.path()).unwrap();
        model.embed("A Man").unwrap() == model.embed("a man").unwrap()
    };
    assert!(!is_alike());
    put("sentence_bert_config.json", json!({ "do_lower_case": true }).to_string());
    assert!(is_alike());
    let prompts = json!({ "prompts": { "query": "query: " }, "default_prompt_name": "query" });
    put("config_sentence_transformers.json", prompts.to_string());
    let error = SentenceModel::load(folder.path()).err().unwrap().explained();
    assert!(error.contains("it puts a prompt before texts"), "{error}");
}
