//! `server train` as a user runs it: killed, resumed, and its result served.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::eventually::eventually_blocking;
use crate::process::with_hangup;

mod grpo;
mod tinker;

/// Enough for a run to be killed in the middle.
const STEPS: usize = 150;

fn server() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Writes the configuration `text` of a run in `folder`, completed by its output and seed.
fn configured(folder: &Path, seed: u64, text: &str) -> PathBuf {
    let path = folder.join("run.toml");
    let output = folder.join("run");
    let head = format!("schema_version = 1\noutput = {output:?}\nseed = {seed}\n");
    std::fs::write(&path, head + text).unwrap();
    path
}

/// Writes a supervised run of `steps` steps of a tiny model over a tiny world, in `folder`.
fn recipe(folder: &Path, steps: usize, model: &str) -> PathBuf {
    let text = format!(
        r#"
        steps = {steps}
        batch_size = 4
        checkpoint_every = 5
        eval_every = 50
        weight_decay = 0.01
        schedule = {{ peak = 3e-3, warmup_steps = 5, decay = "cosine" }}
        data = {{ kind = "world_demonstrations", count = 200, world = {{ people = 12, companies = 3, cities = 6, countries = 3 }} }}
        {model}
        "#
    );
    configured(folder, 3, &text)
}

/// A new model.
const NEW: &str = r#"
        [model.new]
        hidden_size = 16
        intermediate_size = 24
        num_hidden_layers = 1
        num_attention_heads = 2
        num_key_value_heads = 1
        head_dim = 8
        max_position_embeddings = 512
"#;

/// `model` in bf16.
fn in_bf16(model: &str) -> String {
    format!("[model]\ndtype = \"bf16\"\n{model}")
}

/// Runs `server train KIND` to its end.
fn run(kind: &str, recipe: &Path, resume: bool) -> Output {
    let mut command = server();
    command.args(["train", kind, "--config"]).arg(recipe);
    if resume {
        command.arg("--resume");
    }
    command.output().unwrap()
}

/// The folder of the finished model.
fn written(output: Output) -> PathBuf {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

fn train(recipe: &Path, resume: bool) -> Output {
    run("sft", recipe, resume)
}

fn trained(recipe: &Path, resume: bool) -> PathBuf {
    written(train(recipe, resume))
}

fn steps_written(folder: &Path) -> usize {
    std::fs::read_to_string(folder.join("run/metrics.jsonl")).unwrap_or_default().lines().count()
}

/// Waits until `done`, or fails with the output of the process.
fn wait_until(process: &mut Child, mut done: impl FnMut() -> bool) {
    eventually_blocking(
        || "the run's progress".to_owned(),
        || {
            assert!(process.try_wait().unwrap().is_none(), "the run ended by itself");
            done()
        },
    );
}

fn weights(model: &Path) -> Vec<u8> {
    std::fs::read(model.join("model.safetensors")).unwrap()
}

#[test]
fn a_base_that_cannot_be_trained_leaves_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join("odd");
    std::fs::create_dir(&odd).unwrap();
    for entry in std::fs::read_dir("models/policy").unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, odd.join(path.file_name().unwrap())).unwrap();
        }
    }
    let config = std::fs::read_to_string(odd.join("config.json")).unwrap();
    std::fs::write(odd.join("config.json"), config.replace("\"qwen3\"", "\"mamba\"")).unwrap();
    for (model, said) in [
        (odd.as_path(), "`mamba` is not supported here"),
        (Path::new("models/arithmetic"), "holds an adapter and no model"),
    ] {
        let recipe = recipe(folder.path(), 1, &format!("[model]\npath = {model:?}\n"));
        let output = train(&recipe, false);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(said), "{text}");
        assert!(!text.contains("mistralrs"), "{text}");
        assert!(!folder.path().join("run").exists(), "{text}");
    }
}

#[test]
fn a_killed_run_goes_on_to_the_very_weights_of_one_that_was_not() {
    killed_and_gone_on_with(NEW);
}

#[test]
fn a_killed_run_in_bf16_goes_on_with_its_masters() {
    killed_and_gone_on_with(&in_bf16(NEW));
}

fn killed_and_gone_on_with(model: &str) {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let expected = trained(&recipe(whole.path(), STEPS, model), false);

    let recipe = recipe(cut.path(), STEPS, model);
    let mut run = server().args(["train", "sft", "--config"]).arg(&recipe).spawn().unwrap();
    wait_until(&mut run, || steps_written(cut.path()) > 7);
    run.kill().unwrap(); // SIGKILL
    run.wait().unwrap();
    assert!(steps_written(cut.path()) < STEPS);

    // Starting again would overwrite it.
    let refused = train(&recipe, false);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--resume"));

    let resumed = trained(&recipe, true);
    assert_eq!(steps_written(cut.path()), STEPS, "no step is missing, none is there twice");
    assert!(weights(&expected) == weights(&resumed), "not bit for bit");
}

#[cfg(unix)]
#[test]
fn a_run_that_is_asked_to_end_writes_a_checkpoint_and_a_summary() {
    use nix::sys::signal::{Signal, kill};
    let whole = tempfile::tempdir().unwrap();
    let expected = trained(&recipe(whole.path(), STEPS, NEW), false);
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let cut = tempfile::tempdir().unwrap();
        let recipe = recipe(cut.path(), STEPS, NEW);
        let mut server = server();
        with_hangup(&mut server, false).args(["train", "sft", "--config"]).arg(&recipe);
        let mut run = server.spawn().unwrap();
        wait_until(&mut run, || steps_written(cut.path()) > 7);
        kill(nix::unistd::Pid::from_raw(run.id() as i32), signal).unwrap();
        let output = run.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("--resume"), "{signal}: {said}");
        let done = steps_written(cut.path());
        let checkpoint = cut.path().join(format!("run/checkpoints/step-{done:08}"));
        assert!(done < STEPS && checkpoint.is_dir(), "{signal}");
        let summary = std::fs::read_to_string(cut.path().join("run/summary.json")).unwrap();
        assert!(summary.contains(&format!("stopped after step {done}")), "{signal}: {summary}");

        let resumed = trained(&recipe, true);
        assert!(weights(&expected) == weights(&resumed), "{signal}: not bit for bit");
    }
}

/// 199 rows whose content is not text are rejected, one is learnt from.
#[test]
fn rows_that_cannot_be_used_are_named_and_end_the_run_unless_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chats.jsonl");
    let good = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let bad = r#"{"messages": [{"role": "user", "content": {"a": 1}}]}"#;
    std::fs::write(&path, format!("{good}\n{}", format!("{bad}\n").repeat(199))).unwrap();
    let text = |more: &str| {
        format!(
            "schema_version = 1\noutput = {:?}\nsteps = 1\n{more}\ndata = {{ kind = \"chat\", path = {path:?} }}\n{NEW}",
            folder.path().join("run")
        )
    };
    let recipe = folder.path().join("run.toml");
    std::fs::write(&recipe, text("")).unwrap();
    let refused = train(&recipe, false);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("199 were rejected") && said.contains("row 2: "), "{said}");

    std::fs::write(&recipe, text("max_rejected = 1.0")).unwrap();
    trained(&recipe, false);
    let summary = std::fs::read_to_string(folder.path().join("run/summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let data = &summary["data"][0];
    assert_eq!([&data["rows"], &data["used"], &data["rejected"]], [200, 1, 199]);
    assert_eq!(summary["ended"], "finished");
    assert!(summary["device"].as_str().unwrap().starts_with("cpu"));
}

/// Five of six conversations are longer than the context of 512 tokens.
#[test]
fn conversations_that_do_not_fit_are_counted_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chats.jsonl");
    let row = |words: usize| {
        let long = "president ".repeat(words);
        serde_json::json!({"messages": [{"role": "user", "content": long},
                                        {"role": "assistant", "content": "b"}]})
        .to_string()
    };
    let rows: Vec<String> = (0..6).map(|n| row(if n == 0 { 1 } else { 600 })).collect();
    std::fs::write(&path, rows.join("\n")).unwrap();
    let recipe = folder.path().join("run.toml");
    let text = |more: &str| {
        format!(
            "schema_version = 1\noutput = {:?}\nsteps = 1\n{more}\ndata = {{ kind = \"chat\", path = {path:?} }}\n{NEW}",
            folder.path().join("run")
        )
    };
    std::fs::write(&recipe, text("")).unwrap();
    let refused = train(&recipe, false);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("5 are too long"), "{said}");
    std::fs::write(&recipe, text("max_rejected = 0.9")).unwrap();
    let output = train(&recipe, false);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("\"too_long\":5"), "{said}");
    let summary = std::fs::read_to_string(folder.path().join("run/summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let data = &summary["data"][0];
    assert_eq!([&data["rows"], &data["used"], &data["too_long"]], [6, 1, 5]);
}

#[test]
fn the_files_of_training_are_checked_and_forecast() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path(), 30, NEW);
    let output = server().arg("check").arg(&recipe).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("is valid"), "{said}");
    assert!(said.contains("conversations: 120"), "{said}");
    assert!(!folder.path().join("run").exists(), "nothing is begun");

    let grpo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/recipes/policy-grpo.toml");
    let output = server().arg("check").arg(&grpo).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    for line in [
        "steps: 100",
        "questions: 2400, generated",
        "episodes: 38400 to learn from, 2750 in 11 evaluations",
        "calls of the large model: at most 288050",
        "tokens that the policy samples: at most 15801600",
        "money for the large model: none, it runs in this process",
        "time: not known",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }

    let missing = std::fs::read_to_string(&recipe).unwrap().replace("[model.new]", "[model.nwe]");
    std::fs::write(&recipe, missing).unwrap();
    assert!(!server().arg("check").arg(&recipe).output().unwrap().status.success());
}

/// The losses a run has written, step by step.
fn losses(folder: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(folder.join("run/metrics.jsonl")).unwrap();
    let loss = |line: &str| {
        let values: serde_json::Value = serde_json::from_str(line).unwrap();
        values["loss"].as_f64().unwrap()
    };
    text.lines().map(loss).collect()
}

/// bf16 has 8 bits, 0.4 % per rounding, of which a loss has the mean over many tokens; master
/// copies keep updates exact, so roundings do not accumulate.
#[test]
fn bf16_learns_as_f32_does_and_its_folder_is_served() {
    let [wide, narrow] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let in_f32 = trained(&recipe(wide.path(), 60, NEW), false);
    let in_bf16 = trained(&recipe(narrow.path(), 60, &in_bf16(NEW)), false);
    let (expected, found) = (losses(wide.path()), losses(narrow.path()));
    assert!(expected[59] < 0.8 * expected[0], "{expected:?}");
    for (step, (a, b)) in expected.iter().zip(&found).enumerate() {
        assert!((a - b).abs() < 0.01 * a, "step {step}: {a} in f32, {b} in bf16");
    }
    assert!(weights(&in_bf16).len() < weights(&in_f32).len() * 2 / 3);
    let text = std::fs::read_to_string(in_bf16.join("config.json")).unwrap();
    assert!(text.contains("bfloat16"), "{text}");
    served(narrow.path(), &in_bf16);

    // Resumed in another type, it fails with a hint.
    let other = recipe(narrow.path(), 61, NEW);
    let refused = train(&other, true);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("dtype = \"bf16\""), "{said}");
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_that_cannot_be_had_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for (device, said) in [
        ("cuda:1", "hint: build it with `--features cuda`"),
        ("cudda", "hint: did you mean `cuda`?"),
    ] {
        let model = format!("[model]\ndevice = {device:?}\n{NEW}");
        let refused = train(&recipe(folder.path(), 1, &model), false);
        assert!(!refused.status.success());
        let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(stderr.contains(said), "{stderr}");
    }
}

/// Both engines solve with the policy in `model`; `folder` contains their configuration.
fn served(folder: &Path, model: &Path) {
    for engine in ["mistralrs", "native"] {
        let config = folder.join("server.toml");
        let text = format!(
            "schema_version = 1\n[policy]\nengine = {engine:?}\nmodel = {model:?}\n[episode]\nmax_turns = 1\nmax_turn_tokens = 8\n"
        );
        std::fs::write(&config, text).unwrap();
        let question = "What is Grania's president?";
        let output =
            server().args(["solve", question, "--json", "--config"]).arg(&config).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let episode: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let sampled = episode["usage"]["policy"]["completion_tokens"].as_u64();
        assert!(sampled.is_some_and(|tokens| tokens > 0), "{engine}: {episode}");
    }
}

#[test]
fn an_adapter_is_trained_gone_on_with_and_served() {
    let folder = tempfile::tempdir().unwrap();
    let sub = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    let base = trained(&recipe(&sub("base"), 10, NEW), false);
    let lora = format!(
        "[model]\npath = {base:?}\nlora = {{ rank = 2, alpha = 4.0, targets = [\"q_proj\", \"down_proj\"] }}"
    );
    let first = trained(&recipe(&sub("first"), 10, &lora), false);
    let adapter = first.join("adapter");
    assert!(adapter.join("adapter_config.json").is_file());
    assert!(weights(&first) != weights(&base), "the folder holds the merged weights");

    let more = format!("[model]\npath = {base:?}\nadapter = {adapter:?}");
    let second = trained(&recipe(&sub("second"), 10, &more), false);
    let tensors = |model: &Path| std::fs::read(model.join("adapter/adapter_model.safetensors"));
    assert!(tensors(&second).unwrap() != tensors(&first).unwrap());

    let both = format!("{more}\nlora = {{ rank = 2, alpha = 4.0, targets = [\"q_proj\"] }}");
    let refused = train(&recipe(&sub("both"), 10, &both), false);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("has both `lora`"), "{refused:?}");

    served(folder.path(), &second);
}
