//! What operators rely on.

use async_trait::async_trait;
use prompt_r1::policy::{Policy, PolicyError, PolicyOpening, PolicySession, ScriptedPolicy};
use serde_json::{Value, json};

use crate::loopback::Loopback;
use crate::process::run_unread;
use crate::server::Setup;

/// A policy that is not ready yet, and panics when it is used.
struct Broken;

#[async_trait]
impl Policy for Broken {
    fn name(&self) -> &str {
        "broken"
    }

    async fn open(
        &self,
        _opening: PolicyOpening<'_>,
    ) -> Result<Box<dyn PolicySession>, PolicyError> {
        panic!("a secret of the inside")
    }

    async fn is_ready(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn alive_is_not_ready() {
    let upstream = Loopback::start().await;
    let ready = Setup::relay().start(&upstream).await;
    let broken = Setup::policy(Broken).start(&upstream).await;
    for (path, status) in [("/livez", 200), ("/readyz", 503), ("/health", 503)] {
        assert_eq!(ready.get(path).await.status(), 200, "{path}");
        assert_eq!(broken.get(path).await.status(), status, "{path}");
    }
}

#[tokio::test]
async fn a_panic_shows_nothing_of_the_inside() {
    let upstream = Loopback::start().await;
    let server = Setup::policy(Broken).start(&upstream).await;
    let chat = |stream: bool| {
        json!({"model": "prompt-r1", "stream": stream,
               "messages": [{"role": "user", "content": "a"}]})
    };
    let (status, error) = server.json("/v1/chat/completions", chat(false)).await;
    assert_eq!((status, &error["error"]["code"]), (500, &json!("internal_error")));
    assert!(!error.to_string().contains("secret"), "{error}");
    let text = server.ask("/v1/chat/completions", chat(true)).await.text().await.unwrap();
    assert!(text.contains("internal_error") && !text.contains("secret"), "{text}");
    assert!(!text.contains("[DONE]"), "{text}");
    let solve = json!({"question": "a", "stream": true});
    let text = server.ask("/v1/solve", solve).await.text().await.unwrap();
    assert!(text.contains("event: error\ndata: ") && !text.contains("secret"), "{text}");
    // The slots were released, and the server still works.
    assert_eq!(server.get("/livez").await.status(), 200);
}

#[tokio::test]
async fn request_ids() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let long = "x".repeat(200);
    for (given, echoed) in [("mine-1", true), ("with space", false), (&long, false)] {
        let url = format!("{}/livez", server.url);
        let response = server.client.get(url).header("x-request-id", given).send().await.unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap();
        assert_eq!(id == given, echoed, "{given}: {id}");
    }
    let response = server.ask("/v1/solve", json!({})).await;
    assert_eq!(response.headers()["x-request-id"].len(), 36);
}

#[tokio::test]
async fn routes_that_are_not_there() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let response = server.get("/v2/solve").await;
    assert_eq!(response.status(), 404);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "unknown_route");
    let response = server.get("/v1/solve").await;
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()["allow"], "POST");
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "wrong_method");
}

#[tokio::test]
async fn every_series_is_there_from_the_start() {
    let upstream = Loopback::start().await;
    let server = Setup::policy(ScriptedPolicy::turns([])).start(&upstream).await;
    let text = server.get("/metrics").await.text().await.unwrap();
    // Series of one name have no fixed order.
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    insta::assert_snapshot!(lines.join("\n"));
}

#[tokio::test]
async fn what_is_counted() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    server.json("/v1/solve", json!({"question": "a"})).await;
    let streamed = json!({"model": "prompt-r1", "stream": true,
                          "messages": [{"role": "user", "content": "a"}]});
    server.ask("/v1/chat/completions", streamed).await.text().await.unwrap();
    server.json("/v1/embeddings", json!({"model": "x"})).await;
    let table = [
        ("requests_total{route=\"/v1/solve\",status=\"200\"}", 1.0),
        ("requests_total{route=\"/v1/embeddings\",status=\"200\"}", 1.0),
        ("request_duration_seconds_count{route=\"/v1/solve\"}", 1.0),
        ("request_duration_seconds_count{route=\"/v1/chat/completions\"}", 1.0),
        ("overhead_seconds_count{route=\"/v1/solve\"}", 1.0),
        ("overhead_seconds_count{route=\"/v1/embeddings\"}", 1.0),
        ("time_to_first_token_seconds_count{route=\"/v1/chat/completions\"}", 1.0),
        ("upstream_attempts_total{outcome=\"success\",code=\"\"}", 3.0),
        ("tokens_total{role=\"large_model\",kind=\"prompt\",policy=\"scripted\"}", 22.0),
        ("tokens_total{role=\"large_model\",kind=\"completion\",policy=\"scripted\"}", 14.0),
        ("episodes_total{finish_reason=\"answered\",policy=\"scripted\"}", 2.0),
        ("episode_turns_sum{policy=\"scripted\"}", 4.0),
        ("client_disconnects_total", 0.0),
    ];
    for (series, value) in table {
        let series = format!("prompt_r1_{series}");
        server.wait_for_metric(&series, value).await;
        assert_eq!(server.metric(&series).await, value, "{series}");
    }
}

#[tokio::test]
async fn a_container_can_ask_how_its_server_is() {
    let upstream = Loopback::start().await;
    let ready = Setup::relay().start(&upstream).await;
    let broken = Setup::policy(Broken).start(&upstream).await;
    let ask = async |url: &str| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_server"));
        let address = url.strip_prefix("http://").unwrap();
        let output = command.args(["health", "--listen", address]).output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(ask(&ready.url).await, (Some(0), String::new()));
    let (code, said) = ask(&broken.url).await;
    assert!(code == Some(1) && said.contains("503"), "{code:?}: {said}");
    let (code, said) = ask("http://127.0.0.1:1").await;
    assert!(code == Some(1) && said.contains("no server answers"), "{code:?}: {said}");
}

/// As with `server openapi | head -1`.
#[test]
fn output_that_nobody_reads_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("server.toml");
    let endpoint = "[large_models.m]\nurl = 'http://127.0.0.1:9/v1'\nmodel = 'm'\n";
    std::fs::write(&file, format!("schema_version = 1\n{endpoint}")).unwrap();
    let (file, question) = (file.to_str().unwrap(), "What is Grania's president's birthplace?");
    for arguments in [
        &["openapi"][..],
        &["openapi", "--runs"],
        &["env", "--openapi"],
        &["completions", "bash"],
        &["check", file],
        &["check", file, "--print"],
        &["solve", question],
        &["solve", question, "--json"],
    ] {
        let (status, said) = run_unread(arguments);
        assert!(status == 0 && !said.contains("panicked"), "{arguments:?}: {said}");
    }
}
