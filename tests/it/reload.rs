//! Reloads without a restart, and a canary policy.

use std::sync::Arc;
use std::time::Duration;

use prompt_r1::policy::{Policy, ScriptedPolicy};
use serde_json::{Value, json};

use crate::eventually::eventually;
use crate::loopback::{Gate, Loopback, Script};
use crate::process::{Process, configuration, run};
use crate::server::{Setup, client, relay};

fn named(name: &str) -> Setup {
    Setup::policy(relay().named(name))
}

fn ask() -> Value {
    json!({"question": "a"})
}

#[tokio::test]
async fn requests_in_flight_finish_by_what_they_started_with_and_then_it_is_dropped() {
    let upstream = Loopback::start().await;
    let first: Arc<dyn Policy> = Arc::new(relay().named("first"));
    let watched = Arc::downgrade(&first);
    let mut setup = named("first");
    setup.policy = first;
    let server = setup.start(&upstream).await;
    let gate = Gate::default();
    upstream.then(Script::reply("late").held(&gate));
    let in_flight = tokio::spawn(server.post("/v1/solve", &ask()).send());
    upstream.wait_for_requests(1).await;

    server.handle.replace(named("second").serving(&upstream, &server.metrics));
    let (status, reply) = server.json("/v1/solve", ask()).await;
    assert_eq!((status, &reply["policy"]), (200, &json!("second")));
    // It is still in use.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(watched.upgrade().is_some());

    gate.open_once();
    let late = in_flight.await.unwrap().unwrap().json::<Value>().await.unwrap();
    assert_eq!((&late["policy"], &late["answer"]), (&json!("first"), &json!("late")));
    eventually("the end of the first", async || watched.strong_count() == 0).await;
}

#[tokio::test]
async fn no_request_fails_while_policies_are_replaced() {
    let upstream = Loopback::start().await;
    let server = named("policy-0").start(&upstream).await;
    let asked: Vec<_> = (0..8)
        .map(|_| {
            let request = server.post("/v1/solve", &ask());
            tokio::spawn(async move {
                let mut policies = Vec::new();
                for _ in 0..40 {
                    let response = request.try_clone().unwrap().send().await.unwrap();
                    assert_eq!(response.status(), 200);
                    let policy = response.headers()["x-prompt-r1-policy"].to_str().unwrap();
                    policies.push(policy.to_owned());
                }
                policies
            })
        })
        .collect();
    for round in 1..=20 {
        let setup = named(&format!("policy-{round}"));
        server.handle.replace(setup.serving(&upstream, &server.metrics));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for policies in asked {
        let policies = policies.await.unwrap();
        let number = |name: &String| name.strip_prefix("policy-").unwrap().parse::<u32>().unwrap();
        assert!(policies.is_sorted_by_key(number), "{policies:?}");
    }
    let (_, last) = server.json("/v1/solve", ask()).await;
    assert_eq!(last["policy"], "policy-20");
}

#[tokio::test]
async fn a_share_of_the_traffic_goes_to_the_canary() {
    let upstream = Loopback::start().await;
    let mut setup = named("main");
    setup.canary = Some((0.25, Arc::new(ScriptedPolicy::turns(["<answer>b</answer>"]).named("b"))));
    let server = setup.start(&upstream).await;
    let mut tried = 0;
    for _ in 0..200 {
        let (status, reply) = server.json("/v1/solve", ask()).await;
        assert_eq!(status, 200);
        tried += u32::from(reply["policy"] == "b");
    }
    // Five standard deviations about 50.
    assert!((20..=80).contains(&tried), "{tried}");
    let counted = |policy: &str| {
        format!("prompt_r1_episodes_total{{finish_reason=\"answered\",policy=\"{policy}\"}}")
    };
    assert_eq!(server.metric(&counted("b")).await, f64::from(tried));
    assert_eq!(server.metric(&counted("main")).await, f64::from(200 - tried));
    assert_eq!(server.metric("prompt_r1_episode_turns_sum{policy=\"b\"}").await, f64::from(tried));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_model_plays_two_policies_by_the_names_that_they_are_given() {
    let upstream = Loopback::answering(|_| Script::reply("<answer>yes</answer>")).await;
    let folder = tempfile::tempdir().unwrap();
    let top = "canary.share = 0.0\n\
               canary.policy = { engine = \"large_model\", name = \"next\" }\n\
               policy = { engine = \"large_model\", name = \"my-planner\" }";
    let server = Process::serve(&configuration(folder.path(), &upstream, top, ""));
    let client = client();
    let models = client.get(format!("{}/v1/models", server.url)).send().await.unwrap();
    let models = models.json::<Value>().await.unwrap();
    assert_eq!(models["data"][0]["policies"], json!(["my-planner", "next", "direct"]));
    for (body, policy) in
        [(ask(), "my-planner"), (json!({"question": "a", "policy": "next"}), "next")]
    {
        let asked = client.post(format!("{}/v1/solve", server.url)).json(&body);
        let reply = asked.send().await.unwrap().json::<Value>().await.unwrap();
        assert_eq!((&reply["policy"], &reply["large_model"]), (&json!(policy), &json!("test")));
        assert_eq!(reply["answer"], "yes", "{reply}");
    }
    let metrics = client.get(format!("{}/metrics", server.url)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for policy in ["my-planner", "next"] {
        let series =
            format!("prompt_r1_episodes_total{{finish_reason=\"answered\",policy=\"{policy}\"}} 1");
        assert!(metrics.contains(&series), "{metrics}");
    }
}

#[tokio::test]
async fn a_request_can_name_its_policy() {
    let upstream = Loopback::start().await;
    let mut setup = named("main");
    setup.canary = Some((0.0, Arc::new(ScriptedPolicy::turns(["<answer>b</answer>"]).named("b"))));
    let server = setup.start(&upstream).await;
    let chat = |options: Value| {
        json!({"model": "prompt-r1", "messages": [{"role": "user", "content": "a"}],
               "prompt_r1": options})
    };
    let solve = |policy: &str| json!({"question": "a", "policy": policy});
    // The field goes before the header.
    let table = [
        ("/v1/solve", ask(), None, "main"),
        ("/v1/solve", ask(), Some("b"), "b"),
        ("/v1/solve", solve("b"), None, "b"),
        ("/v1/solve", solve("main"), Some("b"), "main"),
        ("/v1/chat/completions", chat(json!({})), None, "main"),
        ("/v1/chat/completions", chat(json!({})), Some("b"), "b"),
        ("/v1/chat/completions", chat(json!({"policy": "b"})), Some("main"), "b"),
    ];
    for (path, body, header, expected) in table {
        for stream in [false, true] {
            let mut body = body.clone();
            body["stream"] = json!(stream);
            let mut request = server.post(path, &body);
            if let Some(name) = header {
                request = request.header("x-prompt-r1-policy", name);
            }
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 200, "{body}");
            assert_eq!(response.headers()["x-prompt-r1-policy"], expected, "{body} {header:?}");
        }
    }
    let wrong = server.post("/v1/solve", &ask()).header("x-prompt-r1-policy", "c").send().await;
    let wrong = wrong.unwrap();
    assert_eq!(wrong.status(), 404);
    let error = wrong.json::<Value>().await.unwrap();
    assert_eq!(error["error"]["code"], "policy_not_found");
    let message = error["error"]["message"].as_str().unwrap();
    let hint = "there is `main`, `b`, `direct`";
    assert_eq!(error["error"]["hint"], hint);
    assert!(message.ends_with(&format!("\nhint: {hint}")), "{message}");
    let (status, error) = server.json("/v1/chat/completions", chat(json!({"policy": "c"}))).await;
    assert_eq!((status, &error["error"]["param"]), (404, &json!("prompt_r1.policy")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_reloads_its_file_and_keeps_the_old_one_where_the_new_is_broken() {
    let upstream = Loopback::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.toml");
    let pid_file = folder.path().join("server.pid");
    let config = |model: &str, more: &str, key: &str| {
        let text = format!(
            "schema_version = 1\n{more}\n[server]\npid_file = {pid_file:?}\n\
             [large_models.{model}]\nurl = {:?}\nmodel = \"m\"\napi_key_env = {key:?}\n",
            upstream.url(),
        );
        std::fs::write(&path, text).unwrap();
    };
    let shown = path.to_str().unwrap();
    let reload = || run(&["reload", "--config", shown]);
    config("first", "", "");
    let (status, output) = reload();
    assert_eq!(status, 1, "{output}");
    assert!(output.contains("no server runs"), "{output}");

    let mut server = Process::serve(&path);
    let client = client();
    let default = async || {
        let response = client.get(format!("{}/v1/models", server.url)).send().await.unwrap();
        let models = response.json::<Value>().await.unwrap();
        models["data"][1]["id"].as_str().unwrap().to_owned()
    };
    assert_eq!(default().await, "prompt-r1/first");
    config("second", "", "");
    assert_eq!(reload(), (0, "the new configuration serves\n".to_owned()));
    assert_eq!(default().await, "prompt-r1/second");

    // Invalid in itself: the server gets no signal.
    config("third", "default_large_model = \"fourth\"", "");
    let (status, output) = reload();
    assert_eq!(status, 64, "{output}");
    assert!(output.contains("no such large model"), "{output}");
    // Invalid only when it is loaded.
    config("third", "", "NO_SUCH_KEY");
    let (status, output) = reload();
    assert_eq!(status, 1, "{output}");
    assert!(
        output.contains("the old configuration stays in use") && output.contains("`NO_SUCH_KEY`"),
        "{output}"
    );
    assert_eq!(default().await, "prompt-r1/second");
    let log = server.log.wait_for("cannot reload; the old configuration stays in use");
    assert!(log.contains("NO_SUCH_KEY"), "{log}");
    let metrics = client.get(format!("{}/metrics", server.url)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for series in ["{result=\"success\"} 1", "{result=\"error\"} 1"] {
        assert!(metrics.contains(&format!("prompt_r1_reloads_total{series}")), "{metrics}");
    }
    // Models that would crash an engine, and the process with it.
    let model = folder.path().join("policy");
    std::fs::create_dir(&model).unwrap();
    let whole = |name: &str| std::fs::read(format!("models/policy/{name}")).unwrap();
    let shape = |key: &str, value: u64| {
        let mut config: Value = serde_json::from_slice(&whole("config.json")).unwrap();
        config[key] = json!(value);
        config.to_string().into_bytes()
    };
    let tokenizer = whole("tokenizer.json");
    let weights = whole("model.safetensors");
    let table = [
        ("tokenizer.json", tokenizer[..tokenizer.len() / 2].to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("model.safetensors", weights[..weights.len() / 2].to_vec()),
        ("config.json", shape("max_position_embeddings", 1_000_000_000_000_000)),
        ("config.json", shape("max_position_embeddings", 0)),
        ("config.json", shape("num_hidden_layers", 1_000_000_000)),
        ("config.json", shape("num_attention_heads", 0)),
    ];
    for engine in ["mistralrs", "native"] {
        for (name, bytes) in &table {
            for file in std::fs::read_dir("models/policy").unwrap() {
                let file = file.unwrap().path();
                if file.is_file() {
                    std::fs::copy(&file, model.join(file.file_name().unwrap())).unwrap();
                }
            }
            std::fs::write(model.join(name), bytes).unwrap();
            let policy = format!("[policy]\nengine = \"{engine}\"\nmodel = {model:?}\n");
            config("second", &policy, "");
            let (status, output) = reload();
            assert_eq!(status, 1, "{engine} {name}: {output}");
            assert!(
                output.contains("the old configuration stays in use"),
                "{engine} {name}: {output}"
            );
            assert_eq!(default().await, "prompt-r1/second");
        }
    }
    assert_eq!(server.stop(), 0);
    assert!(!pid_file.exists());
}
