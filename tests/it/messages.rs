//! `POST /v1/messages` through the loop.

use serde_json::{Value, json};

use crate::loopback::{Loopback, Script};
use crate::server::{Server, Setup, events};

const PATH: &str = "/v1/messages";

fn request(fields: Value) -> Value {
    let mut request = json!({"model": "prompt-r1", "max_tokens": 100,
                             "messages": [{"role": "user", "content": "Where?"}]});
    for (key, value) in fields.as_object().unwrap() {
        request[key] = value.clone();
    }
    request
}

/// The events of a stream, which are named as their data says.
async fn streamed(server: &Server, fields: Value) -> Vec<Value> {
    let mut request = request(fields);
    request["stream"] = json!(true);
    let text = server.ask(PATH, request).await.text().await.unwrap();
    let (found, done) = events(&text);
    let names = text.lines().filter_map(|line| line.strip_prefix("event: "));
    assert!(!done && found.iter().map(|event| event["type"].as_str().unwrap()).eq(names), "{text}");
    found
}

/// The message that a client assembles from events.
fn assembled(events: &[Value]) -> Value {
    let mut message = events[0]["message"].clone();
    let mut blocks: Vec<Value> = Vec::new();
    let mut json_text = String::new();
    for event in events {
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(event["index"], blocks.len());
                blocks.push(event["content_block"].clone());
                json_text.clear();
            }
            "content_block_delta" => {
                let delta = &event["delta"];
                let block = blocks.last_mut().unwrap();
                for key in ["text", "thinking", "signature"] {
                    if let Some(more) = delta[key].as_str() {
                        block[key] = format!("{}{more}", block[key].as_str().unwrap()).into();
                    }
                }
                json_text.push_str(delta["partial_json"].as_str().unwrap_or_default());
                if !json_text.is_empty() {
                    // A call that was cut off is no whole JSON.
                    block["input"] = serde_json::from_str(&json_text).unwrap_or_else(|_| json!({}));
                }
            }
            "message_delta" => {
                for key in ["stop_reason", "stop_sequence"] {
                    message[key] = event["delta"][key].clone();
                }
                message["usage"] = event["usage"].clone();
                message["prompt_r1"] = event["prompt_r1"].clone();
            }
            _ => {}
        }
    }
    message["content"] = blocks.into();
    message
}

#[tokio::test]
async fn a_message_and_its_events() {
    let upstream = Loopback::answering(|_| Script::reply("In Lyon")).await;
    let server = Setup::relay().start(&upstream).await;
    let fields = json!({"system": [{"type": "text", "text": "Be terse."}],
                        "thinking": {"type": "enabled", "budget_tokens": 1024},
                        "metadata": {"user_id": "u"}});
    let asked = server.post(PATH, &request(fields.clone()));
    let asked = asked.header("x-api-key", "k").header("anthropic-version", "2023-06-01");
    let mut whole = asked.send().await.unwrap().json::<Value>().await.unwrap();
    insta::assert_json_snapshot!("a_message", whole);
    let sent = upstream.last().json();
    assert_eq!(sent["user"], "u");
    assert!(sent["messages"][0]["content"].as_str().unwrap().contains("Be terse."));
    assert_eq!(upstream.last().header("x-api-key"), None);
    let found = streamed(&server, fields).await;
    insta::assert_json_snapshot!("its_events", found);
    let assembled = assembled(&found);
    whole["id"] = assembled["id"].clone();
    assert_eq!(assembled, whole);
}

#[tokio::test]
async fn thoughts_are_shown_to_those_who_ask_for_them() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let table = [
        (json!({}), 1),
        (json!({"thinking": {"type": "disabled"}}), 1),
        (json!({"thinking": {"type": "adaptive"}}), 2),
        (json!({"thinking": {"type": "adaptive", "display": "omitted"}}), 1),
    ];
    for (fields, blocks) in table {
        let (_, body) = server.json(PATH, request(fields.clone())).await;
        assert_eq!(body["content"].as_array().unwrap().len(), blocks, "{body}");
        let streamed = assembled(&streamed(&server, fields).await);
        assert_eq!(streamed["content"], body["content"]);
    }
}

#[tokio::test]
async fn tools_are_called_and_answer() {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let tools = json!([{"name": "weather", "description": "of a city", "input_schema": schema}]);
    let upstream = Loopback::start().await;
    let server = Setup::turns([]).start(&upstream).await;
    let must = json!({"tools": tools, "tool_choice": {"type": "any"}});
    upstream.then(Script::weather_call());
    let (status, body) = server.json(PATH, request(must.clone())).await;
    let call = json!({"type": "tool_use", "id": "call_1", "name": "weather",
                      "input": {"city": "Lyon"}});
    assert_eq!((status, &body["content"]), (200, &json!([call])), "{body}");
    assert_eq!(body["stop_reason"], "tool_use");
    let sent = upstream.last().json();
    assert_eq!(
        (&sent["tools"][0]["function"]["parameters"], &sent["tool_choice"]),
        (&schema, &json!("required"))
    );
    upstream.then(Script::weather_call());
    assert_eq!(assembled(&streamed(&server, must).await)["content"], json!([call]));
    upstream.then(Script::reply("Sunny."));
    let result = json!([{"type": "tool_result", "tool_use_id": "call_1", "content": "sunny"}]);
    let messages = json!([{"role": "user", "content": "Where?"},
                          {"role": "assistant", "content": [call]},
                          {"role": "user", "content": result}]);
    let again = json!({"messages": messages, "tools": tools,
                       "tool_choice": {"type": "tool", "name": "weather"}});
    let (status, body) = server.json(PATH, request(again)).await;
    assert_eq!((status, &body["content"][0]["text"]), (200, &json!("Sunny.")), "{body}");
    let sent = upstream.last().json();
    assert_eq!(
        sent["messages"][2],
        json!({"role": "tool", "content": "sunny",
                                           "tool_call_id": "call_1"})
    );
}

#[tokio::test]
async fn a_call_that_is_cut_off_is_none_to_run() {
    let tools = json!([{"name": "weather", "input_schema": {"type": "object"}}]);
    let fields = json!({"tools": tools, "tool_choice": {"type": "any"}});
    let (whole, half) = ("{\"city\":\"Lyon\"}", "{\"city\":\"Ly");
    let (city, none) = (json!({"city": "Lyon"}), json!({}));
    let table = [
        (vec![half], "length", "max_tokens", vec![&none]),
        (vec![whole, half], "length", "max_tokens", vec![&city, &none]),
        (vec![whole], "length", "max_tokens", vec![&city]),
        (vec![half], "content_filter", "refusal", vec![&none]),
        (vec![whole], "tool_calls", "tool_use", vec![&city]),
    ];
    let upstream = Loopback::start().await;
    let server = Setup::turns([]).start(&upstream).await;
    for (arguments, said, reason, inputs) in table {
        for is_stream in [false, true] {
            upstream.then(Script::weather_calls(&arguments, said));
            let body = match is_stream {
                false => server.json(PATH, request(fields.clone())).await.1,
                true => {
                    let events = streamed(&server, fields.clone()).await;
                    let sent = events.iter().filter_map(|it| it["delta"]["partial_json"].as_str());
                    assert!(sent.eq(arguments.iter().copied()), "{events:?}");
                    assembled(&events)
                }
            };
            assert_eq!(body["stop_reason"], reason, "{body}");
            let blocks = body["content"].as_array().unwrap();
            let found: Vec<_> = blocks.iter().map(|block| &block["input"]).collect();
            assert_eq!(found, inputs, "{body}");
        }
    }
}

#[tokio::test]
async fn why_messages_end() {
    let upstream = Loopback::start().await;
    let refusing = json!({"role": "assistant", "content": null, "refusal": "No."});
    let said = |text: &str| json!({"role": "assistant", "content": text});
    let table = [
        (Script::message(said("one two"), "stop"), json!({}), "end_turn", "one two"),
        (Script::message(said("one two"), "length"), json!({}), "max_tokens", "one two"),
        (Script::message(said("one two"), "stop"), json!({"max_tokens": 1}), "max_tokens", "one"),
        (
            Script::message(said("one two"), "stop"),
            json!({"stop_sequences": ["x", " two"]}),
            "stop_sequence",
            "one",
        ),
        (Script::message(refusing, "stop"), json!({}), "refusal", "No."),
    ];
    for (script, fields, reason, text) in table {
        for is_stream in [false, true] {
            upstream.then(script.clone());
            let server =
                Setup::turns(["<final_prompt>Where?</final_prompt>"]).start(&upstream).await;
            let body = match is_stream {
                false => server.json(PATH, request(fields.clone())).await.1,
                true => assembled(&streamed(&server, fields.clone()).await),
            };
            let found = body["content"][0]["text"].as_str().unwrap().trim_end();
            assert_eq!((body["stop_reason"].as_str(), found), (Some(reason), text), "{body}");
            let stop = (reason == "stop_sequence").then_some(" two");
            assert_eq!(body["stop_sequence"], json!(stop));
            // An endpoint would not say which it was.
            assert_eq!(upstream.last().json().get("stop"), None);
        }
    }
}

#[tokio::test]
async fn errors_have_anthropics_form() {
    let upstream = Loopback::answering(|_| Script::error(429, "one at a time")).await;
    let server = Setup::relay().start(&upstream).await;
    let unknown = json!({"role": "user", "content": [{"type": "video"}]});
    let format = json!({"format": {"type": "json_schema", "schema": 7}});
    let clearing = |what: &str| {
        let edit = json!({"type": format!("clear_{what}")});
        json!({"context_management": {"edits": [edit]}})
    };
    let table = [
        (json!({"max_tokens": null}), 400, "invalid_request_error", "`max_tokens`"),
        (json!({"max_tokens": 0}), 400, "invalid_request_error", "`max_tokens`"),
        (json!({"messages": [unknown]}), 400, "invalid_request_error", "content[0].type`"),
        (json!({"output_config": format}), 400, "invalid_request_error", "output_config.format"),
        (json!({"mcp_servers": [{}]}), 400, "invalid_request_error", "`mcp_servers`"),
        (clearing("tool_uses_20250919"), 400, "invalid_request_error", "`context_management`"),
        // Done anyway.
        (clearing("thinking_20251015"), 429, "rate_limit_error", "one at a time"),
        (json!({"tools": [{"type": "bash_20250124"}]}), 400, "invalid_request_error", "tools[0]"),
        (json!({"temprature": 1}), 400, "invalid_request_error", "did you mean `temperature`?"),
        (json!({"temperature": 1.5}), 400, "invalid_request_error", "is not between 0 and 1"),
        (json!({"prompt_r1": {"large_model": "x"}}), 404, "not_found_error", "`x`"),
        (json!({}), 429, "rate_limit_error", "one at a time"),
    ];
    for (fields, status, kind, message) in table {
        let (found, error) = server.json(PATH, request(fields.clone())).await;
        assert_eq!((found, &error["type"]), (status, &json!("error")), "{fields}: {error}");
        assert_eq!(error["error"]["type"], kind, "{fields}: {error}");
        let text = error["error"]["message"].as_str().unwrap();
        assert!(text.contains(message), "{error}");
        let hint = error["error"]["hint"].as_str();
        assert!(hint.is_some() || !message.starts_with("did you mean"), "{error}");
        assert!(hint.is_none_or(|hint| text.ends_with(&format!("\nhint: {hint}"))), "{error}");
    }
    // Even if no handler was reached, and in a stream.
    let response = server.post(PATH, &json!({})).header("origin", "https://evil.example");
    let response = response.send().await.unwrap();
    assert_eq!(response.status(), 403);
    let error: Value = response.json().await.unwrap();
    assert_eq!(error["error"]["type"], "permission_error");
    let found = streamed(&server, json!({})).await;
    let last = found.last().unwrap();
    assert_eq!(
        (&last["type"], &last["error"]["type"]),
        (&json!("error"), &json!("rate_limit_error"))
    );
}
