//! Training at a Tinker server: the same result as locally, despite all failures.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

mod server;

use self::server::{Fault, Scale, Tinker};
use super::{NEW, run, server as command, trained, wait_until, weights, written};

const STEPS: usize = 3;

/// A tiny model with its tokenizer.
fn base(folder: &Path) -> PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    trained(&super::recipe(folder, 1, NEW), false)
}

/// A run in `folder` of the model in `base`, whose reward is the number of letters e that it wrote.
fn recipe(folder: &Path, base: &Path, steps: usize, more: &str) -> PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    let text = format!(
        r#"
        steps = {steps}
        groups_per_step = 2
        group_size = 4
        updates_per_step = 2
        max_policy_lag = 1
        checkpoint_every = 1
        clip_norm = inf
        reward = {{ external = {{ command = ["sh", "-c", "tr -cd e | wc -c"] }} }}
        objective = {{ kl_coef = 0.1, importance_cap = 2.0 }}
        limits = {{ max_turns = 2, max_turn_tokens = 12, deadline_ms = 600000 }}
        schedule = {{ peak = 0.003 }}
        eval = {{ tasks = 0 }}
        guards = {{ min_response_growth = 0.0, max_entropy = 10.0 }}
        large_model = {{ path = "models/large-model" }}
        tasks = {{ kind = "world", questions = [{{ chain = 2 }}], world = {{ people = 12, companies = 3, cities = 6, countries = 3 }} }}
        [model]
        path = {base:?}
        {more}
        "#
    );
    super::configured(folder, 5, &text)
}

/// The table of a trainer at `server`; `more` overrides some of it.
fn at(server: &Tinker, scale: &str, more: &str) -> String {
    let url = &server.url;
    let text = format!(
        r#"
        kind = "tinker"
        url = {url:?}
        base_model = "base"
        loss_scale = {scale:?}
        rank = 4
        request_timeout_ms = 60000
        outage_ms = 60000
        "#
    );
    let mut table: toml::Table = toml::from_str(&text).unwrap();
    table.extend(toml::from_str::<toml::Table>(more).unwrap());
    format!("[trainer]\n{}", toml::to_string(&table).unwrap())
}

fn grpo(recipe: &Path, resume: bool) -> PathBuf {
    written(run("grpo", recipe, resume))
}

fn metrics(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("run/metrics.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn values(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names = tensors.names();
    names.sort();
    names
        .into_iter()
        .flat_map(|name| tensors.tensor(name).unwrap().data().as_chunks().0.to_vec())
        .map(f32::from_le_bytes)
        .collect()
}

/// The same adapter, trained locally.
const LORA: &str = r#"lora = { rank = 4, alpha = 32.0, targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] }"#;

#[test]
fn a_run_at_a_server_is_the_run_here() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let here = folder.path().join("here");
    let local = grpo(&recipe(&here, &base, STEPS, LORA), false);
    for (name, scale) in [("sum", Scale::Sum), ("skyrl-jax", Scale::Jax)] {
        let server = Tinker::start(&base, scale);
        let there = folder.path().join(name);
        let model = grpo(&recipe(&there, &base, STEPS, &at(&server, name, "")), false);
        assert_eq!(server.updates(), 2 * STEPS);
        assert_eq!(server.models(), 0, "the place was not given back");
        assert_eq!(server.asked("delete"), server.asked("save_weights_for_sampler"));
        let (local_steps, steps) = (metrics(&here), metrics(&there));
        assert_eq!(steps.len(), STEPS);
        for (a, b) in local_steps.iter().zip(&steps) {
            for key in ["reward", "loss", "gradient_norm", "kl", "ratio", "approx_kl", "policy_lag"]
            {
                let (a, b) = (a[key].as_f64().unwrap(), b[key].as_f64().unwrap());
                // If a gradient is near 0, AdamW amplifies rounding.
                assert!((a - b).abs() <= 1e-3 * a.abs().max(0.1), "{name}, {key}: {a} and {b}");
            }
            assert!(b["entropy"].as_f64().unwrap() > 1.0, "it is estimated");
        }
        let file = "adapter/adapter_model.safetensors";
        let (a, b) = (values(&local.join(file)), values(&model.join(file)));
        assert_eq!(a.len(), b.len());
        let size =
            |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
        let apart = size(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / size(&mut a.iter().copied());
        assert!(apart < 1e-3, "{name}: adapters differ by {apart} of their size");
    }
}

const TRY_AGAIN: Fault =
    Fault::Answer(200, Vec::new(), r#"{"type":"try_again","queue_state":"active"}"#);

#[test]
fn temporary_failures_do_not_change_the_result() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let run = |name: &str, server: &Tinker| {
        let recipe = recipe(
            &folder.path().join(name),
            &base,
            STEPS,
            &at(server, "sum", "request_timeout_ms = 3000"),
        );
        weights(&grpo(&recipe, false))
    };
    let plain = Tinker::start(&base, Scale::Sum);
    let expected = run("plain", &plain);
    let status = |status| Fault::Answer(status, Vec::new(), r#"{"detail":"later"}"#);
    // Its clock is years behind.
    let clock = vec![
        ("date", "Thu, 01 Jan 2015 00:00:04 GMT"),
        ("retry-after", "Thu, 01 Jan 2015 00:00:05 GMT"),
    ];
    let server = Tinker::with_faults(
        &base,
        Scale::Sum,
        [
            ("get_server_capabilities", 1, status(503)),
            ("create_session", 1, Fault::Silent),
            ("create_model", 1, Fault::Answer(429, clock, "{}")),
            ("forward_backward", 2, Fault::Lost),
            ("forward_backward", 4, status(502)),
            ("forward_backward", 6, Fault::Truncated),
            ("optim_step", 1, Fault::Lost),
            ("optim_step", 3, status(503)),
            ("save_weights", 1, Fault::Lost),
            ("save_weights_for_sampler", 2, Fault::Lost),
            ("retrieve_future", 2, status(408)),
            ("retrieve_future", 4, TRY_AGAIN),
            ("retrieve_future", 6, Fault::Truncated),
            ("retrieve_future", 8, Fault::Silent),
            ("retrieve_future", 10, Fault::Slow(300)),
            ("retrieve_future", 12, status(429)),
            ("retrieve_future", 14, Fault::Lost),
            ("archive", 2, status(425)),
            ("download", 2, Fault::Lost),
            ("download", 4, status(503)),
            ("delete", 1, status(500)),
        ],
    );
    assert!(run("faulty", &server) == expected, "not bit for bit");
    assert_eq!(server.updates(), plain.updates(), "an update was made twice, or not");
}

/// How a run of one step ends that fails.
fn refused(folder: &Path, base: &Path, server: &Tinker, more: &str) -> String {
    let more = at(server, "sum", more);
    let output = run("grpo", &recipe(folder, base, 1, &more), false);
    said(&output)
}

fn said(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn permanent_failures_of_the_server_end_the_run_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(&folder.path().join("base"));
    let other = {
        let folder = folder.path().join("other");
        std::fs::create_dir_all(&folder).unwrap();
        trained(&super::recipe(&folder, 60, NEW), false)
    };
    let start = || Tinker::start(&base, Scale::Sum);
    let faulty = |path, nth, fault| Tinker::with_faults(&base, Scale::Sum, [(path, nth, fault)]);
    let answer = |status, text| Fault::Answer(status, Vec::new(), text);
    let silent = (1..50).map(|nth| ("get_server_capabilities", nth, Fault::Silent));
    let broken = (5..20).map(|nth| ("retrieve_future", nth, Fault::Truncated));
    let quick = "request_timeout_ms = 200\noutage_ms = 600";
    let cases = [
        (
            "wrong rank",
            start(),
            "rank = 9",
            "LoRA rank 9 must be between 1 and 8\nhint: `trainer.rank`",
        ),
        (
            "full",
            start().places(0),
            "",
            "Maximum number of LoRA adapters (1) reached\nhint: all places",
        ),
        (
            "other name",
            start(),
            "base_model = \"else\"",
            "trains `base`, not `else`\nhint: `trainer.base_model`",
        ),
        (
            "other weights",
            Tinker::start(&other, Scale::Sum),
            "",
            "`base` is not the model in `model.path`",
        ),
        ("dead", start().elsewhere(), quick, "hint: is it running there?"),
        ("silent", Tinker::with_faults(&base, Scale::Sum, silent), quick, "no answer in time"),
        (
            "no key",
            faulty("create_session", 1, answer(401, "{}")),
            "",
            "hint: `trainer.api_key_env`",
        ),
        (
            "reused",
            faulty("optim_step", 1, answer(409, r#"{"detail":"sequence number was reused"}"#)),
            "",
            "sequence number was reused\nhint: does another program",
        ),
        (
            "gone",
            faulty("retrieve_future", 5, answer(410, r#"{"detail":"expired"}"#)),
            "",
            "has lost the computation of",
        ),
        (
            "unreadable",
            Tinker::with_faults(&base, Scale::Sum, broken),
            "",
            "hint: this program speaks the protocol",
        ),
        (
            "failed",
            faulty(
                "retrieve_future",
                3,
                answer(200, r#"{"error":"out of memory","category":"server"}"#),
            ),
            "",
            "out of memory",
        ),
        (
            "no JSON",
            faulty("forward_backward", 1, answer(500, "Internal Server Error")),
            "",
            "(status 500): Internal Server Error",
        ),
        (
            "long wait",
            faulty(
                "create_session",
                1,
                Fault::Answer(429, vec![("retry-after", "3600")], "slow down"),
            ),
            "",
            "slow down",
        ),
        (
            "not finite",
            faulty("retrieve_future", 7, answer(200, r#"{"metrics":{"skyrl.ai/grad_norm":null}}"#)),
            "",
            "gradient at the Tinker server was not finite",
        ),
    ];
    for (name, server, more, expected) in cases {
        let found = refused(&folder.path().join(name.replace(' ', "-")), &base, &server, more);
        assert!(found.contains(expected), "{name}: {found}");
    }
}

#[test]
fn a_killed_run_goes_on_as_if_it_had_not_been() {
    const STEPS: usize = 6;
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let server = Tinker::start(&base, Scale::Jax);
    let more = at(&server, "skyrl-jax", "");
    let expected = grpo(&recipe(&folder.path().join("whole"), &base, STEPS, &more), false);

    let cut = folder.path().join("cut");
    let recipe = recipe(&cut, &base, STEPS, &more);
    let mut killed = command().args(["train", "grpo", "--config"]).arg(&recipe).spawn().unwrap();
    wait_until(&mut killed, || metrics(&cut).len() > 1);
    killed.kill().unwrap(); // SIGKILL
    killed.wait().unwrap();
    assert!(metrics(&cut).len() < STEPS);
    let resumed = grpo(&recipe, true);
    assert!(weights(&expected) == weights(&resumed), "not bit for bit");
}

#[test]
fn a_server_that_was_started_again_is_gone_on_with() {
    const STEPS: usize = 6;
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let server = Tinker::start(&base, Scale::Sum);
    let whole = recipe(&folder.path().join("whole"), &base, STEPS, &at(&server, "sum", ""));
    let expected = grpo(&whole, false);

    let cut = folder.path().join("cut");
    let quick = "outage_ms = 500";
    let first = recipe(&cut, &base, STEPS, &at(&server, "sum", quick));
    let mut run = command().args(["train", "grpo", "--config"]).arg(&first).spawn().unwrap();
    wait_until(&mut run, || metrics(&cut).len() > 1);
    let server = server.restarted(&base, Scale::Sum);
    let found = said(&run.wait_with_output().unwrap());
    assert!(found.contains("--resume"), "{found}");
    assert!(metrics(&cut).len() < STEPS);
    let second = recipe(&cut, &base, STEPS, &at(&server, "sum", ""));
    assert!(weights(&expected) == weights(&grpo(&second, true)), "not bit for bit");

    // A server with other files does not have its half of the checkpoint.
    let server = Tinker::start(&base, Scale::Sum);
    let third = recipe(&cut, &base, STEPS + 1, &at(&server, "sum", ""));
    let found = said(&super::run("grpo", &third, true));
    assert!(found.contains("another database or folder of checkpoints"), "{found}");
}

#[test]
fn a_run_does_not_change_its_trainer() {
    let folder = tempfile::tempdir().unwrap();
    let base = base(folder.path());
    let runs = folder.path().join("grpo");
    grpo(&recipe(&runs, &base, 1, LORA), false);
    let server = Tinker::start(&base, Scale::Sum);
    let other = recipe(&runs, &base, 2, &at(&server, "sum", ""));
    let found = said(&run("grpo", &other, true));
    assert!(found.contains("`trainer"), "{found}");
    let mut allowed = command();
    allowed.args(["train", "grpo", "--resume", "--allow-changes", "--config"]).arg(&other);
    let found = said(&allowed.output().unwrap());
    assert!(found.contains("was not made with `trainer.kind = \"tinker\"`"), "{found}");
}
