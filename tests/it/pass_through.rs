//! Other models: passed through unchanged.

use futures::StreamExt;
use prompt_r1::policy::ScriptedPolicy;
use reqwest::Method;
use serde_json::{Value, json};

use crate::loopback::{Cut, Loopback, Script};
use crate::server::{SECRET, Setup};

const CHAT: &str = "/v1/chat/completions";

fn setup() -> Setup {
    Setup::policy(ScriptedPolicy::turns([]))
}

#[tokio::test]
async fn requests_and_responses_pass_through_unchanged() {
    let upstream = Loopback::start().await;
    let mut setup = setup();
    setup.endpoint = json!({"api_key_env": "TEST_KEY"});
    let server = setup.start(&upstream).await;
    let body = "{ \"unheard\": [1e400, \"\\u00e9\"],\n \"model\": \"any\", \"messages\": 7 }";
    for path in [
        CHAT,
        "/v1/embeddings",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/moderations",
        "/v1/messages/count_tokens",
    ] {
        upstream.then(
            Script::bytes(418, "application/weird", b"\x00\xff".to_vec()).header("x-new", "1"),
        );
        let asked = server.client.post(format!("{}{path}?a=b%20c", server.url)).body(body);
        let asked = asked.header("openai-beta", "x").bearer_auth("theirs");
        let response = asked.send().await.unwrap();
        assert_eq!(response.status(), 418, "{path}");
        assert_eq!(response.headers()["content-type"], "application/weird");
        assert_eq!(response.headers()["content-length"], "2");
        assert_eq!(response.headers()["x-new"], "1");
        assert!(response.headers().contains_key("x-request-id"));
        assert_eq!(response.bytes().await.unwrap().as_ref(), b"\x00\xff");
        assert_eq!(server.metric("prompt_r1_client_disconnects_total").await, 0.0);
        let arrived = upstream.last();
        assert_eq!(arrived.path, format!("{path}?a=b%20c"));
        assert_eq!(arrived.body, body.as_bytes());
        assert_eq!(arrived.header("openai-beta"), Some("x"));
        assert_eq!(arrived.header("authorization"), Some(&*format!("Bearer {SECRET}")));
    }
}

#[tokio::test]
async fn the_key_that_an_endpoint_repeats_is_not_handed_on() {
    let upstream = Loopback::start().await;
    let mut setup = setup();
    setup.endpoint = json!({"api_key_env": "TEST_KEY"});
    let server = setup.start(&upstream).await;
    let message = format!("the key {SECRET} is wrong");
    let event = json!({"error": {"message": message}}).to_string();
    let table = [
        Script::error(401, &message),
        Script::error(503, &message),
        Script::json(200, json!({"error": message})),
        Script::bytes(400, "text/html", format!("<p>{message}")),
        Script::events([&event, &event]),
        // In pieces of one byte.
        Script::events([&event]).drip(std::time::Duration::ZERO),
        Script::error(403, &message).header("x-sent", &format!("Bearer {SECRET}")),
    ];
    for script in table {
        upstream.then(script);
        let asked = server.post(CHAT, &json!({"model": "x"}));
        let response = asked.header("accept-encoding", "gzip").send().await.unwrap();
        let length = response.headers().get("content-length").cloned();
        let headers = format!("{:?}", response.headers());
        let text = response.text().await.unwrap();
        assert!(!headers.contains("planted") && !text.contains("planted"), "{headers} {text}");
        assert!(text.contains(&format!("the key {} is", "*".repeat(SECRET.len()))), "{text}");
        if let Some(length) = length {
            assert_eq!(length.to_str().unwrap(), text.len().to_string());
        }
        // It could not be found in compressed data.
        assert_eq!(upstream.last().header("accept-encoding"), None);
    }
}

#[tokio::test]
async fn the_endpoint_that_serves_the_model() {
    let (default, other) = (Loopback::start().await, Loopback::start().await);
    let mut setup = setup();
    setup.others.insert("big".to_owned(), json!({"url": other.url(), "model": "model-2"}));
    let server = setup.start(&default).await;
    for (model, is_other) in [("model-2", true), ("big", true), ("model-1", false), ("x", false)] {
        // Their lists of models are requested as well.
        let chats = |endpoint: &Loopback| {
            endpoint.requests().iter().filter(|request| request.path.ends_with(CHAT)).count()
        };
        let before = (chats(&default), chats(&other));
        server.json(CHAT, json!({"model": model})).await;
        let after = (chats(&default), chats(&other));
        let expected = (before.0 + usize::from(!is_other), before.1 + usize::from(is_other));
        assert_eq!(after, expected, "{model}");
    }
}

#[tokio::test]
async fn chunks_come_as_they_are_sent() {
    let upstream = Loopback::start().await;
    let server = setup().start(&upstream).await;
    upstream.then(Script::events(["{\"a\": 1}", "[DONE]"]).cut(16, Cut::Stall));
    let response = server.ask(CHAT, json!({"model": "x", "stream": true})).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut pieces = response.bytes_stream();
    assert_eq!(pieces.next().await.unwrap().unwrap(), "data: {\"a\": 1}\n\n");
    drop(pieces);
    upstream.wait_for_disconnects(1).await;
    server.wait_for_metric("prompt_r1_client_disconnects_total", 1.0).await;
}

#[tokio::test]
async fn a_wrong_content_length_is_not_passed_on() {
    let upstream = Loopback::start().await;
    let server = setup().start(&upstream).await;
    upstream.then(Script::events(["{\"a\": 1}"]).header("content-length", "3"));
    let response = server.ask(CHAT, json!({"model": "x", "stream": true})).await;
    assert_eq!(response.headers().get("content-length"), None);
    assert_eq!(response.text().await.unwrap(), "data: {\"a\": 1}\n\n");
}

#[tokio::test]
async fn a_stream_that_breaks_off_says_so() {
    for cut in [Cut::Close, Cut::Reset, Cut::Stall] {
        let upstream = Loopback::start().await;
        let mut setup = setup();
        setup.endpoint = json!({"timeouts": {"idle_ms": 100}});
        let server = setup.start(&upstream).await;
        upstream.then(Script::events(["{\"a\": 1}", "{\"b\": 2}"]).cut(25, cut));
        let response = server.ask(CHAT, json!({"model": "x", "stream": true})).await;
        let text = response.text().await.unwrap();
        let rest = text.strip_prefix("data: {\"a\": 1}\n\n").unwrap();
        let error = rest.trim_start().strip_prefix("data: ").unwrap();
        let error: Value = serde_json::from_str(error).unwrap();
        assert!(error["error"]["message"].is_string(), "{cut:?}: {text}");
    }
}

#[tokio::test]
async fn a_whole_body_that_breaks_off_is_no_whole_body() {
    let upstream = Loopback::start().await;
    let server = setup().start(&upstream).await;
    for (after, cut) in [(0, Cut::Close), (5, Cut::Close), (0, Cut::Reset), (5, Cut::Reset)] {
        upstream.then(Script::json(200, json!({"a": "long enough"})).cut(after, cut));
        let response = server.ask(CHAT, json!({"model": "x"})).await;
        assert_eq!(response.status(), 200, "{cut:?} after {after}");
        assert!(response.bytes().await.is_err(), "{cut:?} after {after}");
    }
}

#[tokio::test]
async fn no_server_is_there() {
    let upstream = Loopback::start().await;
    let mut setup = setup();
    setup.endpoint = json!({"url": "http://127.0.0.1:1/v1"});
    let server = setup.start(&upstream).await;
    let (status, error) = server.json(CHAT, json!({"model": "x"})).await;
    assert_eq!((status, &error["error"]["code"]), (502, &json!("large_model_unreachable")));
    assert!(!error.to_string().contains("127.0.0.1"), "{error}");
}

#[tokio::test]
async fn every_other_route_by_any_method() {
    let (default, other) = (Loopback::start().await, Loopback::start().await);
    let mut setup = setup();
    setup.others.insert("ears".to_owned(), json!({"url": other.url(), "model": "whisper-1"}));
    let server = setup.start(&default).await;
    for (method, path) in [
        (Method::GET, "/v1/files"),
        (Method::GET, "/v1/files/file-1/content?x=1"),
        (Method::DELETE, "/v1/responses/resp_1"),
        (Method::POST, "/v1/responses/resp_1/cancel"),
        (Method::GET, "/v1/batches?limit=2"),
    ] {
        let url = format!("{}{path}", server.url);
        let response = server.client.request(method.clone(), url).send().await.unwrap();
        assert_eq!(response.status(), 200, "{method} {path}");
        let arrived = default.last();
        assert_eq!((&*arrived.method, &*arrived.path), (method.as_str(), path));
        assert!(arrived.body.is_empty());
    }
    // The model of a form is read, and replaced if its endpoint has another name for it.
    let count = default.requests().len();
    for model in ["whisper-1", "ears"] {
        let form = format!(
            "--x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n\0\u{1}\r\n\
             --x\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n--x--\r\n"
        );
        let kind = "multipart/form-data; boundary=x";
        let asked = server.client.post(format!("{}/v1/audio/transcriptions", server.url));
        let asked = asked.header("content-type", kind).body(form.clone());
        assert_eq!(asked.send().await.unwrap().status(), 200);
        let arrived = other.last();
        assert_eq!(arrived.body, form.replace("ears", "whisper-1").as_bytes());
        assert_eq!(arrived.header("content-type"), Some(kind));
    }
    assert_eq!(default.requests().len(), count);
    // No path leads out of the API, however a server before the endpoint reads it.
    let count = default.requests().len();
    for path in [
        "/v1/files/..%2forganization/admin_api_keys",
        "/v1/files/..%2f..%2Fadmin/secrets",
        "/v1/files/..%252forganization/users",
        "/v1/files/..%5corganization/users",
        "/v1/files/..;/organization/users",
    ] {
        let response = server.get(path).await;
        assert_eq!(response.status(), 400, "{path}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["code"], "large_model_rejected", "{path}");
    }
    assert!(default.requests()[count..].iter().all(|request| request.path == "/v1/models"));
    // Administrative and unknown routes do not exist.
    for path in [
        "/v1/organization/users",
        "/v1/nothing",
        "/v1/files/",
        "/v1/chat//completions",
        "/v1//chat/completions",
    ] {
        let (status, error) = server.json(path, json!({})).await;
        assert_eq!((status, &error["error"]["code"]), (404, &json!("unknown_route")), "{path}");
    }
}

#[tokio::test]
async fn the_loops_models_are_not_passed_through() {
    let upstream = Loopback::start().await;
    let server = setup().start(&upstream).await;
    for path in ["/v1/embeddings", "/v1/completions", "/v1/images/generations"] {
        let (status, error) = server.json(path, json!({"model": "prompt-r1"})).await;
        assert_eq!((status, &error["error"]["param"]), (404, &json!("model")), "{path}");
    }
    // A name that only begins like the loop's is not the loop's.
    server.json(CHAT, json!({"model": "prompt-r12"})).await;
    assert_eq!(upstream.last().json()["model"], "prompt-r12");
}

#[tokio::test]
async fn bodies_that_cannot_be_routed() {
    let upstream = Loopback::start().await;
    let server = setup().start(&upstream).await;
    let table: [(&[u8], Option<&str>); 5] = [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"{\"model\": 7}", Some("model")),
        (b"{\"model\": \"\xff\"}", None),
    ];
    for (body, param) in table {
        let asked = server.client.post(format!("{}{CHAT}", server.url)).body(body.to_vec());
        let response = asked.send().await.unwrap();
        assert_eq!(response.status(), 400);
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["param"].as_str(), param, "{error}");
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn large_bodies() {
    let upstream = Loopback::start().await;
    let server = setup().start(&upstream).await;
    let limit = 10 * 1024 * 1024;
    let frame = json!({"model": "x", "pad": ""}).to_string().len();
    for (length, status) in [(limit, 200), (limit + 1, 413)] {
        let body = json!({"model": "x", "pad": "a".repeat(length - frame)});
        let response = server.ask(CHAT, body).await;
        assert_eq!(response.status(), status);
        if status == 413 {
            let error: Value = response.json().await.unwrap();
            assert_eq!(error["error"]["code"], "request_too_large");
        }
    }
    assert_eq!(upstream.last().body.len(), limit);
}

#[tokio::test]
async fn all_models() {
    let list = |ids: &[&str]| {
        let data: Vec<_> = ids.iter().map(|id| json!({"id": id, "new": 1})).collect();
        Script::json(200, json!({"object": "list", "data": data}))
    };
    let upstream = Loopback::answering(move |_| list(&["model-1", "shared"])).await;
    let second = Loopback::answering(move |_| {
        let data = json!([{"id": "shared"}, {"id": "model-2"}, {"id": 7}]);
        Script::json(200, json!({"data": data}))
    })
    .await;
    let silent = Loopback::answering(|_| Script::error(500, "broken")).await;
    let mut setup = setup();
    let mut add = |name: &str, url: String| {
        let config = json!({"url": url, "model": name, "retries": {"max": 0}});
        setup.others.insert(name.to_owned(), config);
    };
    add("second", second.url());
    add("broken", silent.url());
    add("down", "http://127.0.0.1:1/v1".to_owned());
    let server = setup.start(&upstream).await;
    let response = server.get("/v1/models").await;
    insta::assert_json_snapshot!(response.json::<Value>().await.unwrap());
    assert_eq!(upstream.last().path, "/v1/models");
    for (id, status) in
        [("prompt-r1/down", 200), ("prompt-r1%2Fdown", 200), ("model-2", 200), ("none", 404)]
    {
        let response = server.get(&format!("/v1/models/{id}")).await;
        assert_eq!(response.status(), status, "{id}");
        let body: Value = response.json().await.unwrap();
        if status == 200 {
            assert_eq!(body["id"], id.replace("%2F", "/"));
        }
    }
}

#[tokio::test]
async fn a_listed_model_is_asked_where_it_was_listed() {
    let list = |ids: &[&str]| {
        let data: Vec<_> = ids.iter().map(|id| json!({"id": id})).collect();
        Script::json(200, json!({"data": data}))
    };
    let answering = async |name: &'static str, ids: &'static [&'static str]| {
        Loopback::answering(move |request| match request.path.as_str() {
            "/v1/models" => list(ids),
            _ => Script::reply(name),
        })
        .await
    };
    let (main, mine) =
        (answering("main", &["both", "a"]).await, answering("mine", &["both", "local-b"]).await);
    let mut setup = setup();
    setup.others.insert("mine".to_owned(), json!({"url": mine.url(), "model": "local-a"}));
    let server = setup.start(&main).await;
    let table = [
        ("local-b", "mine", "local-b"),
        ("both", "main", "both"),
        ("a", "main", "a"),
        ("nobody-lists-it", "main", "nobody-lists-it"),
        ("local-a", "mine", "local-a"),
        // The name of the table is not an id that the endpoint knows.
        ("mine", "mine", "local-a"),
    ];
    for (model, expected, id) in table {
        let (status, body) = server.json(CHAT, json!({"model": model, "messages": []})).await;
        assert_eq!(status, 200, "{model}: {body}");
        assert_eq!(body["choices"][0]["message"]["content"], expected, "{model}");
        let upstream = if expected == "mine" { &mine } else { &main };
        assert_eq!(upstream.last().json()["model"], id, "{model}");
    }
    // The lists were requested once.
    let lists = |upstream: &Loopback| {
        upstream.requests().iter().filter(|request| request.path == "/v1/models").count()
    };
    assert_eq!((lists(&main), lists(&mine)), (1, 1));
}

#[tokio::test]
async fn each_caller_is_routed_by_the_list_that_it_gets_itself() {
    let list = |id: &str| Script::json(200, json!({"data": [{"id": id}]}));
    let main = Loopback::answering(move |request| match request.path.as_str() {
        "/v1/models" => list("public"),
        _ => Script::reply("main"),
    })
    .await;
    let mine = Loopback::answering(move |request| {
        match (request.path.as_str(), request.header("authorization")) {
            ("/v1/models", Some("Bearer one")) => list("private"),
            ("/v1/models", _) => list("other"),
            _ => Script::reply("mine"),
        }
    })
    .await;
    let mut setup = setup();
    setup.others.insert("mine".to_owned(), json!({"url": mine.url(), "model": "m"}));
    let server = setup.start(&main).await;
    let asked = async |key: &str, model: &str| {
        let asked = server.post(CHAT, &json!({"model": model, "messages": []})).bearer_auth(key);
        let body: Value = asked.send().await.unwrap().json().await.unwrap();
        body["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    for _ in 0..2 {
        assert_eq!(asked("one", "private").await, "mine");
        let models = server.client.get(format!("{}/v1/models", server.url)).bearer_auth("two");
        assert_eq!(models.send().await.unwrap().status(), 200);
        assert_eq!(asked("two", "private").await, "main");
        assert_eq!(asked("two", "other").await, "mine");
    }
}

#[tokio::test]
async fn an_endpoint_that_lists_nothing_delays_no_model_of_another_before_it() {
    let main = Loopback::answering(|request| match request.path.as_str() {
        "/v1/models" => Script::json(200, json!({"data": [{"id": "a"}]})),
        _ => Script::reply("main"),
    })
    .await;
    let silent = Loopback::answering(|_| Script::nothing(Cut::Stall)).await;
    let mut setup = setup();
    setup.others.insert("silent".to_owned(), json!({"url": silent.url(), "model": "m"}));
    let server = setup.start(&main).await;
    let (status, body) = server.json(CHAT, json!({"model": "a", "messages": []})).await;
    assert_eq!((status, &body["choices"][0]["message"]["content"]), (200, &json!("main")));
    // That list was not awaited to its time-out.
    let series = "prompt_r1_upstream_attempts_total{outcome=\"timeout\",code=\"\"}";
    assert_eq!(server.metric(series).await, 0.0);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let upstream = Loopback::start().await;
    let server = setup().start(&upstream).await;
    for status in [301, 302, 307, 308] {
        upstream.then(Script::bytes(status, "", "").header("location", "http://inside/"));
        let response = server.ask(CHAT, json!({"model": "any", "messages": []})).await;
        assert_eq!(response.status(), 502, "{status}");
        assert!(!response.headers().contains_key("location"));
    }
}

#[tokio::test]
async fn a_time_out_says_that_it_may_have_been_paid() {
    // So does a new connection that closes.
    for (cut, status) in [(Cut::Stall, 504), (Cut::Close, 502)] {
        let upstream = Loopback::answering(move |_| Script::nothing(cut)).await;
        let mut setup = setup();
        setup.endpoint =
            json!({"timeouts": {"first_byte_ms": 50}, "retries": {"max": 3, "base_ms": 1}});
        let server = setup.start(&upstream).await;
        let response = server.ask(CHAT, json!({"model": "any", "messages": []})).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["x-should-retry"], "false");
        assert_eq!(upstream.requests().len(), 1);
    }
}
