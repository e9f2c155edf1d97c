//! What clients send reaches the large model, and what it answers reaches them, as it was.

use serde_json::{Value, json};

use crate::loopback::{Loopback, Script, chunk};
use crate::server::{Server, Setup, events};

const CHAT: &str = "/v1/chat/completions";

fn request(fields: Value) -> Value {
    let mut request =
        json!({"model": "prompt-r1", "messages": [{"role": "user", "content": "Where?"}]});
    for (key, value) in fields.as_object().unwrap() {
        request[key] = value.clone();
    }
    request
}

/// The same by the large model alone.
fn direct(fields: Value) -> Value {
    let mut request = request(fields);
    request["prompt_r1"] = json!({"policy": "direct"});
    request
}

/// The text and the finish reason of an answer, whole or streamed.
async fn answered(server: &Server, mut request: Value, is_stream: bool) -> (String, Value) {
    request["stream"] = json!(is_stream);
    if !is_stream {
        let (status, body) = server.json(CHAT, request).await;
        assert_eq!(status, 200, "{body}");
        let choice = &body["choices"][0];
        let text = choice["message"]["content"].as_str().unwrap_or_default();
        return (text.to_owned(), choice["finish_reason"].clone());
    }
    let (chunks, done) = events(&server.ask(CHAT, request).await.text().await.unwrap());
    assert!(done, "{chunks:?}");
    let text = chunks.iter().filter_map(|it| it["choices"][0]["delta"]["content"].as_str());
    (text.collect(), chunks.last().unwrap()["choices"][0]["finish_reason"].clone())
}

#[tokio::test]
async fn pieces_of_a_stream_are_no_tokens() {
    const ANSWER: &str = "Supercalifragilistic internationalisation is wonderful, truly.";
    let letters = |text: &str, end: &str| {
        let pieces = text.chars().map(|letter| chunk(json!({"content": letter}), None).to_string());
        let pieces: Vec<_> = pieces.collect();
        let end = chunk(json!({}), Some(end)).to_string();
        Script::events(pieces.into_iter().chain([end, "[DONE]".to_owned()]))
    };
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    for is_stream in [false, true] {
        for (limit, end, expected, reason) in [
            (30, "stop", ANSWER, "stop"),
            // The large model itself says that it reached the limit.
            (30, "length", ANSWER, "length"),
            // It ignores the limit.
            (2, "stop", "Supercalifragilistic internationalisation ", "length"),
        ] {
            upstream.then(letters(ANSWER, end));
            let found = answered(&server, direct(json!({"max_tokens": limit})), is_stream).await;
            assert_eq!(found, (expected.to_owned(), json!(reason)), "{limit} {is_stream}");
        }
    }
}

#[tokio::test]
async fn a_tool_call_needs_no_log_probabilities() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let tools = json!([{"type": "function", "function": {"name": "weather", "parameters": {}}}]);
    let asked = direct(json!({"logprobs": true, "tools": tools, "tool_choice": "auto"}));
    let refusing = json!({"role": "assistant", "content": null, "refusal": "No."});
    let silent = json!({"role": "assistant", "content": ""});
    for (script, reason) in [
        (Script::weather_call(), "tool_calls"),
        (Script::message(refusing, "stop"), "stop"),
        (Script::message(silent, "stop"), "stop"),
    ] {
        for is_stream in [false, true] {
            upstream.then(script.clone());
            assert_eq!(answered(&server, asked.clone(), is_stream).await.1, reason);
        }
    }
    upstream.then(Script::reply("In Lyon"));
    let (status, error) = server.json(CHAT, asked).await;
    assert_eq!((status, &error["error"]["param"]), (400, &json!("logprobs")), "{error}");
}

#[tokio::test]
async fn half_a_character_is_no_reason_to_refuse_a_request() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let body = direct(json!({})).to_string().replace("Where?", r"cut \ud83d");
    for path in [CHAT, "/v1/messages"] {
        let body = body.replacen('{', r#"{"max_tokens": 9, "#, 1);
        let sent = server.client.post(format!("{}{path}", server.url));
        let sent = sent.header("content-type", "application/json").body(body).send().await;
        assert_eq!(sent.unwrap().status(), 200, "{path}");
        assert_eq!(upstream.last().prompt(), "cut \u{fffd}");
    }
}

#[tokio::test]
async fn the_question_is_the_message_that_asks_it() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let text = |text: &str| json!({"type": "text", "text": text});
    let image = |data: &str| json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{data}")}});
    let parts = json!([
        text("Image A:"),
        image("AAAA"),
        text("Image B:"),
        image("BBBB"),
        text("Which is newer?")
    ]);
    let asking = json!({"role": "user", "name": "bob", "content": parts});
    let sent = || upstream.last().json()["messages"].clone();
    let asked = direct(json!({"messages": [asking]}));
    answered(&server, asked.clone(), false).await;
    assert_eq!(sent(), json!([asking]));
    // The call that gives an answer its form asks the same.
    let mut formed = asked.clone();
    formed["tools"] = json!([{"type": "function", "function": {"name": "f"}}]);
    answered(&server, formed, false).await;
    assert_eq!(sent(), json!([asking]));
    // Line breaks at its ends are part of it.
    answered(&server, direct(json!({"messages": [{"role": "user", "content": " a\n"}]})), false)
        .await;
    assert_eq!(sent(), json!([{"role": "user", "content": " a\n"}]));
    // A prompt of a policy's own is a message of its own, with the notes before the question in
    // one.
    let turns = ["<think>t</think><answer>A draft</answer>"];
    let server = Setup::turns(turns).start(&upstream).await;
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    answered(&server, request(json!({"messages": [asking], "tools": tools})), false).await;
    let messages = sent();
    let content = messages[0]["content"].as_array().unwrap();
    assert_eq!(messages.as_array().unwrap().len(), 1, "{messages}");
    assert!(content[0]["text"].as_str().unwrap().contains("A draft"), "{messages}");
    assert_eq!(json!(content[1..]), parts);
}

#[tokio::test]
async fn a_limit_goes_by_the_name_that_the_endpoint_takes() {
    let refusing = |name: &'static str, hint: &'static str| {
        move |request: &crate::loopback::Recorded| match request.json().get(name) {
            Some(_) => Script::error(400, &format!("Unsupported parameter: '{name}'.{hint}")),
            None => Script::reply("ok"),
        }
    };
    let messages = json!([{"role": "user", "content": "Where?"}]);
    let policy = json!({"policy": "direct"});
    let table = [
        (
            "/v1/messages",
            json!({"model": "prompt-r1", "max_tokens": 50, "messages": messages,
                   "prompt_r1": policy}),
        ),
        (
            "/v1/responses",
            json!({"model": "prompt-r1", "max_output_tokens": 50, "input": "Where?",
                   "prompt_r1": policy}),
        ),
    ];
    for (path, body) in table {
        for (refused, hint, taken) in [
            ("max_completion_tokens", "", "max_tokens"),
            ("max_tokens", " Use 'max_completion_tokens' instead.", "max_completion_tokens"),
        ] {
            let upstream = Loopback::answering(refusing(refused, hint)).await;
            let server = Setup::relay().start(&upstream).await;
            let (status, reply) = server.json(path, body.clone()).await;
            assert_eq!(status, 200, "{path} {refused}: {reply}");
            assert_eq!(upstream.last().json()[taken], 50, "{path} {refused}");
        }
    }
}

/// Thoughts and then an answer, letter by letter; the last letter of the thoughts may begin a
/// secret.
fn thinking() -> Script {
    let piece = |key: &str, letter: char| chunk(json!({key: letter}), None).to_string();
    let thoughts = "So it is".chars().map(|letter| piece("reasoning_content", letter));
    let answer = "In Lyon".chars().map(|letter| piece("content", letter));
    let end = chunk(json!({}), Some("stop")).to_string();
    let events: Vec<_> = thoughts.chain(answer).chain([end, "[DONE]".to_owned()]).collect();
    Script::events(events)
}

#[tokio::test]
async fn the_large_models_thoughts_stream_before_its_answer() {
    let upstream = Loopback::answering(|_| thinking()).await;
    let mut setup = Setup::relay();
    setup.endpoint = json!({"api_key_env": "TEST_KEY"});
    let server = setup.start(&upstream).await;
    let policy = json!({"policy": "direct"});
    let bare = json!({"model": "prompt-r1", "stream": true, "prompt_r1": policy});
    let with = |fields: Value| {
        let mut body = bare.clone();
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };
    let question = json!([{"role": "user", "content": "Where?"}]);
    let streamed = async |path: &str, body: Value| {
        let text = server.ask(path, body).await.text().await.unwrap();
        events(&text).0
    };

    let chunks = streamed(CHAT, with(json!({"messages": question}))).await;
    let deltas: Vec<_> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    let thoughts: Vec<_> =
        deltas.iter().filter_map(|it| it["reasoning_content"].as_str()).collect();
    assert!(thoughts.len() > 5 && thoughts.concat() == "So it is", "{thoughts:?}");
    let last = deltas.iter().rposition(|delta| delta["reasoning_content"].is_string()).unwrap();
    let is_said = |delta: &&Value| delta["content"].as_str().is_some_and(|it| !it.is_empty());
    assert!(!deltas[..last].iter().copied().any(|delta| is_said(&delta)), "{deltas:?}");

    let fields = json!({"messages": question, "max_tokens": 50, "thinking": {"type": "adaptive"}});
    let found = streamed("/v1/messages", with(fields)).await;
    let blocks = found.iter().filter_map(|event| event["content_block"]["type"].as_str());
    assert_eq!(blocks.collect::<Vec<_>>(), ["thinking", "text"]);

    let found = streamed("/v1/responses", with(json!({"input": "Where?"}))).await;
    let output = found.last().unwrap()["response"]["output"].as_array().unwrap();
    let kinds: Vec<_> = output.iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["reasoning", "message"]);
    assert_eq!(output[0]["summary"][0]["text"], "So it is");

    // One that is checked before it is shown.
    let form = json!({"type": "json_object"});
    let object = json!({"role": "assistant", "content": "{}", "reasoning": "Hm."});
    upstream.then(Script::message(object, "stop"));
    let chunks = streamed(CHAT, with(json!({"messages": question, "response_format": form}))).await;
    let deltas: Vec<_> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    let at = |wanted: fn(&Value) -> bool| deltas.iter().position(|delta| wanted(delta)).unwrap();
    let thought = at(|delta| delta["reasoning_content"] == "Hm.");
    assert!(thought < at(|delta| delta["content"] == "{}"), "{deltas:?}");
}
