//! Training on whole episodes with the bundled models: external rewards, and a killed run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::{Json, Router, routing::post};
use serde_json::{Value, json};

use super::{run, server, wait_until, weights, written};

const EPISODES: usize = 16;

fn recipe(folder: &Path, steps: usize, more: &str) -> PathBuf {
    let text = format!(
        r#"
        steps = {steps}
        groups_per_step = 4
        group_size = 4
        updates_per_step = 2
        checkpoint_every = 2
        model = {{ path = "models/policy-warm" }}
        large_model = {{ path = "models/large-model" }}
        tasks = {{ kind = "world", questions = [{{ chain = 2 }}] }}
        schedule = {{ peak = 1e-4, warmup_steps = 0 }}
        limits = {{ max_turns = 4, max_turn_tokens = 48 }}
        eval = {{ every = 1000, tasks = 4 }}
        {more}
        "#
    );
    super::configured(folder, 5, &text)
}

fn trained(recipe: &Path, resume: bool) -> PathBuf {
    written(run("grpo", recipe, resume))
}

fn metrics(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("run/metrics.jsonl")).unwrap_or_default();
    // The last line may be incomplete while the run is active.
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn a_program_can_make_the_reward() {
    let folder = tempfile::tempdir().unwrap();
    // The number of bytes of its input, which contains the whole episode.
    let reward = r#"reward = { external = { command = ["wc", "-c"] } }"#;
    let model = trained(&recipe(folder.path(), 2, reward), false);
    let steps = metrics(folder.path());
    assert_eq!(steps.len(), 2);
    for step in steps {
        assert!(step["reward"].as_f64().unwrap() > 200.0, "{step}");
        assert!(step["gradient_norm"].as_f64().unwrap() > 0.0, "{step}");
    }
    assert!(weights(&model) != weights(Path::new("models/policy-warm")));
}

#[test]
fn a_server_can_make_the_reward() {
    let asked = Arc::new(AtomicUsize::new(0));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}/reward", listener.local_addr().unwrap());
    let counted = Arc::clone(&asked);
    let reward = move |Json(attempt): Json<Value>| async move {
        counted.fetch_add(1, Ordering::Relaxed);
        assert!(attempt["task"]["golds"][0].is_string(), "{attempt}");
        // Short episodes are worth more.
        Json(json!({ "reward": -(attempt["turns"].as_array().unwrap().len() as f64) }))
    };
    runtime
        .spawn(axum::serve(listener, Router::new().route("/reward", post(reward))).into_future());

    let folder = tempfile::tempdir().unwrap();
    let reward = format!("reward = {{ external = {{ url = {url:?} }} }}");
    trained(&recipe(folder.path(), 2, &reward), false);
    let steps = metrics(folder.path());
    assert_eq!(steps.len(), 2);
    for step in steps {
        let (reward, turns) = (step["reward"].as_f64().unwrap(), step["turns"].as_f64().unwrap());
        assert!((reward + turns).abs() < 1e-9, "{step}");
    }
    // Evaluations before and after use it too.
    assert!(asked.load(Ordering::Relaxed) >= 2 * EPISODES);
}

#[test]
fn a_reward_that_fails_ends_the_run_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let more = r#"
        reward = { external = { command = ["sh", "-c", "echo the gold is missing >&2; exit 3"] } }
        outage = { retries = 0 }
    "#;
    let output = run("grpo", &recipe(folder.path(), 2, more), false);
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("the gold is missing"), "{error}");
}

/// Replaces a part of a recipe.
fn edit(recipe: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(recipe).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(recipe, text.replace(from, to)).unwrap();
}

#[test]
fn turns_that_their_limit_cuts_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path(), 2, "");
    // No turn of the policy is that short.
    edit(&recipe, "max_turn_tokens = 48", "max_turn_tokens = 2");
    trained(&recipe, false);
    let steps = metrics(folder.path());
    assert_eq!(steps.len(), 2);
    for step in steps {
        assert_eq!(step["cut_turns"], 1.0, "{step}");
    }
    let summary = std::fs::read_to_string(folder.path().join("run/summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["means"]["cut_turns"], 1.0, "{summary}");
}

#[test]
fn an_outage_names_what_opened_the_circuit_breaker() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(folder.path(), 2, "outage = { pause_ms = 10, retries = 2 }");
    edit(
        &recipe,
        r#"large_model = { path = "models/large-model" }"#,
        r#"large_model = { endpoint = { url = "http://127.0.0.1:1/v1", model = "m", api_key_env = "", retries = { max = 0 }, breaker = { failures = 2 } } }"#,
    );
    edit(&recipe, "eval = { every = 1000, tasks = 4 }", "eval = { tasks = 0 }");
    let output = run("grpo", &recipe, false);
    let text = String::from_utf8_lossy(&output.stderr);
    let error = text.split("the last failure: ").nth(1).unwrap_or_else(|| panic!("{text}"));
    assert!(error.starts_with("cannot reach the large model"), "{error}");
    assert!(error.to_lowercase().contains("refused"), "{error}");
}

#[test]
fn a_killed_run_goes_on_to_the_very_weights_of_one_that_was_not() {
    for max_policy_lag in [0, 1, 2] {
        killed_and_resumed(&format!("max_policy_lag = {max_policy_lag}"));
    }
}

fn killed_and_resumed(more: &str) {
    const STEPS: usize = 12;
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let expected = trained(&recipe(whole.path(), STEPS, more), false);

    let recipe = recipe(cut.path(), STEPS, more);
    let mut killed = server().args(["train", "grpo", "--config"]).arg(&recipe).spawn().unwrap();
    wait_until(&mut killed, || metrics(cut.path()).len() > 2);
    killed.kill().unwrap(); // SIGKILL
    killed.wait().unwrap();
    assert!(metrics(cut.path()).len() < STEPS);

    let resumed = trained(&recipe, true);
    let steps: Vec<u64> =
        metrics(cut.path()).iter().map(|step| step["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=STEPS as u64).collect::<Vec<_>>(), "none is missing, none there twice");
    assert!(weights(&expected) == weights(&resumed), "{more}: not bit for bit");
}
