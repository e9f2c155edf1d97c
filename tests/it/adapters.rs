//! Several adapters beside one base, chosen by name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, safetensors};
use prompt_r1::model::{Adapter, AdapterConfig, Projection, Spec};
use prompt_r1::policy::ScriptedPolicy;
use prompt_r1::protocol::Protocol;
use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::access::Keys;
use crate::loopback::{Loopback, Script};
use crate::one_file::tiny;
use crate::process::{Process, run};
use crate::server::{Setup, client};

const QUESTION: &str = "What is Mirel?";

/// An adapter for `base` with random weights, in a folder of its own.
fn adapter(folder: &Path, base: &Path, name: &str, seed: u64) -> PathBuf {
    let spec = Spec::load(base).unwrap();
    let targets = vec![Projection::Query, Projection::Key, Projection::Down];
    let config = AdapterConfig { rank: 4, alpha: 8.0, targets };
    let made = Adapter::new(&spec, config, seed, DType::F32, &Device::Cpu).unwrap();
    let path = folder.join(name);
    made.save(&path, Some(&base.display().to_string())).unwrap();
    // A fresh one changes nothing: its second half is zero.
    let file = path.join("adapter_model.safetensors");
    let mut tensors = safetensors::load(&file, &Device::Cpu).unwrap();
    for (index, (_, tensor)) in tensors.iter_mut().enumerate() {
        let wave = (0..tensor.elem_count())
            .map(|i| ((i * 7 + index * 13) as f32 * 0.37 + seed as f32).sin() * 0.5)
            .collect::<Vec<_>>();
        *tensor = Tensor::from_vec(wave, tensor.dims(), &Device::Cpu).unwrap();
    }
    safetensors::save(&tensors, &file).unwrap();
    path
}

/// The server's configuration: `more` stands in `[policy]`.
fn configuration(folder: &Path, base: &Path, more: &str) -> PathBuf {
    let path = folder.join("server.toml");
    let (store, pid) = (folder.join("keys.db"), folder.join("server.pid"));
    let text = format!(
        "access.store = {store:?}\nepisode = {{ max_turns = 1, max_turn_tokens = 12 }}\n\
         server.pid_file = {pid:?}\n[policy]\nmodel = {base:?}\nsampling.temperature = 0\n{more}\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// What the policy writes, asked alone.
fn alone(config: &Path, more: &[&str]) -> String {
    let args = ["solve", QUESTION, "--json", "--config", config.to_str().unwrap()];
    let (status, output) = run(&[&args, more].concat());
    // What it logs comes behind.
    let json = serde_json::Deserializer::from_str(&output).into_iter::<Value>().next();
    let episode = json.and_then(Result::ok).unwrap_or_default();
    let text = &episode["trajectory"]["turns"][0]["text"];
    assert!(status == 0 && text.is_string(), "{output}");
    text.as_str().unwrap().to_owned()
}

/// What the policy wrote that a request names in its model.
async fn by_model(client: &Client, url: &str, model: &str) -> String {
    let body = json!({"model": model, "messages": [{"role": "user", "content": QUESTION}],
                      "prompt_r1": {"trace": true}});
    let request = client.post(format!("{url}/v1/chat/completions")).json(&body);
    let reply: Value = request.send().await.unwrap().json().await.unwrap();
    written(&reply["choices"][0]["prompt_r1"]["turns"][0], &reply)
}

/// What the policy wrote that a request names by a field.
async fn by_field(client: &Client, url: &str, policy: &str) -> String {
    let body = json!({"question": QUESTION, "trace": true, "policy": policy});
    let request = client.post(format!("{url}/v1/solve")).json(&body);
    let reply: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(reply["policy"], policy);
    written(&reply["turns"][0], &reply)
}

fn written(turn: &Value, reply: &Value) -> String {
    turn["malformed"].as_str().unwrap_or_else(|| panic!("{reply}")).to_owned()
}

#[test]
fn an_adapter_has_the_chat_template_that_its_base_lacks() {
    const TEMPLATE: &str = "chat_template.jinja";
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    for part in ["", "templates"] {
        std::fs::create_dir(base.join(part)).unwrap();
        for entry in std::fs::read_dir(Path::new("models/policy").join(part)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, base.join(part).join(path.file_name().unwrap())).unwrap();
            }
        }
    }
    let adapter = adapter(folder.path(), &base, "one", 1);
    let config = configuration(folder.path(), &base, "");
    let named = ["--adapter", adapter.to_str().unwrap()];
    let expected = alone(&config, &named);
    std::fs::rename(base.join(TEMPLATE), adapter.join(TEMPLATE)).unwrap();
    assert_eq!(alone(&config, &named), expected);

    let check = ["check", config.to_str().unwrap()];
    let (status, text) = run(&check);
    assert!(status != 0 && text.contains("the chat template of"), "{text}");
    configuration(folder.path(), &base, &format!("adapter = {adapter:?}"));
    let (status, text) = run(&check);
    assert_eq!(status, 0, "{text}");

    let out = folder.path().join("out");
    let export = ["export", base.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let (status, text) = run(&[&export[..], &named].concat());
    assert_eq!(status, 0, "{text}");
    alone(&configuration(folder.path(), &out, ""), &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_base_and_its_adapters_give_their_own_answers_also_after_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let base = tiny(folder.path());
    let [one, two, three] = [("one", 1), ("two", 2), ("three", 3)]
        .map(|(name, seed)| adapter(folder.path(), &base, name, seed));
    // The second has templates of its own.
    Protocol::record(None, &two.join("templates")).unwrap();
    std::fs::write(two.join("templates/policy.j2"), "Be brief.\n{{ question }}").unwrap();
    let config = configuration(folder.path(), &base, "");
    let with = |adapter: &Path| alone(&config, &["--adapter", adapter.to_str().unwrap()]);
    let expected = [("tiny", alone(&config, &[])), ("one", with(&one)), ("two", with(&two))];
    for (index, (_, text)) in expected.iter().enumerate() {
        assert!(expected[..index].iter().all(|(_, other)| other != text), "{expected:?}");
    }

    let bare = folder.path().join("bare");
    std::fs::create_dir(&bare).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(two.join(file), bare.join(file)).unwrap();
    }
    assert_ne!(with(&bare), expected[2].1, "the templates make no difference");

    let adapters = format!("adapters = {{ one = {one:?}, two = {two:?} }}");
    configuration(folder.path(), &base, &adapters);
    let server = Process::serve(&config);
    let log = server.log.text();
    assert!(log.contains("are answered by the base `tiny` alone"), "{log}");
    let (client, url) = (client(), server.url.clone());
    let asked = expected.iter().cycle().take(12).map(|(name, text)| {
        let (client, url, expected) = (client.clone(), url.clone(), text.clone());
        let name = (*name).to_owned();
        tokio::spawn(async move {
            assert_eq!(by_model(&client, &url, &format!("prompt-r1:{name}")).await, expected);
            assert_eq!(by_model(&client, &url, &format!("prompt-r1:{name}/atlas")).await, expected);
            assert_eq!(by_field(&client, &url, &name).await, expected);
        })
    });
    for asked in asked.collect::<Vec<_>>() {
        asked.await.unwrap();
    }
    assert_eq!(by_model(&client, &url, "prompt-r1").await, expected[0].1);
    let models = client.get(format!("{url}/v1/models")).send().await.unwrap();
    let models: Value = models.json().await.unwrap();
    let ids: Vec<&str> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|model| model["id"].as_str())
        .collect();
    assert_eq!(
        ids,
        [
            "prompt-r1",
            "prompt-r1/atlas",
            "prompt-r1:tiny",
            "prompt-r1:one",
            "prompt-r1:two",
            "atlas"
        ]
    );

    let third = with(&three);
    let adapters = format!("adapters = {{ one = {two:?}, three = {three:?} }}");
    configuration(folder.path(), &base, &adapters);
    let (status, output) = run(&["reload", "--config", config.to_str().unwrap()]);
    assert_eq!(status, 0, "{output}");
    for (name, expected) in [("tiny", &expected[0].1), ("one", &expected[2].1), ("three", &third)] {
        assert_eq!(
            &by_model(&client, &url, &format!("prompt-r1:{name}")).await,
            expected,
            "{name}"
        );
    }
    let body = json!({"question": QUESTION, "policy": "two"});
    let gone = client.post(format!("{url}/v1/solve")).json(&body).send().await.unwrap();
    assert_eq!(gone.status(), 404);
    // One whose folder is not there: the others go on.
    configuration(folder.path(), &base, "adapters = { four = \"no/such\" }");
    let (status, output) = run(&["reload", "--config", config.to_str().unwrap()]);
    assert!(status == 1 && output.contains("`no/such"), "{output}");
    assert_eq!(by_model(&client, &url, "prompt-r1:three").await, third);
}

#[test]
fn adapters_that_cannot_be_served_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let base = tiny(folder.path());
    let made = |name: &str| adapter(folder.path(), &base, name, 1);
    let (good, changed, odd, narrow) = (made("good"), made("changed"), made("odd"), made("narrow"));
    std::fs::write(changed.join("base.sha256"), "0123\n").unwrap();
    let edit = |path: &Path, from: &str, to: &str| {
        let path = path.join("adapter_config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    };
    edit(&odd, "\"use_dora\": false", "\"use_dora\": true");
    edit(&narrow, "\"r\": 4", "\"r\": 3");
    let (spoken, pinned, old) = (made("spoken"), made("pinned"), made("old"));
    std::fs::rename(old.join("adapter_model.safetensors"), old.join("adapter_model.bin")).unwrap();
    std::fs::write(spoken.join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    edit(&pinned, "\"r\": 4", "\"revision\": \"v2\", \"r\": 4");
    edit(&pinned, base.to_str().unwrap(), "someone/base");
    for (more, said) in [
        (format!("adapters = {{ a = {changed:?} }}"), "was trained on other weights"),
        (format!("adapters = {{ a = {good:?}, b = {odd:?} }}"), "`use_dora` is not supported"),
        (format!("adapters = {{ a = {good:?}, b = {narrow:?} }}"), "cannot load the adapter `"),
        (format!("adapters = {{ a = {spoken:?} }}"), "the chat template beside the adapter `"),
        (format!("name = \"a\"\nadapters = {{ a = {good:?} }}"), "two policies are called `a`"),
        (
            format!("engine = \"mistralrs\"\nadapters = {{ a = {good:?} }}"),
            "`policy.adapters` is set",
        ),
        (format!("adapters = {{ \"a b\" = {good:?} }}"), "`a b` in `policy.adapters`"),
        (format!("adapters = {{ a = {base:?} }}"), "is a GGUF file, not a folder"),
        (format!("adapters = {{ a = {old:?} }}"), "holds its weights as `adapter_model.bin`"),
    ] {
        let config = configuration(folder.path(), &base, &more);
        let config = config.to_str().unwrap();
        for command in [&["serve", "--listen", "127.0.0.1:0", "--config"][..], &["check"]] {
            let (status, output) = run(&[command, &[config]].concat());
            let is_refused = status != 0 && output.contains(said) && output.contains("hint: ");
            assert!(is_refused, "{command:?} {more}: {output}");
        }
    }
    let served = configuration(folder.path(), &base, &format!("adapters = {{ a = {good:?} }}"));
    let (status, output) = run(&["check", served.to_str().unwrap()]);
    assert_eq!(status, 0, "{output}");
    // An adapter in the place of the model is checked against the base that it names.
    for (model, more, said) in [
        (&good, "engine = \"mistralrs\"", "which `mistralrs` does not serve"),
        (&narrow, "", "cannot load the adapter `"),
        (&spoken, "", "the chat template beside the adapter `"),
        (&pinned, "", "names the revision `v2` of `someone/base`"),
    ] {
        let config = configuration(folder.path(), model, more);
        let (status, output) = run(&["check", config.to_str().unwrap()]);
        assert!(status != 0 && output.contains(said), "{output}");
    }
    let (base, good) = (base.to_str().unwrap(), good.to_str().unwrap());
    let named = format!("a={good}");
    let (status, output) = run(&["solve", "x", "--policy", base, "--adapter", &named]);
    assert!(status != 0 && output.contains("leave `a=` out"), "{output}");
}

/// A policy that answers by its own name, without asking.
fn named(name: &str) -> ScriptedPolicy {
    ScriptedPolicy::turns([format!("<answer>{name}</answer>").as_str()]).named(name)
}

/// The answer, and the policy that the reply names.
async fn answered(response: Response) -> (u16, String, Value) {
    let status = response.status().as_u16();
    let policy = response.headers().get("x-prompt-r1-policy");
    let policy = policy.map(|name| name.to_str().unwrap().to_owned()).unwrap_or_default();
    (status, policy, response.json().await.unwrap())
}

#[tokio::test]
async fn the_model_of_a_request_names_its_policy() {
    let upstream = Loopback::answering(|_| Script::reply("Lyon")).await;
    let mut setup = Setup::policy(named("main"));
    setup.adapters = vec![Arc::new(named("a")), Arc::new(crate::server::relay().named("b"))];
    let server = setup.start(&upstream).await;
    let messages = json!([{"role": "user", "content": "Where?"}]);
    let routes = [
        ("/v1/chat/completions", json!({"messages": messages})),
        ("/v1/responses", json!({"input": "Where?"})),
        ("/v1/messages", json!({"messages": messages, "max_tokens": 100})),
    ];
    for (route, body) in routes {
        for (model, header, policy) in [
            ("prompt-r1", None, "main"),
            ("prompt-r1/test", None, "main"),
            ("prompt-r1:main", None, "main"),
            ("prompt-r1:a", None, "a"),
            ("prompt-r1:a", Some("main"), "a"),
            ("prompt-r1:b/test", None, "b"),
            ("prompt-r1:b/other-model", None, "b"),
            ("prompt-r1", Some("b"), "b"),
        ] {
            let mut body = body.clone();
            body["model"] = json!(model);
            let mut request = server.post(route, &body);
            if let Some(header) = header {
                request = request.header("x-prompt-r1-policy", header);
            }
            let (status, found, reply) = answered(request.send().await.unwrap()).await;
            assert_eq!((status, found.as_str()), (200, policy), "{route} {model}: {reply}");
            assert_eq!(reply["model"], model, "{route}");
            let expected = if policy == "b" { "Lyon" } else { policy };
            assert!(reply.to_string().contains(expected), "{route} {model}: {reply}");
            if model.ends_with("other-model") {
                assert_eq!(upstream.last().json()["model"], "other-model");
            }
        }
        for (model, options, status, param) in [
            ("prompt-r1:none", json!({}), 404, "model"),
            ("prompt-r1:mian", json!({}), 404, "model"),
            ("prompt-r1:", json!({}), 404, "model"),
            ("prompt-r1:a", json!({"policy": "b"}), 400, "prompt_r1.policy"),
            ("prompt-r1:a/test", json!({"large_model": "test"}), 400, "prompt_r1.large_model"),
        ] {
            let mut body = body.clone();
            (body["model"], body["prompt_r1"]) = (json!(model), options);
            let (found, _, reply) = answered(server.ask(route, body).await).await;
            assert_eq!(found, status, "{route} {model}: {reply}");
            if route != "/v1/messages" {
                assert_eq!(reply["error"]["param"], param, "{route} {model}: {reply}");
            }
            let message = reply["error"]["message"].as_str().unwrap();
            let lists = message.to_lowercase().contains("there is `main`, `a`, `b`");
            assert!(status != 404 || lists, "{message}");
            assert_eq!(
                message.contains("did you mean `main`?"),
                model == "prompt-r1:mian",
                "{message}"
            );
            assert_eq!(
                message.contains("the name of the policy is empty"),
                model == "prompt-r1:",
                "{message}"
            );
        }
    }
    let ids = async |path: &str| {
        let models = server.get(path).await.json::<Value>().await.unwrap();
        models["data"].as_array().map_or_else(
            || models["id"].to_string(),
            |all| all.iter().filter_map(|model| model["id"].as_str()).collect::<Vec<_>>().join(" "),
        )
    };
    let all = ids("/v1/models").await;
    assert!(
        all.contains("prompt-r1 prompt-r1/test prompt-r1:main prompt-r1:a prompt-r1:b"),
        "{all}"
    );
    assert_eq!(ids("/v1/models/prompt-r1:a").await, "\"prompt-r1:a\"");
}

#[tokio::test]
async fn a_key_that_may_ask_the_loop_may_name_its_policy_and_one_may_have_that_alone() {
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let key = async |models: &[&str]| keys.make(json!({"models": models})).await;
    let (any, one) = (key(&["prompt-r1", "prompt-r1/test"]).await, key(&["prompt-r1:a"]).await);
    let mut setup = Setup::policy(named("main"));
    setup.endpoint = json!({"api_key_env": "TEST_KEY"});
    setup.adapters = vec![Arc::new(named("a")), Arc::new(named("b"))];
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    for (key, model, options, status) in [
        (&any, "prompt-r1:a", json!({}), 200),
        (&any, "prompt-r1:b/test", json!({}), 200),
        (&any, "prompt-r1:b/other", json!({}), 403),
        (&one, "prompt-r1:a", json!({}), 200),
        (&one, "prompt-r1:a", json!({"policy": "b"}), 400),
        (&one, "prompt-r1:a", json!({"large_model": "test"}), 403),
        (&one, "prompt-r1:a/test", json!({}), 403),
        (&one, "prompt-r1:b", json!({}), 403),
        (&one, "prompt-r1", json!({}), 403),
    ] {
        let body = json!({"model": model, "prompt_r1": options,
                          "messages": [{"role": "user", "content": "a"}]});
        let request = server.post("/v1/chat/completions", &body).bearer_auth(key);
        assert_eq!(request.send().await.unwrap().status(), status, "{model} {options}");
    }
    let models = server.client.get(format!("{}/v1/models", server.url)).bearer_auth(&one);
    let models: Value = models.send().await.unwrap().json().await.unwrap();
    assert_eq!(models["data"].as_array().unwrap().len(), 1, "{models}");
}
