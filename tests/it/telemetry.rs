//! Traces at a collector, logs, and what neither may contain.

use std::collections::HashMap;
use std::path::Path;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::{Value, json};

use crate::loopback::{Loopback, Script};
use crate::process::{Process, command, configuration, run};
use crate::server::client;

const QUESTION: &str = "Which colour has the planted zebra?";
const REPLY: &str = "The planted zebra is striped.";
/// Secrets of the endpoint, the collector and the caller, which must not leak.
const SECRETS: [&str; 2] = ["sk-endpoint-0123456789abcdef", "collector-0123456789abcdef"];

/// A large model that also acts as the policy: it asks once, and answers.
async fn upstream() -> Loopback {
    Loopback::answering(|request| {
        let messages = request.json()["messages"].as_array().map_or(0, Vec::len);
        match (request.prompt().contains("<interaction_prompt>"), messages) {
            (true, 1) => Script::reply(&format!(
                "<think>ask</think><interaction_prompt>{QUESTION}</interaction_prompt>"
            )),
            (_, 3) => Script::reply("<think>so</think><answer>striped</answer>"),
            _ => Script::reply(REPLY),
        }
    })
    .await
}

async fn collector() -> Loopback {
    Loopback::answering(|_| Script::bytes(200, "application/x-protobuf", Vec::new())).await
}

fn config(folder: &Path, upstream: &Loopback, collector: &Loopback, contents: bool) -> String {
    let top = format!(
        "[telemetry]\notlp_url = {:?}\nheaders_env = \"COLLECTOR\"\ncontents = {contents}\n\
         [policy]\nengine = \"large_model\"",
        collector.url().trim_end_matches("/v1"),
    );
    let endpoint = "api_key_env = \"ENDPOINT\"\nretries = { max = 0 }";
    configuration(folder, upstream, &top, endpoint).to_str().unwrap().to_owned()
}

fn serve(config: &str, levels: &str) -> Process {
    let mut command = command(&["serve", "--listen", "127.0.0.1:0", "--config", config]);
    command.env("ENDPOINT", SECRETS[0]).env("COLLECTOR", format!("api-key={}", SECRETS[1]));
    Process::start(command.env("RUST_LOG", levels))
}

fn spans(collector: &Loopback) -> Vec<Span> {
    let requests = collector.requests();
    let requests = requests.iter().map(|request| {
        assert_eq!(request.path, "/v1/traces");
        assert_eq!(request.header("api-key"), Some(SECRETS[1]));
        ExportTraceServiceRequest::decode(&request.body[..]).unwrap()
    });
    let resources = requests.flat_map(|request| request.resource_spans);
    resources.flat_map(|spans| spans.scope_spans).flat_map(|scope| scope.spans).collect()
}

fn says(collector: &Loopback, text: &str) -> bool {
    let text = text.as_bytes();
    let bodies = collector.requests().into_iter().map(|request| request.body);
    bodies.into_iter().any(|body| body.windows(text.len()).any(|window| window == text))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_does_not_decide_what_is_exported() {
    let (upstream, collector) = (upstream().await, collector().await);
    let folder = tempfile::tempdir().unwrap();
    let path = config(folder.path(), &upstream, &collector, false);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("[telemetry]\n", "[telemetry]\nshare = 0.0\n")).unwrap();
    let mut server = serve(&path, "info");
    for flags in ["01", "00"] {
        let trace = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        let request = client().post(format!("{}/v1/solve", server.url));
        let request = request.header("traceparent", trace).json(&json!({"question": QUESTION}));
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
    assert_eq!(server.stop(), 0);
    assert_eq!(spans(&collector).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_have_their_parents_and_contents_only_where_they_are_wanted() {
    let client = client();
    for (contents, stream) in [(false, false), (true, true)] {
        let (upstream, collector) = (upstream().await, collector().await);
        let folder = tempfile::tempdir().unwrap();
        let mut server = serve(&config(folder.path(), &upstream, &collector, contents), "info");
        let request = client.post(format!("{}/v1/solve", server.url));
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let request = request
            .header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"))
            .header("x-request-id", "mine-7")
            .json(&json!({"question": QUESTION, "stream": stream}));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        let text = response.text().await.unwrap();
        assert!(text.contains("striped"), "{text}");
        assert_eq!(server.stop(), 0);

        let all = spans(&collector);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let ours: Vec<_> = all.iter().filter(|span| hex(&span.trace_id) == trace).collect();
        let names: HashMap<_, _> =
            ours.iter().map(|span| (hex(&span.span_id), span.name.as_str())).collect();
        let mut tree: Vec<_> = ours
            .iter()
            .map(|span| {
                let parent = hex(&span.parent_span_id);
                let parent = names.get(&parent).map_or(parent.clone(), |name| (*name).to_owned());
                format!("{} < {parent}", span.name)
            })
            .collect();
        tree.sort();
        assert_eq!(
            tree,
            [
                "POST /v1/solve < b7ad6b7169203331",
                "chat test < turn",
                "chat test < turn",
                "chat test < turn",
                "invoke_agent prompt-r1 < POST /v1/solve",
                "turn < invoke_agent prompt-r1",
                "turn < invoke_agent prompt-r1",
            ]
        );
        for text in [QUESTION, REPLY] {
            assert_eq!(says(&collector, text), contents, "{text}");
            assert!(!server.log.text().contains(text), "{}", server.log.text());
        }
        assert!(says(&collector, "gen_ai.usage.output_tokens"));
        assert!(says(&collector, "mine-7"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_down_does_no_harm_and_is_logged() {
    let (upstream, collector) = (upstream().await, collector().await);
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), &upstream, &collector, false);
    drop(collector);
    let mut server = serve(&config, "info");
    let client = client();
    for _ in 0..20 {
        let request = client.post(format!("{}/v1/solve", server.url));
        let response = request.json(&json!({"question": QUESTION})).send().await.unwrap();
        assert_eq!(response.status(), 200);
    }
    assert_eq!(server.stop(), 0);
    let log = server.log.text();
    let lines: Vec<Value> =
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let is_logged = |line: &Value| {
        line["level"] == "ERROR" && line["fields"]["name"] == "BatchSpanProcessor.ExportError"
    };
    assert!(lines.iter().any(is_logged), "{log}");
    assert!(!log.contains(SECRETS[1]), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_nowhere_to_be_seen() {
    // The endpoint repeats the key it got, as some do.
    let upstream = Loopback::answering(|request| {
        // A passed-through response is unchanged.
        let is_passed = request.prompt().is_empty();
        let key = request.header("authorization").filter(|_| !is_passed);
        Script::error(401, &format!("wrong key {key:?}"))
    })
    .await;
    let collector = collector().await;
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), &upstream, &collector, true);
    let made = command(&["keys", "create", "web", "--config", &config]).output().unwrap();
    let key = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    assert!(key.starts_with("pr1-"), "{key}");
    let mut server = serve(&config, "debug,prompt_r1=trace,hyper=trace,reqwest=trace");
    let client = client();
    let mut seen = String::new();
    let solve = json!({"question": "a"});
    let pass = json!({"model": "m", "messages": []});
    let unknown = json!({"question": "a", "zebra": key});
    for (path, body) in [
        ("/v1/solve", &solve),
        ("/v1/chat/completions", &pass),
        ("/v1/embeddings", &pass),
        ("/v1/solve", &unknown),
    ] {
        for key in [key.as_str(), &key[..key.len() - 1], ""] {
            let request = client.post(format!("{}{path}", server.url)).bearer_auth(key);
            let response = request.json(body).send().await.unwrap();
            seen += &format!("{:?}", response.headers());
            seen += &response.text().await.unwrap();
        }
    }
    for path in ["/metrics", "/readyz", "/openapi.json"] {
        let response = client.get(format!("{}{path}", server.url)).send().await.unwrap();
        seen += &response.text().await.unwrap();
    }
    assert_eq!(server.stop(), 0);
    let log = server.log.text();
    assert!(log.contains("\"level\":\"DEBUG\""), "the log is not at its fullest:\n{log}");
    seen += &log;
    seen += &run(&["check", "--print", &config]).1;
    seen += &run(&["keys", "list", "--config", &config]).1;
    assert!(seen.contains("wrong key"), "{seen}");
    assert!(!spans(&collector).is_empty());
    let secret = key.rsplit('-').next().unwrap();
    for secret in [SECRETS[0], SECRETS[1], secret, &secret[..32]] {
        let at = seen.find(secret);
        let around = at.map(|at| &seen[at.saturating_sub(200)..(at + 100).min(seen.len())]);
        assert_eq!(around, None);
        assert!(!says(&collector, secret), "in the traces");
        let is_sent = upstream.requests().iter().any(|request| {
            String::from_utf8_lossy(&request.body).contains(secret)
                || request.headers.iter().any(|(_, value)| value.contains(secret))
        });
        // The endpoint's own key is sent to the endpoint only.
        assert_eq!(is_sent, secret == SECRETS[0], "at the endpoint");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_tell_requests_apart() {
    let (upstream, collector) = (upstream().await, collector().await);
    let folder = tempfile::tempdir().unwrap();
    let server =
        serve(&config(folder.path(), &upstream, &collector, false), "prompt_r1=debug,info");
    let client = client();
    let request = client.get(format!("{}/livez", server.url)).header("x-request-id", "mine-8");
    request.send().await.unwrap();
    let log = server.log.wait_for("mine-8");
    let line = log.lines().find(|line| line.contains("mine-8")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["span"]["id"], "mine-8");
    assert_eq!(line["fields"]["message"], "answered");
}
