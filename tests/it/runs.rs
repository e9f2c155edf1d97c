//! The web page over a folder of runs: next to a run that trains, and alone.

use std::path::Path;
use std::process::Stdio;

use prompt_r1::http::{ServerConfig, runs_openapi_json, runs_router, serve};
use prompt_r1::playground::{RUNS, STYLE_LINK};
use prompt_r1::runs::Runs;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::eventually::{LIMIT, eventually};

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// A folder with a run and an evaluation, and its server.
async fn start() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("a run");
    write(
        &run.join("metrics.jsonl"),
        "{\"step\":1,\"reward\":0.25}\n{\"step\":2,\"reward\":null}\n",
    );
    write(&run.join("evaluations/step-00000002.json"), "{\"step\":2,\"shown\":[]}");
    write(&run.join("samples/step-00000001.json"), "{\"step\":1,\"shown\":[]}");
    write(&folder.path().join("eval/report.html"), "<script>parent.hacked = 1</script>");
    let runs = Runs::open(folder.path()).unwrap();
    let config = ServerConfig::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = runs_router(runs, &config);
    tokio::spawn(
        async move { serve(listener, router, &config, None, std::future::pending()).await },
    );
    (folder, url)
}

async fn get(url: &str) -> (u16, Value) {
    let response = reqwest::get(url).await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn runs_are_read_while_they_are_written() {
    let (folder, url) = start().await;
    let (status, listed) = get(&format!("{url}/v1/runs")).await;
    assert_eq!(status, 200, "{listed}");
    let of = |name: &str| {
        let runs = listed["data"].as_array().unwrap();
        runs.iter().find(|run| run["name"] == name).unwrap().clone()
    };
    assert_eq!(
        (&of("a run")["kind"], &of("a run")["has_report"]),
        (&json!("training"), &json!(false))
    );
    assert_eq!(
        (&of("eval")["kind"], &of("eval")["has_report"]),
        (&json!("evaluation"), &json!(true))
    );

    let metrics = format!("{url}/v1/runs/a%20run/metrics");
    let (_, first) = get(&metrics).await;
    assert_eq!(first["data"], json!([{"step": 1, "reward": 0.25}, {"step": 2, "reward": null}]));
    let path = folder.path().join("a run/metrics.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    write(&path, &format!("{text}{{\"step\":3}}\n"));
    let (_, more) = get(&format!("{metrics}?from={}", first["next"])).await;
    assert_eq!(more["data"], json!([{"step": 3}]));

    assert_eq!(get(&format!("{url}/v1/runs/a%20run/evaluations")).await.1["data"], json!([2]));
    let evaluation = get(&format!("{url}/v1/runs/a%20run/evaluations/2")).await;
    assert_eq!(evaluation, (200, json!({"step": 2, "shown": []})));
    assert_eq!(get(&format!("{url}/v1/runs/a%20run/samples")).await.1["data"], json!([1]));
    let sample = get(&format!("{url}/v1/runs/a%20run/samples/1")).await;
    assert_eq!(sample, (200, json!({"step": 1, "shown": []})));
    for (path, expected) in [
        ("v1/runs/none/metrics", 404),
        ("v1/runs/..%2F..%2Fetc/metrics", 404),
        ("v1/runs/%2E%2E/metrics", 404),
        ("v1/runs/a%20run/report", 404),
        ("v1/runs/a%20run/evaluations/3", 404),
        ("v1/runs/a%20run/evaluations/x", 400),
        ("v1/runs/a%20run/samples/2", 404),
        ("v1/runs/a%20run/samples/x", 400),
        ("v1/runs/none/samples", 404),
        ("v1/runs/a%20run/metrics?from=-1", 400),
        ("v1/runs/a%20run/metrics?to=1", 400),
        ("v1/runs/%FF/metrics", 400),
        ("v1/solve", 404),
    ] {
        let (status, error) = get(&format!("{url}/{path}")).await;
        assert_eq!(status, expected, "{path}: {error}");
    }
}

#[tokio::test]
async fn the_page_is_locked_down_and_reports_have_no_origin() {
    let (_folder, url) = start().await;
    for file in RUNS {
        let response = reqwest::get(format!("{url}{}", file.path)).await.unwrap();
        assert_eq!(response.status(), 200, "{}", file.path);
        let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let content = response.text().await.unwrap();
        match file.content.split_once(STYLE_LINK) {
            Some((before, after)) => {
                assert!(content.starts_with(before) && content.ends_with(after))
            }
            None => assert_eq!(content, file.content),
        }
    }
    let report = reqwest::get(format!("{url}/v1/runs/eval/report")).await.unwrap();
    let policy = report.headers()["content-security-policy"].to_str().unwrap();
    let is_alone = policy.starts_with("sandbox allow-scripts;") && !policy.contains("same-origin");
    assert!(is_alone && policy.contains("default-src 'none'"), "{policy}");

    // Foreign pages cannot read runs, under any host name.
    let client = reqwest::Client::new();
    for (name, value) in [
        ("host", "evil.example"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let asked = client.get(format!("{url}/v1/runs")).header(name, value);
        assert_eq!(asked.send().await.unwrap().status(), 403, "{name}: {value}");
    }
}

#[tokio::test]
async fn its_document_is_committed_and_served() {
    let (_folder, url) = start().await;
    let served = reqwest::get(format!("{url}/openapi.json")).await.unwrap().text().await.unwrap();
    assert_eq!(served, runs_openapi_json());
    let committed = std::fs::read_to_string("openapi/runs.json").unwrap_or_default();
    assert!(
        committed == format!("{served}\n"),
        "`openapi/runs.json` is out of date\nhint: run `cargo run -- openapi --runs > openapi/runs.json`"
    );
}

/// A run that does not end soon.
const SFT: &str = r#"
schema_version = 1
output = "unused"
steps = 1000000
batch_size = 2

[schedule]
peak = 1e-3

[data]
kind = "world_demonstrations"
count = 50

[model.new]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 16
max_position_embeddings = 512
templates = "models/recipes/templates"
"#;

/// The address that a command prints.
async fn address(child: &mut Child) -> String {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let found = async {
        let mut all = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some((_, url)) = line.split_once("the runs are shown at ") {
                return url.to_owned();
            }
            all.push_str(&line);
        }
        panic!("{all}");
    };
    let url = tokio::time::timeout(LIMIT, found).await.unwrap();
    // The rest of its output is drained.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    url
}

fn server(args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    command.args(args).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().unwrap()
}

#[tokio::test]
async fn a_run_that_trains_shows_itself() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("mine & yours");
    let config = folder.path().join("sft.toml");
    write(&config, SFT);
    let (config, out) = (config.display().to_string(), output.display().to_string());
    let mut child = server(&["train", "sft", "--config", &config, "--output", &out, "--ui"]);
    let url = address(&mut child).await;
    let (base, query) = url.split_once("/?").unwrap();
    assert_eq!(query, "run=mine%20%26%20yours");
    let metrics = format!("{base}/v1/runs/mine%20%26%20yours/metrics");
    let has_steps = async || get(&metrics).await.1["next"].as_u64().is_some_and(|next| next > 0);
    eventually("a step with its metrics", has_steps).await;
    let (_, rows) = get(&metrics).await;
    assert!(rows["data"][0]["loss"].is_number(), "{rows}");
    child.kill().await.unwrap();

    let mut child = server(&["runs", &folder.path().display().to_string()]);
    let url = address(&mut child).await;
    let (_, listed) = get(&format!("{url}v1/runs")).await;
    assert_eq!(listed["data"][0]["name"], "mine & yours");
}

#[tokio::test]
async fn other_machines_are_kept_out() {
    let folder = tempfile::tempdir().unwrap();
    let child = server(&["runs", &folder.path().display().to_string(), "--listen", "0.0.0.0:0"]);
    let ended = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(
        ended.status.code() == Some(64) && said.contains("hint: listen on 127.0.0.1"),
        "{said}"
    );
}
