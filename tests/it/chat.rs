//! `POST /v1/chat/completions` through the loop.

use prompt_r1::http::ReasoningField;
use serde_json::{Value, json};

use crate::loopback::{Cut, Loopback, Script, USAGE, chunk, completion};
use crate::server::{Setup, events};

const PATH: &str = "/v1/chat/completions";

/// A request with these fields beside its model and a message.
fn request(fields: Value) -> Value {
    let mut request = json!({"model": "prompt-r1",
                             "messages": [{"role": "user", "content": "Where?"}]});
    for (key, value) in fields.as_object().unwrap() {
        request[key] = value.clone();
    }
    request
}

/// The texts of a stream's deltas under `key`, joined.
fn joined(events: &[Value], key: &str) -> String {
    let texts = events.iter().filter_map(|event| event["choices"][0]["delta"][key].as_str());
    texts.collect()
}

#[tokio::test]
async fn a_completion() {
    let upstream = Loopback::answering(|_| Script::reply("In Lyon")).await;
    let server = Setup::relay().start(&upstream).await;
    let response = server.ask(PATH, request(json!({}))).await;
    assert_eq!(response.headers()["x-prompt-r1-turns"], "2");
    insta::assert_json_snapshot!(response.json::<Value>().await.unwrap());
}

#[tokio::test]
async fn its_chunks() {
    let upstream = Loopback::answering(|_| Script::reply("In Lyon")).await;
    let server = Setup::relay().start(&upstream).await;
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let text = server.ask(PATH, request(options)).await.text().await.unwrap();
    for field in ["id:", "event:", "retry:"] {
        assert!(!text.lines().any(|line| line.starts_with(field)), "{field}");
    }
    insta::assert_snapshot!(text);
    let text = server.ask(PATH, request(json!({"stream": true}))).await.text().await.unwrap();
    let (chunks, done) = events(&text);
    assert!(done && chunks.iter().all(|chunk| chunk.get("usage").is_none()));
}

#[tokio::test]
async fn words_that_are_handed_on_stream_live() {
    let upstream = Loopback::start().await;
    let script = Script::reply("In Lyon then").cut(420, Cut::Stall);
    upstream.then(script);
    let turns = ["<think>its words</think><final_prompt>Tell</final_prompt>"];
    let mut setup = Setup::turns(turns);
    setup.endpoint = json!({"timeouts": {"idle_ms": 300}});
    let server = setup.start(&upstream).await;
    let text = server.ask(PATH, request(json!({"stream": true}))).await.text().await.unwrap();
    let (chunks, done) = events(&text);
    let said = joined(&chunks, "content");
    assert!(!said.is_empty() && "In Lyon then".starts_with(&said), "{text}");
    // A truncated answer does not end silently.
    assert!(!done, "{text}");
    assert_eq!(chunks.last().unwrap()["error"]["code"], "large_model_timeout", "{text}");
}

#[tokio::test]
async fn thoughts_of_earlier_answers_stay_here() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    // As clients do: the message of the last answer, and the next question.
    let (_, first) = server.json(PATH, request(json!({}))).await;
    let mut answer = first["choices"][0]["message"].clone();
    answer["reasoning"] = answer["reasoning_content"].clone();
    assert!(answer["reasoning"].is_string());
    answer["name"] = json!("kept");
    let messages = json!([{"role": "user", "content": "Where?"}, answer,
                          {"role": "user", "content": "When?", "reasoning": "theirs"}]);
    let (status, _) = server.json(PATH, request(json!({"messages": messages}))).await;
    let sent = upstream.last().json();
    let sent = sent["messages"].as_array().unwrap().iter();
    let sent: Vec<_> = sent.filter(|message| message["role"] == "assistant").collect();
    assert_eq!((status, sent.len(), &sent[0]["name"]), (200, 1, &json!("kept")));
    assert!(sent[0].get("reasoning").is_none() && sent[0].get("reasoning_content").is_none());
}

#[tokio::test]
async fn thoughts_before_calls_go_back_to_a_model_that_needs_them() {
    let missing = "The `reasoning_content` in the thinking mode must be passed back to the API.";
    let upstream = Loopback::answering(move |request| {
        let sent = request.json();
        let mut messages = sent["messages"].as_array().unwrap().iter();
        match messages.all(|it| it["tool_calls"].is_null() || it["reasoning_content"].is_string()) {
            true => Script::reply("Sunny."),
            false => Script::error(400, missing),
        }
    })
    .await;
    let server = Setup::turns([]).start(&upstream).await;
    let call = json!({"id": "1", "type": "function",
                      "function": {"name": "weather", "arguments": "{}"}});
    // The first call teaches it. A client may have lost what was thought.
    let table = [
        (json!({"reasoning_content": "hm"}), 2, "hm"),
        (json!({"reasoning": "so"}), 3, "so"),
        (json!({}), 4, ""),
    ];
    for (mut answer, requests, thoughts) in table {
        answer["role"] = json!("assistant");
        answer["tool_calls"] = json!([call]);
        let messages = json!([{"role": "user", "content": "Where?"}, answer,
                              {"role": "tool", "tool_call_id": "1", "content": "sunny"}]);
        let tool = json!({"type": "function", "function": {"name": "weather"}});
        let fields = json!({"messages": messages, "tools": [tool], "tool_choice": "required"});
        let (status, body) = server.json(PATH, request(fields)).await;
        assert_eq!((status, upstream.requests().len()), (200, requests), "{body}");
        assert_eq!(body["choices"][0]["message"]["content"], "Sunny.");
        let sent = &upstream.last().json()["messages"][1];
        assert_eq!((&sent["reasoning_content"], sent.get("reasoning")), (&json!(thoughts), None));
    }
    let first = &upstream.requests()[0].json()["messages"][1];
    assert_eq!(first.get("reasoning_content"), None);
}

#[tokio::test]
async fn thoughts_come_once_unless_both_names_are_wanted() {
    let upstream = Loopback::start().await;
    let table = [
        (ReasoningField::ReasoningContent, true, false),
        (ReasoningField::Reasoning, false, true),
        (ReasoningField::Both, true, true),
    ];
    for (field, under_content, under_reasoning) in table {
        let mut setup = Setup::relay();
        setup.server.reasoning_field = field;
        let server = setup.start(&upstream).await;
        let text = server.ask(PATH, request(json!({"stream": true}))).await.text().await.unwrap();
        let (chunks, _) = events(&text);
        let (_, body) = server.json(PATH, request(json!({}))).await;
        let names = [("reasoning_content", under_content), ("reasoning", under_reasoning)];
        for (name, is_there) in names {
            let expected = if is_there { "ask\n\nso it is" } else { "" };
            assert_eq!(joined(&chunks, name), expected, "{field:?}");
            let message = &body["choices"][0]["message"];
            assert_eq!(message[name].as_str().unwrap_or_default(), expected, "{field:?}");
            assert_eq!(message.get(name).is_some(), is_there, "{field:?}");
        }
        assert_eq!(joined(&chunks, "content"), "ok");
        assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    }
}

#[tokio::test]
async fn thoughts_of_the_large_model_stand_in_for_the_policys() {
    let thinking = json!({"role": "assistant", "content": "ok", "reasoning": "hm"});
    let upstream = Loopback::answering(move |_| Script::message(thinking.clone(), "stop")).await;
    for (turn, expected) in [
        ("<final_prompt>Tell</final_prompt>", "hm"),
        ("<think>own</think><final_prompt>Tell</final_prompt>", "own"),
    ] {
        let server = Setup::turns([turn]).start(&upstream).await;
        let (_, body) = server.json(PATH, request(json!({}))).await;
        let message = &body["choices"][0]["message"];
        assert_eq!(
            (&message["reasoning_content"], message.get("reasoning")),
            (&json!(expected), None)
        );
        let server = Setup::turns([turn]).start(&upstream).await;
        let text = server.ask(PATH, request(json!({"stream": true}))).await.text().await.unwrap();
        let (chunks, _) = events(&text);
        assert_eq!(
            (joined(&chunks, "reasoning_content"), joined(&chunks, "reasoning")),
            (expected.to_owned(), String::new())
        );
    }
}

#[tokio::test]
async fn usage_counts_all_that_is_billed() {
    let reply = |details: Value| {
        let mut body = completion(&json!({"role": "assistant", "content": "ok"}), "stop");
        body["usage"].as_object_mut().unwrap().extend(details.as_object().cloned().unwrap());
        Script::json(200, body)
    };
    let details = json!({"prompt_tokens_details": {"cached_tokens": 5},
                         "completion_tokens_details": {"reasoning_tokens": 3}});
    let upstream = Loopback::answering(move |_| reply(details.clone())).await;
    let mut setup = Setup::turns([
        "<interaction_prompt>a</interaction_prompt>",
        "<interaction_prompt>b</interaction_prompt>",
        "<answer>c</answer>",
    ]);
    setup.endpoint = json!({"prices": {"input_per_million": 1.0, "output_per_million": 0.5}});
    let server = setup.start(&upstream).await;
    let (_, body) = server.json(PATH, request(json!({}))).await;
    let usage = &body["usage"];
    let (read, written) = (2 * USAGE.0, 2 * USAGE.1);
    assert_eq!(usage["prompt_tokens"], read);
    assert_eq!(usage["total_tokens"], read + written);
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 10);
    assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 6);
    assert_eq!(usage["prompt_r1"]["large_model"]["cost_nanos"], read * 1000 + written * 500);
    // A policy behind an endpoint is billed, too.
    let upstream = Loopback::answering(|_| Script::reply("<answer>c</answer>")).await;
    let server = Setup::policy(crate::chat_streams::remote(&upstream)).start(&upstream).await;
    let (_, body) = server.json(PATH, request(json!({}))).await;
    assert_eq!(body["usage"]["prompt_tokens"], USAGE.0);
    assert_eq!(body["usage"]["prompt_r1"]["large_model"]["calls"], 0);
}

#[tokio::test]
async fn log_probabilities_are_the_large_models() {
    let logprobs = |token: &str| json!({"content": [{"token": token, "logprob": -0.5, "bytes": null, "top_logprobs": []}]});
    let streamed = |token: &str| {
        let mut piece = chunk(json!({"content": token}), None);
        piece["choices"][0]["logprobs"] = logprobs(token);
        piece.to_string()
    };
    let end = chunk(json!({}), Some("stop")).to_string();
    let table = [
        Script::events([streamed("In"), streamed(" Lyon"), end.clone(), "[DONE]".to_owned()]),
        Script::reply("In Lyon"),
    ];
    for (script, has_them) in table.into_iter().zip([true, false]) {
        for is_stream in [false, true] {
            let upstream = Loopback::start().await;
            upstream.then(script.clone());
            let server =
                Setup::turns(["<final_prompt>Where?</final_prompt>"]).start(&upstream).await;
            let fields = json!({"logprobs": true, "top_logprobs": 2, "stream": is_stream});
            let response = server.ask(PATH, request(fields)).await;
            let status = response.status().as_u16();
            let text = response.text().await.unwrap();
            let sent = upstream.last().json();
            assert_eq!((&sent["logprobs"], &sent["top_logprobs"]), (&json!(true), &json!(2)));
            let last: Value = match is_stream {
                true => events(&text).0.pop().unwrap(),
                false => serde_json::from_str(&text).unwrap(),
            };
            if has_them {
                let content = last["choices"][0]["logprobs"]["content"].as_array().unwrap();
                let tokens: Vec<_> = content.iter().map(|token| &token["token"]).collect();
                assert_eq!(tokens, ["In", " Lyon"], "{text}");
            } else {
                assert_eq!(last["error"]["param"], "logprobs", "{text}");
                assert_eq!(status, if is_stream { 200 } else { 400 });
            }
        }
    }
}

#[tokio::test]
async fn which_large_model_is_asked() {
    let upstream = Loopback::start().await;
    let mut setup = Setup::relay();
    let other = json!({"url": upstream.url(), "model": "model-2", "retries": {"max": 0}});
    setup.others.insert("other".to_owned(), other);
    let server = setup.start(&upstream).await;
    let table = [
        (json!({}), "model-1"),
        (json!({"model": "prompt-r1/test"}), "model-1"),
        (json!({"model": "prompt-r1/other"}), "model-2"),
        (json!({"model": "prompt-r1/gpt/x"}), "gpt/x"),
        (json!({"prompt_r1": {"large_model": "other"}}), "model-2"),
    ];
    for (fields, model) in table {
        let (status, body) = server.json(PATH, request(fields.clone())).await;
        assert_eq!(status, 200, "{body}");
        assert_eq!(upstream.last().json()["model"], model);
        let asked = fields["model"].as_str().unwrap_or("prompt-r1");
        assert_eq!(body["model"], asked);
    }
}

#[tokio::test]
async fn unsupported_fields_are_refused_by_name() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let many = json!(["a", "b", "c", "d", "e"]);
    let table = [
        (json!({"messages": []}), "messages"),
        (json!({"messages": [{"role": "robot", "content": "a"}]}), "messages[0].role"),
        (json!({"messages": "a"}), "messages"),
        (json!({"temperatur": 1}), "temperatur"),
        (json!({"temperature": 3}), "temperature"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"n": 0}), "n"),
        (json!({"n": 17}), "n"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"stop": many}), "stop"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"functions": []}), "functions"),
        (json!({"audio": {}}), "audio"),
        (json!({"modalities": ["audio"]}), "modalities"),
        (json!({"tool_choice": "auto"}), "tool_choice"),
        (json!({"tools": [{}]}), "tools[0].type"),
        (json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (json!({"stream_options": {}}), "stream_options"),
        (json!({"prompt_r1": {"turns": 1}}), "prompt_r1.turns"),
        (json!({"prompt_r1": {"max_turns": 99}}), "prompt_r1.max_turns"),
        (json!({"prompt_r1": {"policy": "x"}}), "prompt_r1.policy"),
        (json!({"prompt_r1": {"large_model": "x"}}), "prompt_r1.large_model"),
    ];
    for (fields, param) in table {
        let (status, error) = server.json(PATH, request(fields.clone())).await;
        assert!(status == 400 || status == 404, "{fields}: {error}");
        assert_eq!(error["error"]["param"], param, "{fields}: {error}");
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn parameters_go_to_the_policy_or_the_large_model() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let fields = json!({"temperature": 0.5, "top_p": 0.9, "seed": 7, "user": "u",
                        "metadata": {"a": "b"}, "max_tokens": 50, "stop": "x", "n": 1,
                        "logprobs": false, "response_format": {"type": "text"}, "tools": []});
    let (status, _) = server.json(PATH, request(fields)).await;
    assert_eq!(status, 200);
    let mut sent = upstream.last().json();
    sent["messages"] = json!([]);
    // Streamed from the upstream, whatever the client wants.
    let stream = ["stream", "stream_options"].map(|key| sent.as_object_mut().unwrap().remove(key));
    assert_eq!(stream, [Some(json!(true)), Some(json!({"include_usage": true}))]);
    let expected = json!({"messages": [], "model": "model-1", "temperature": 0.5, "top_p": 0.9,
                          "seed": 7, "user": "u", "metadata": {"a": "b"}});
    assert_eq!(sent, expected, "a prompt is not the answer: its reply is not cut");
    let turns = ["<final_prompt>Tell</final_prompt>"];
    let server = Setup::turns(turns).start(&upstream).await;
    server.json(PATH, request(json!({"max_completion_tokens": 50}))).await;
    assert_eq!(upstream.last().json()["max_completion_tokens"], 50);
    // What ends the answer also ends its writing, unless the whole of it must be seen.
    let tool = json!({"type": "function", "function": {"name": "f"}});
    let table = [
        (json!({"stop": "x"}), Some(json!(["x"]))),
        (json!({"stop": ["x", "", "y"]}), Some(json!(["x", "y"]))),
        (json!({"stop": [""]}), None),
        (json!({"stop": "x", "response_format": {"type": "json_object"}}), None),
        (json!({"stop": "x", "tools": [tool]}), None),
    ];
    let upstream = Loopback::answering(|_| Script::reply("{}")).await;
    for (fields, stop) in table {
        let server = Setup::turns(turns).start(&upstream).await;
        let (status, _) = server.json(PATH, request(fields.clone())).await;
        assert_eq!((status, upstream.last().json().get("stop")), (200, stop.as_ref()), "{fields}");
    }
}

#[tokio::test]
async fn where_the_answer_ends() {
    let upstream = Loopback::start().await;
    let turns = ["<think>t</think><answer>one two three four</answer>"];
    let table = [
        (json!({"stop": "three"}), "one two ", "stop"),
        (json!({"stop": ["x", "two"]}), "one ", "stop"),
        (json!({"max_tokens": 2}), "one two", "length"),
        (json!({"max_completion_tokens": 3, "max_tokens": 9}), "one two three", "length"),
        (json!({"max_tokens": 4}), "one two three four", "stop"),
    ];
    for (fields, answer, reason) in table {
        let server = Setup::turns(turns).start(&upstream).await;
        let (_, body) = server.json(PATH, request(fields.clone())).await;
        let choice = &body["choices"][0];
        assert_eq!(
            choice["message"]["content"].as_str().map(str::trim_end),
            Some(answer.trim_end())
        );
        assert_eq!(choice["finish_reason"], reason, "{fields}");
        let mut streamed = request(fields.clone());
        streamed["stream"] = json!(true);
        let text = server.ask(PATH, streamed).await.text().await.unwrap();
        let (chunks, _) = events(&text);
        assert_eq!(joined(&chunks, "content"), choice["message"]["content"].as_str().unwrap());
        let last = &chunks.last().unwrap()["choices"][0];
        assert_eq!(last["finish_reason"], reason, "{fields}");
    }
}

#[tokio::test]
async fn several_answers_side_by_side() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let (status, body) = server.json(PATH, request(json!({"n": 3, "seed": 7}))).await;
    assert_eq!(status, 200, "{body}");
    let indices: Vec<_> = body["choices"].as_array().unwrap().iter().map(|c| &c["index"]).collect();
    assert_eq!(indices, [0, 1, 2]);
    let seeds: Vec<_> = upstream.requests().iter().map(|r| r.json()["seed"].clone()).collect();
    let distinct: std::collections::HashSet<_> = seeds.iter().map(Value::to_string).collect();
    assert_eq!(distinct.len(), 3, "{seeds:?}");
    // The upstream's usage, without the policy's tokens.
    assert_eq!(body["usage"]["prompt_tokens"], 3 * USAGE.0);
    assert_eq!(body["usage"]["completion_tokens"], 3 * USAGE.1);
    assert_eq!(body["usage"]["prompt_r1"]["turns"], 6);
    let streamed = request(json!({"n": 2, "stream": true}));
    let text = server.ask(PATH, streamed).await.text().await.unwrap();
    let (chunks, done) = events(&text);
    let ends = chunks.iter().filter(|chunk| chunk["choices"][0]["finish_reason"].is_string());
    assert_eq!((ends.count(), done), (2, true));
}

#[tokio::test]
async fn a_whole_conversation_reaches_both() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}});
    let sound = json!({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}});
    let earlier = json!({"role": "user", "content": [image, {"type": "text", "text": "See"}]});
    let messages = json!([
        {"role": "system", "content": "Be brief.", "name": "boss"},
        earlier,
        {"role": "assistant", "content": "Seen"},
        {"role": "user", "content": [{"type": "text", "text": "Where?"}, sound, image]},
    ]);
    let (status, body) = server.json(PATH, request(json!({"messages": messages}))).await;
    assert_eq!(status, 200, "{body}");
    let sent = upstream.last().json()["messages"].as_array().unwrap().clone();
    // One system message, with the client's text in it.
    assert_eq!(sent[0], json!({"role": "system", "content": "Be brief."}));
    assert_eq!(sent[1..3], messages.as_array().unwrap()[1..3]);
    assert_eq!(sent[3]["content"][0], sound);
    assert_eq!(sent[3]["content"][1], image);
    // The policy was shown that there is more than text, and referred to it.
    let prompt = sent[3]["content"][2]["text"].as_str().unwrap();
    assert_eq!(prompt, "Where?\n[input_audio]\n[image_url]");
}

fn schema() -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "place", "strict": true, "schema": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}})
}

#[tokio::test]
async fn an_answer_of_json() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let asked = request(json!({"response_format": schema()}));
    let good = "{\"city\": \"Lyon\"}";
    // Right at once; right at the second attempt; never.
    upstream.then(Script::reply("Lyon")).then(Script::reply(good));
    let (status, body) = server.json(PATH, asked.clone()).await;
    assert_eq!((status, &body["choices"][0]["message"]["content"]), (200, &json!(good)));
    assert_eq!(body["choices"][0]["prompt_r1"]["answer_source"], "large_model");
    let last = upstream.last().json();
    assert_eq!(last["response_format"], schema());
    let messages = last["messages"].as_array().unwrap();
    // The replies are user text, never a system message, and roles alternate.
    assert_eq!((messages.len(), &messages[0]["role"]), (1, &json!("user")));
    let notes = messages[0]["content"].as_str().unwrap();
    assert!(notes.contains("Lyon") && notes.contains("Where?"), "{notes}");
    assert!(notes.ends_with("\n\nWhere?"), "{notes}");
    let first = &upstream.requests()[0].json();
    assert!(first.get("response_format").is_none(), "only the answer has a form");

    upstream.then(Script::reply("Lyon")).then(Script::reply("{}")).then(Script::reply(good));
    let (status, body) = server.json(PATH, asked.clone()).await;
    assert_eq!((status, &body["choices"][0]["message"]["content"]), (200, &json!(good)));
    assert_eq!(body["usage"]["completion_tokens"], 3 * USAGE.1);

    for stream in [false, true] {
        upstream.then(Script::reply("Lyon")).then(Script::reply("{}")).then(Script::reply("no"));
        let mut asked = asked.clone();
        asked["stream"] = json!(stream);
        let response = server.ask(PATH, asked).await;
        let error = if stream {
            let (chunks, done) = events(&response.text().await.unwrap());
            assert!(!done && joined(&chunks, "content").is_empty());
            chunks.last().unwrap().clone()
        } else {
            assert_eq!(response.status(), 502);
            assert_eq!(response.headers()["x-should-retry"], "false");
            response.json().await.unwrap()
        };
        assert_eq!(error["error"]["code"], "invalid_response_format", "{error}");
    }
}

#[tokio::test]
async fn tools_are_the_large_models_to_call() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let tools = json!([{"type": "function", "function": {"name": "weather", "parameters": {}}}]);
    let call = json!({"id": "call_1", "type": "function",
                      "function": {"name": "weather", "arguments": "{\"city\":\"Lyon\"}"}});
    let message = json!({"role": "assistant", "content": null, "tool_calls": [call]});
    let asked = request(json!({"tools": tools, "tool_choice": "auto"}));
    upstream.then(Script::reply("Lyon")).then(Script::message(message.clone(), "tool_calls"));
    let (status, body) = server.json(PATH, asked.clone()).await;
    assert_eq!(status, 200, "{body}");
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["tool_calls"], json!([call]));
    assert_eq!(choice["message"]["content"], Value::Null);
    let sent = upstream.last().json();
    assert_eq!((&sent["tools"], &sent["tool_choice"]), (&tools, &json!("auto")));
    assert!(upstream.requests()[0].json().get("tools").is_none());

    upstream.then(Script::reply("Lyon")).then(Script::message(message.clone(), "tool_calls"));
    let mut streamed = asked.clone();
    streamed["stream"] = json!(true);
    let (chunks, done) = events(&server.ask(PATH, streamed).await.text().await.unwrap());
    let mut numbered = call.clone();
    numbered["index"] = json!(0);
    let deltas: Vec<_> =
        chunks.iter().filter_map(|c| c["choices"][0]["delta"].get("tool_calls")).collect();
    assert_eq!((deltas, done), (vec![&json!([numbered])], true));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");

    // The results come back in the conversation, which is all the state there is.
    let result = json!({"role": "tool", "tool_call_id": "call_1", "content": "sunny"});
    let mut next = asked.clone();
    next["messages"] = json!([asked["messages"][0], message, result]);
    upstream.then(Script::reply("noted")).then(Script::reply("It is sunny"));
    let (status, body) = server.json(PATH, next.clone()).await;
    assert_eq!((status, &body["choices"][0]["message"]["content"]), (200, &json!("It is sunny")));
    let requests = upstream.requests();
    let sent = requests[requests.len() - 1].json()["messages"].as_array().unwrap().clone();
    let question = sent[0]["content"].as_str().unwrap();
    assert!(question.contains("noted") && question.ends_with("\n\nWhere?"), "{question}");
    assert_eq!(sent[1..], next["messages"].as_array().unwrap()[1..]);
    let sent = requests[requests.len() - 2].json()["messages"].as_array().unwrap().clone();
    assert_eq!(sent[..3], next["messages"].as_array().unwrap()[..]);
}

#[tokio::test]
async fn a_failure_before_and_within_the_stream() {
    let upstream = Loopback::answering(|_| Script::error(500, "broken")).await;
    let server = Setup::relay().start(&upstream).await;
    let (status, error) = server.json(PATH, request(json!({}))).await;
    assert_eq!(
        (status, error["error"]["message"].as_str().unwrap().contains("broken")),
        (502, true)
    );
    let response = server.ask(PATH, request(json!({"stream": true}))).await;
    assert_eq!(response.status(), 200);
    let text = response.text().await.unwrap();
    let (chunks, done) = events(&text);
    assert_eq!(chunks.last().unwrap()["error"]["code"], "large_model_error");
    assert!(!done && text.ends_with("}\n\n"), "{text}");
}
