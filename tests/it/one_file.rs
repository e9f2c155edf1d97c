//! A GGUF file alone: served by both engines, trained, exported, as a user does it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use candle_core::Device;
use prompt_r1::gguf::{Entry, Gguf};
use prompt_r1::model::spec::{LayerKind, Rope, RopeScaling};
use prompt_r1::model::{Family, GgufType, Spec, Weights};
use serde_json::Value;

use crate::process::{command, outcome};

const CHAT: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// A tiny Llama with random weights, in Q8_0, with a tokenizer and a chat template.
pub fn tiny(folder: &Path) -> PathBuf {
    changed(folder, |_| ())
}

/// The same with this change.
fn changed(folder: &Path, change: impl FnOnce(&mut Spec)) -> PathBuf {
    let golden = std::fs::read_to_string("tests/golden/tokenizer/bpe.json").unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let texts = |name: &str| serde_json::from_value::<Vec<String>>(golden[name].clone()).unwrap();
    let mut spec = Spec {
        vocab_size: texts("tokens").len(),
        hidden_size: 64,
        intermediate_size: 96,
        layers: vec![LayerKind::default(); 2],
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 32,
        max_position_embeddings: 2048,
        tie_word_embeddings: true,
        ..Family::Llama.spec()
    };
    change(&mut spec);
    let kinds = serde_json::from_value(golden["kinds"].clone()).unwrap();
    let settings = [
        ("ggml.model", Entry::Text("gpt2".into())),
        ("ggml.pre", Entry::Text("smollm".into())),
        ("ggml.tokens", Entry::Texts(texts("tokens"))),
        ("ggml.token_type", Entry::I32s(kinds)),
        ("ggml.merges", Entry::Texts(texts("merges"))),
        ("ggml.bos_token_id", Entry::U32(0)),
        ("ggml.eos_token_id", Entry::U32(2)),
        ("chat_template", Entry::Text(CHAT.into())),
    ];
    let settings = settings.map(|(key, entry)| (format!("tokenizer.{key}"), entry));
    let path = folder.join("tiny.gguf");
    let weights = Weights::random(&spec, 1, &Device::Cpu).unwrap();
    weights.write_gguf(&spec, settings.to_vec(), GgufType::Q8_0, &path).unwrap();
    path
}

fn server(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_server")).args(args).output().unwrap()
}

fn done(args: &[&str]) -> String {
    let output = server(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(args: &[&str]) -> String {
    let output = server(args);
    assert!(!output.status.success(), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Runs `solve` with the policy in `model`; returns its first turn's text.
fn asked(folder: &Path, model: &str, more: &[&str]) -> String {
    let config = folder.join("solve.toml");
    std::fs::write(&config, "episode = { max_turns = 1, max_turn_tokens = 12 }\n").unwrap();
    let config = config.to_str().unwrap();
    let args = ["solve", "What is Mirel?", "--config", config, "--json", "--policy", model];
    let episode: Value = serde_json::from_str(&done(&[&args, more].concat())).unwrap();
    let turn = &episode["trajectory"]["turns"][0]["text"];
    assert!(turn.is_string(), "{episode}");
    turn.to_string()
}

#[test]
fn it_is_asked_on_both_engines_and_as_the_large_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(folder.path());
    let model = model.to_str().unwrap();
    let native = asked(folder.path(), model, &["--policy-engine", "native"]);
    assert_eq!(native, asked(folder.path(), model, &["--large-model-path", model]), "auto");
    asked(folder.path(), model, &["--policy-engine", "mistralrs"]);

    let config = folder.path().join("server.toml");
    std::fs::write(&config, format!("[policy]\nmodel = {model:?}\n")).unwrap();
    let said = done(&["check", config.to_str().unwrap()]);
    assert!(said.contains("policy.engine: native, because it supports `llama` models"), "{said}");
}

/// As in the store of Ollama.
#[test]
fn a_gguf_file_needs_no_extension() {
    let folder = tempfile::tempdir().unwrap();
    let blob = folder.path().join("sha256-0123abcd");
    std::fs::rename(tiny(folder.path()), &blob).unwrap();
    let blob = blob.to_str().unwrap();
    asked(folder.path(), blob, &["--large-model-path", blob]);
    asked(folder.path(), blob, &["--policy-engine", "mistralrs"]);
    let out = folder.path().join("out");
    done(&["export", blob, "--out", out.to_str().unwrap()]);
    assert!(out.join("tokenizer.json").is_file());
    let other = out.join("model.safetensors");
    let error = refused(&["solve", "x", "--policy", other.to_str().unwrap()]);
    assert!(error.contains("is a file, and no GGUF file"), "{error}");
}

#[test]
fn a_setting_that_mistralrs_would_ignore_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original: 1024,
    };
    let model = changed(folder.path(), |spec| spec.ropes = vec![Rope { theta: 10_000.0, scaling }]);
    let model = model.to_str().unwrap();
    asked(folder.path(), model, &[]);
    let config = folder.path().join("server.toml");
    std::fs::write(&config, format!("policy = {{ model = {model:?}, engine = \"mistralrs\" }}\n"))
        .unwrap();
    for args in [
        &["solve", "x", "--policy", model, "--policy-engine", "mistralrs"][..],
        &["check", config.to_str().unwrap()],
    ] {
        let error = refused(args);
        assert!(error.contains("mistral.rs ignores `rope_freqs.weight`"), "{error}");
        assert!(error.contains("hint: ") && error.contains("native"), "{error}");
    }
}

#[test]
fn it_is_trained_from_and_the_result_is_served_and_exported() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let model = tiny(folder.path());
    let chat = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    std::fs::write(path("chat.jsonl"), format!("{chat}\n")).unwrap();
    let recipe = format!(
        "schema_version = 1\noutput = {:?}\nsteps = 1\nbatch_size = 1\n\
         data = {{ kind = \"chat\", path = {:?} }}\n\
         [model]\npath = {model:?}\nlora = {{ rank = 2, alpha = 4, targets = [\"q_proj\", \"down_proj\"] }}\n",
        path("run"),
        path("chat.jsonl"),
    );
    std::fs::write(path("sft.toml"), recipe).unwrap();
    let trained = done(&["train", "sft", "--config", &path("sft.toml")]).trim().to_owned();
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ] {
        assert!(Path::new(&trained).join(name).is_file(), "{name}");
    }
    let merged = asked(folder.path(), &trained, &[]);
    asked(folder.path(), &trained, &["--policy-engine", "mistralrs"]);

    // The adapter with its base, whose weights stay quantised, nearly equals the merged model.
    let adapter = format!("{trained}/adapter");
    let base = model.to_str().unwrap();
    let beside = asked(folder.path(), base, &["--adapter", &adapter]);
    assert_eq!(asked(folder.path(), &adapter, &[]), beside, "by the base that it names");
    done(&["export", base, "--adapter", &adapter, "--out", &path("merged")]);
    assert_eq!(asked(folder.path(), &path("merged"), &[]), merged);

    // Rounded once more to the file's precision, and read again.
    for kind in ["f16", "q8_0", "q4_k"] {
        let file = path(&format!("{kind}.gguf"));
        let output = server(&["export", &trained, "--gguf", &file, "--type", kind]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("protocol templates"), "{said}");
        let file = Gguf::open(Path::new(&file)).unwrap();
        assert_eq!(Spec::from_gguf(&file).unwrap().hidden_size, 64);
        assert_eq!(file.text("tokenizer.chat_template").unwrap(), Some(CHAT));
        asked(folder.path(), file.path(), &[]);
    }
}

#[test]
fn biases_of_some_projections_are_exported() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let model = changed(folder.path(), |spec| spec.qkv_bias = true);
    done(&["export", model.to_str().unwrap(), "--out", &path("first")]);
    asked(folder.path(), &path("first"), &[]);
    done(&["export", &path("first"), "--gguf", &path("again.gguf")]);
}

#[test]
fn a_large_model_that_is_not_loaded_says_itself_why() {
    const ELSEWHERE: &str = "`--models-dir`";
    let folder = tempfile::tempdir().unwrap();
    let model = tiny(folder.path());
    let bytes = std::fs::read(&model).unwrap();
    let cut = folder.path().join("cut.gguf");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let solve = |flag: &str, value: &str| {
        let args = ["solve", "x", "--policy", model.to_str().unwrap(), flag, value];
        outcome(&command(&args).env("HF_HUB_OFFLINE", "1").output().unwrap())
    };
    for (path, said) in [(cut.to_str().unwrap(), "cut.gguf"), ("someone/tiny", "`HF_HUB_OFFLINE`")]
    {
        let (status, text) = solve("--large-model-path", path);
        assert!(status == 1 && text.contains("cannot load the large model"), "{text}");
        assert!(text.contains(said) && !text.contains(ELSEWHERE), "{text}");
    }
    let (status, text) = solve("--models-dir", "no/such/models");
    assert!(status == 1 && text.contains(ELSEWHERE), "{text}");
}

#[test]
fn exports_that_cannot_be_are_refused_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let error = refused(&["export", "models/policy", "--gguf", &path("policy.gguf")]);
    assert!(error.contains("cannot be written into a GGUF file: it puts a space"), "{error}");
    assert!(!folder.path().join("policy.gguf").exists());
    std::fs::write(path("there.gguf"), "x").unwrap();
    for (args, said) in [
        (vec!["export", "models/policy", "--gguf", "there.bin"], "does not end in `.gguf`"),
        (vec!["export", "models/policy", "--gguf", &path("there.gguf")], "already"),
        (vec!["export", "models/policy", "--out", folder.path().to_str().unwrap()], "not empty"),
        (vec!["export", &path("none"), "--out", &path("new")], "there is no model"),
        (vec!["export", "models/policy"], "--out <FOLDER>|--gguf <FILE>"),
        (
            vec!["export", "models/policy", "--out", &path("new"), "--type", "f16"],
            "leave `--type` out",
        ),
        (vec!["export", "models/policy", "--out", &path("new"), "--ids-only"], "add `--gguf FILE`"),
        (vec!["export", "models/arithmetic", "--out", &path("new")], "this folder by `--adapter`"),
    ] {
        let error = refused(&args);
        assert!(error.contains(said), "{args:?}: {error}");
    }
    assert!(!folder.path().join("new").exists());
}
