//! `POST /v1/responses` through the loop.

use serde_json::{Value, json};

use crate::loopback::{Loopback, Script};
use crate::server::{Server, Setup, events};

const PATH: &str = "/v1/responses";

fn request(fields: Value) -> Value {
    let mut request = json!({"model": "prompt-r1", "input": "Where?"});
    for (key, value) in fields.as_object().unwrap() {
        request[key] = value.clone();
    }
    request
}

fn weather() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    json!([{"type": "function", "name": "weather", "parameters": parameters, "strict": false}])
}

/// The events of a stream; they are numbered in order, and named as their data says.
async fn streamed(server: &Server, fields: Value) -> Vec<Value> {
    let mut request = request(fields);
    request["stream"] = json!(true);
    let text = server.ask(PATH, request).await.text().await.unwrap();
    let (found, done) = events(&text);
    assert!(!done, "{text}");
    let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    for (number, (event, name)) in found.iter().zip(&names).enumerate() {
        assert_eq!((&event["type"], &event["sequence_number"]), (&json!(name), &json!(number)));
    }
    assert_eq!(found.len(), names.len());
    found
}

#[tokio::test]
async fn a_response_and_its_events() {
    let upstream = Loopback::answering(|_| Script::reply("In Lyon")).await;
    let server = Setup::relay().start(&upstream).await;
    let fields = json!({"instructions": "Be terse.", "store": true, "metadata": {"a": "b"},
                        "reasoning": {"effort": "low", "summary": "auto"}});
    let response = server.ask(PATH, request(fields.clone())).await;
    assert_eq!(response.headers()["x-prompt-r1-turns"], "2");
    let whole = response.json::<Value>().await.unwrap();
    insta::assert_json_snapshot!("a_response", whole);
    let sent = upstream.last().json();
    assert_eq!((&sent["reasoning_effort"], sent.get("store")), (&json!("low"), None));
    assert_eq!(sent["messages"][0]["role"], "system");
    assert!(sent["messages"][0]["content"].as_str().unwrap().contains("Be terse."));
    let found = streamed(&server, fields).await;
    insta::assert_json_snapshot!("its_events", found);
    // The end of a stream is the whole response, but for its ids.
    let last = &found.last().unwrap()["response"];
    assert_eq!(last["usage"], whole["usage"]);
    assert_eq!(last["output"][1]["content"], whole["output"][1]["content"]);
    assert_eq!(last["output"][0]["summary"], whole["output"][0]["summary"]);
}

#[tokio::test]
async fn tools_are_called_and_answer() {
    let upstream = Loopback::start().await;
    let server = Setup::turns([]).start(&upstream).await;
    let required = json!({"tools": weather(), "tool_choice": "required"});
    upstream.then(Script::weather_call());
    let (status, body) = server.json(PATH, request(required.clone())).await;
    assert_eq!((status, &body["status"]), (200, &json!("completed")), "{body}");
    let call = body["output"][0].clone();
    let expected = json!({"id": call["id"], "type": "function_call", "status": "completed",
                          "call_id": "call_1", "name": "weather",
                          "arguments": "{\"city\":\"Lyon\"}"});
    assert_eq!(body["output"], json!([expected]));
    assert_eq!(upstream.last().json()["tools"][0]["function"]["name"], "weather");
    upstream.then(Script::weather_call());
    let found = streamed(&server, required).await;
    let kinds: Vec<_> = found.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(kinds, expected);
    // The tool's result is sent to the large model unchanged.
    upstream.then(Script::reply("Sunny."));
    let output = json!({"type": "function_call_output", "call_id": "call_1", "output": "sunny"});
    let input = json!([{"role": "user", "content": "Where?"}, call, output]);
    let again = json!({"input": input, "tools": weather(),
                       "tool_choice": {"type": "function", "name": "weather"}});
    let (status, body) = server.json(PATH, request(again.clone())).await;
    assert_eq!((status, &body["output"][0]["content"][0]["text"]), (200, &json!("Sunny.")));
    let whole = upstream.last().json();
    // The same by reference, as some clients do by themselves.
    let mut referring = again;
    referring["input"][1] = json!({"type": "item_reference", "id": call["id"]});
    let (status, _) = server.json(PATH, request(referring)).await;
    assert_eq!((status, upstream.last().json()), (200, whole));
    let sent = upstream.last().json();
    let roles: Vec<_> =
        sent["messages"].as_array().unwrap().iter().map(|message| &message["role"]).collect();
    assert_eq!(roles, ["user", "assistant", "tool"]);
}

#[tokio::test]
async fn a_call_that_is_cut_off_is_incomplete() {
    let fields = json!({"tools": weather(), "tool_choice": "required"});
    let (whole, half) = ("{\"city\":\"Lyon\"}", "{\"city\":\"Ly");
    let table = [
        (vec![half], "length", "incomplete", vec!["incomplete"]),
        (vec![whole, half], "length", "incomplete", vec!["completed", "incomplete"]),
        (vec![whole], "length", "incomplete", vec!["completed"]),
        (vec![whole], "tool_calls", "completed", vec!["completed"]),
    ];
    let upstream = Loopback::start().await;
    let server = Setup::turns([]).start(&upstream).await;
    for (arguments, said, status, statuses) in table {
        for is_stream in [false, true] {
            upstream.then(Script::weather_calls(&arguments, said));
            let body = match is_stream {
                false => server.json(PATH, request(fields.clone())).await.1,
                true => {
                    let events = streamed(&server, fields.clone()).await;
                    events.last().unwrap()["response"].clone()
                }
            };
            assert_eq!(body["status"], status, "{body}");
            let items = body["output"].as_array().unwrap();
            let found: Vec<_> = items.iter().map(|it| it["status"].as_str().unwrap()).collect();
            assert_eq!(found, statuses, "{body}");
        }
    }
}

#[tokio::test]
async fn answers_of_every_form() {
    let schema = json!({"type": "object", "required": ["city"]});
    let format = json!({"type": "json_schema", "name": "place", "schema": schema, "strict": true});
    let upstream = Loopback::start().await;
    let server = Setup::turns(["<final_prompt>Where?</final_prompt>"]).start(&upstream).await;
    upstream.then(Script::reply("{\"city\":\"Lyon\"}"));
    let fields = json!({"text": {"format": format, "verbosity": "low"}});
    let (status, body) = server.json(PATH, request(fields)).await;
    assert_eq!((status, &body["text"]["format"]), (200, &format), "{body}");
    assert_eq!(body["output"][0]["content"][0]["text"], "{\"city\":\"Lyon\"}");
    let sent = upstream.last().json();
    assert_eq!(sent["response_format"]["json_schema"]["schema"], schema);
    assert_eq!(sent["verbosity"], "low");
    // A refusal, and an answer that is truncated.
    let refusing = json!({"role": "assistant", "content": null, "refusal": "No."});
    let table = [
        (
            Script::message(refusing, "stop"),
            "completed",
            json!({"type": "refusal", "refusal": "No."}),
        ),
        (
            Script::message(json!({"role": "assistant", "content": "In"}), "length"),
            "incomplete",
            json!({"type": "output_text", "text": "In", "annotations": [], "logprobs": []}),
        ),
    ];
    for (script, status, part) in table {
        for is_stream in [false, true] {
            upstream.then(script.clone());
            let server =
                Setup::turns(["<final_prompt>Where?</final_prompt>"]).start(&upstream).await;
            let body = match is_stream {
                false => server.json(PATH, request(json!({}))).await.1,
                true => streamed(&server, json!({})).await.last().unwrap()["response"].clone(),
            };
            assert_eq!(
                (&body["status"], &body["output"][0]["content"][0]),
                (&json!(status), &part)
            );
        }
    }
}

#[tokio::test]
async fn failures_in_a_stream_are_reported() {
    let upstream = Loopback::answering(|_| Script::error(500, "it broke")).await;
    let server = Setup::relay().start(&upstream).await;
    let found = streamed(&server, json!({})).await;
    let [error, failed] = &found[found.len() - 2..] else { panic!("{found:?}") };
    assert_eq!(error["type"], "error");
    assert!(error["message"].as_str().unwrap().contains("it broke"), "{error}");
    assert_eq!(error["error"]["message"], error["message"]);
    assert_eq!(
        (&failed["type"], &failed["response"]["status"]),
        (&json!("response.failed"), &json!("failed"))
    );
    assert_eq!(failed["response"]["error"]["message"], error["message"]);
    let (status, body) = server.json(PATH, request(json!({}))).await;
    assert_eq!((status, body["error"]["message"].as_str()), (502, error["message"].as_str()));
}

#[tokio::test]
async fn unsupported_fields_are_refused_by_name() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let image = json!([{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]);
    let bad_schema = json!({"format": {"type": "json_schema", "name": "x", "schema": 7}});
    let table = [
        (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
        (json!({"conversation": "conv_1"}), "conversation"),
        (json!({"prompt": {"id": "pmpt_1"}}), "prompt"),
        (json!({"background": true}), "background"),
        (json!({"input": [{"type": "item_reference", "id": "fc_x"}]}), "input[0].id"),
        (json!({"truncation": "auto"}), "truncation"),
        (json!({"include": ["everything"]}), "include[0]"),
        (json!({"input": []}), "input"),
        (json!({"input": image}), "input[0].content[0].file_id"),
        (json!({"input": [{"role": "robot", "content": "a"}]}), "input[0].role"),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"text": {"format": {"type": "xml"}}}), "text.format.type"),
        (json!({"text": bad_schema}), "text.format.schema"),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"temperatur": 1}), "temperatur"),
        (json!({"top_logprobs": 99}), "top_logprobs"),
        (json!({"prompt_r1": {"max_turns": 99}}), "prompt_r1.max_turns"),
    ];
    for (fields, param) in table {
        let (status, error) = server.json(PATH, request(fields.clone())).await;
        assert_eq!((status, &error["error"]["param"]), (400, &json!(param)), "{fields}: {error}");
        let named = format!("`{param}`");
        assert!(error["error"]["message"].as_str().unwrap().contains(&named), "{error}");
    }
    assert!(upstream.requests().is_empty());
}
