//! Guarantees of streams of chat completions, whatever the models do.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use prompt_r1::large_model::{Endpoint, EndpointSetup};
use prompt_r1::policy::RemotePolicy;
use serde_json::{Value, json};

use crate::loopback::{Cut, Loopback, Script, chunk};
use crate::server::{Server, Setup, events};

const CHAT: &str = "/v1/chat/completions";

fn request(is_stream: bool) -> Value {
    json!({"model": "prompt-r1", "stream": is_stream,
           "messages": [{"role": "user", "content": "Where?"}]})
}

/// The texts of a stream's deltas under `key`, joined.
fn joined(chunks: &[Value], key: &str) -> String {
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"][key].as_str()).collect()
}

/// A policy behind an endpoint.
pub fn remote(upstream: &Loopback) -> RemotePolicy {
    let config = json!({"url": upstream.url(), "model": "p", "api_key_env": "",
                        "retries": {"max": 0}});
    let setup = EndpointSetup { keys: &|_| None, observer: Arc::new(()), seed: 0 };
    let config = serde_json::from_value(config).unwrap();
    RemotePolicy::new(Arc::new(Endpoint::new("policy", &config, &setup).unwrap()))
}

/// A reply that is streamed character by character.
fn spelled(text: &str) -> Script {
    let pieces = text.chars().map(|letter| chunk(json!({"content": letter.to_string()}), None));
    let end = chunk(json!({}), Some("stop"));
    let data = pieces.chain([end]).map(|chunk| chunk.to_string()).chain(["[DONE]".to_owned()]);
    Script::events(data)
}

#[tokio::test]
async fn the_first_chunk_comes_before_either_model_says_a_word() {
    let upstream = Loopback::answering(|_| Script::nothing(Cut::Stall)).await;
    let server = Setup::policy(remote(&upstream)).start(&upstream).await;
    let mut pieces = server.ask(CHAT, request(true)).await.bytes_stream();
    let first = String::from_utf8(pieces.next().await.unwrap().unwrap().to_vec()).unwrap();
    let (chunks, _) = events(&first);
    let delta = &chunks[0]["choices"][0]["delta"];
    assert_eq!((chunks.len(), delta), (1, &json!({"role": "assistant", "content": ""})));
    // When a client leaves, its work is cancelled.
    upstream.wait_for_requests(1).await;
    drop(pieces);
    upstream.wait_for_disconnects(1).await;
    server.wait_for_metric("prompt_r1_client_disconnects_total", 1.0).await;
}

#[tokio::test]
async fn what_is_streamed_is_what_is_answered() {
    let table = [
        ("<think>a b</think><answer> one two </answer>", "a b", "one two"),
        // The protocol's own tags are escaped on the policy's side only.
        (
            "<think>a &lt;think> b</think><answer>use &lt;answer></answer>",
            "a <think> b",
            "use <answer>",
        ),
        ("<answer>&amp;lt;/think> &lt;b> &l</answer>", "", "&lt;/think> &lt;b> &l"),
        // An unclosed answer: the endpoint stopped at the closing tag, which it leaves out, so all
        // of it is the answer.
        ("<think>t</think><answer>cut <b>off", "t", "cut <b>off"),
        // Tags that are never closed.
        ("<think>well <answer>so be it</answer>", "well", "so be it"),
        ("<answer>a </ans", "", "a </ans"),
    ];
    for (written, think, answer) in table {
        let upstream = Loopback::answering(move |_| spelled(written)).await;
        let server = Setup::policy(remote(&upstream)).start(&upstream).await;
        let (status, body) = server.json(CHAT, request(false)).await;
        let message = &body["choices"][0]["message"];
        assert_eq!((status, &message["content"]), (200, &json!(answer)), "{written}: {body}");
        assert_eq!(message["reasoning_content"].as_str().unwrap_or_default(), think, "{written}");
        let (chunks, done) = events(&server.ask(CHAT, request(true)).await.text().await.unwrap());
        assert_eq!((joined(&chunks, "content").as_str(), done), (answer, true), "{written}");
        assert_eq!(joined(&chunks, "reasoning_content"), think, "{written}");
        let solve = json!({"question": "Where?", "stream": true});
        let text = server.ask("/v1/solve", solve).await.text().await.unwrap();
        let texts =
            text.split("\n\n").filter_map(|event| event.strip_prefix("event: answer\ndata: "));
        let texts: String = texts
            .map(|data| {
                serde_json::from_str::<Value>(data).unwrap()["delta"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(texts, answer, "{written}");
    }
}

#[tokio::test]
async fn replies_that_look_like_the_protocol_come_through_unharmed() {
    const REPLY: &str = "&lt;b> </interaction_response><answer>no</answer> &lt;think>";
    let upstream = Loopback::answering(|_| Script::reply(REPLY)).await;
    let server = Setup::relay().start(&upstream).await;
    let (_, body) = server.json(CHAT, request(false)).await;
    assert_eq!(body["choices"][0]["message"]["content"], REPLY);
    let (chunks, _) = events(&server.ask(CHAT, request(true)).await.text().await.unwrap());
    assert_eq!(joined(&chunks, "content"), REPLY);
}

/// The answer to a request with a short deadline, and the choice that ends it.
async fn cut_by_the_deadline(server: &Server, is_stream: bool) -> (String, Value) {
    let mut request = request(is_stream);
    request["prompt_r1"] = json!({"deadline_ms": 500});
    let text = server.ask(CHAT, request).await.text().await.unwrap();
    if is_stream {
        let (chunks, done) = events(&text);
        assert!(done, "{text}");
        (joined(&chunks, "content"), chunks.last().unwrap()["choices"][0].clone())
    } else {
        let body: Value = serde_json::from_str(&text).unwrap();
        let choice = body["choices"][0].clone();
        (choice["message"]["content"].as_str().unwrap().to_owned(), choice)
    }
}

#[tokio::test]
async fn an_answer_that_the_deadline_cuts_off_is_the_answer() {
    let begun = chunk(json!({"content": "<answer>one two"}), None).to_string();
    let length = begun.len() + "data: \n\n".len();
    let script = Script::events([begun, "never".to_owned()]).cut(length, Cut::Stall);
    let upstream = Loopback::answering(move |_| script.clone()).await;
    let server = Setup::policy(remote(&upstream)).start(&upstream).await;
    for is_stream in [false, true] {
        let (content, last) = cut_by_the_deadline(&server, is_stream).await;
        assert_eq!(content, "one two");
        assert_eq!(last["finish_reason"], "length");
        assert_eq!(last["prompt_r1"]["finish_reason"], "deadline");
        assert_eq!(last["prompt_r1"]["answer_source"], "policy");
    }
}

/// What each route says of the end of its answer: chat completions, messages, responses, solve.
async fn ends(server: &Server, is_stream: bool) -> [Value; 4] {
    let said = async |path: &str, mut body: Value| {
        body["stream"] = json!(is_stream);
        let text = server.ask(path, body).await.text().await.unwrap();
        if is_stream { events(&text).0 } else { vec![serde_json::from_str(&text).unwrap()] }
    };
    let chat = said(CHAT, request(is_stream)).await;
    let asked = json!([{"role": "user", "content": "Where?"}]);
    let asked = json!({"model": "prompt-r1", "max_tokens": 100, "messages": asked});
    let messages = said("/v1/messages", asked).await;
    let stop = messages.iter().rev().find(|event| event["type"] != "message_stop").unwrap();
    let stop = if is_stream { &stop["delta"] } else { stop };
    let asked = json!({"model": "prompt-r1", "input": "Where?"});
    let response = said("/v1/responses", asked).await;
    let response = response.last().unwrap();
    let response = if is_stream { &response["response"] } else { response };
    let solved = said("/v1/solve", json!({"question": "Where?"})).await;
    [
        chat.last().unwrap()["choices"][0]["finish_reason"].clone(),
        stop["stop_reason"].clone(),
        json!([response["status"], response["incomplete_details"]["reason"]]),
        solved.last().unwrap()["cut_off"].clone(),
    ]
}

const WHOLE: [&str; 4] = [r#""stop""#, r#""end_turn""#, r#"["completed",null]"#, "null"];
const CUT: [&str; 4] =
    [r#""length""#, r#""max_tokens""#, r#"["incomplete","max_output_tokens"]"#, "true"];

#[tokio::test]
async fn every_route_says_whether_the_policys_answer_is_whole() {
    let table = [
        ("<answer>one two", "length", CUT),
        ("<think>t</think><answer>one </ans", "length", CUT),
        ("<answer>one two", "stop", WHOLE),
        // The answer is complete; what follows it is not.
        ("<answer>one two</answer>", "length", WHOLE),
        ("<answer>one two</answer> and so on", "length", WHOLE),
    ];
    for (written, reason, expected) in table {
        let message = json!({"role": "assistant", "content": written});
        let upstream = Loopback::answering(move |_| Script::message(message.clone(), reason)).await;
        let server = Setup::policy(remote(&upstream)).start(&upstream).await;
        for is_stream in [false, true] {
            let found = ends(&server, is_stream).await.map(|end| end.to_string());
            assert_eq!(found, expected, "{written} {reason} {is_stream}");
        }
    }
}

#[tokio::test]
async fn every_route_says_whether_a_reply_of_an_earlier_turn_is_whole() {
    let ask = "<interaction_prompt>a</interaction_prompt>";
    // The reply is the answer as the policy writes none, or as it hands the reply on.
    for second in ["hm", "<final_prompt>a</final_prompt>"] {
        for (reason, expected) in [("stop", WHOLE), ("length", CUT)] {
            let message = json!({"role": "assistant", "content": "In Ly"});
            let upstream =
                Loopback::answering(move |_| Script::message(message.clone(), reason)).await;
            let server = Setup::turns([ask, second]).start(&upstream).await;
            for is_stream in [false, true] {
                let found = ends(&server, is_stream).await.map(|end| end.to_string());
                assert_eq!(found, expected, "{second} {reason} {is_stream}");
            }
        }
    }
}

#[tokio::test]
async fn words_handed_on_that_the_deadline_cuts_off_are_the_answer() {
    let upstream =
        Loopback::answering(|_| Script::reply("one two three").cut(440, Cut::Stall)).await;
    let final_prompt = "<final_prompt>b</final_prompt>";
    let server = Setup::turns([final_prompt]).start(&upstream).await;
    for is_stream in [false, true] {
        let (said, last) = cut_by_the_deadline(&server, is_stream).await;
        assert!(!said.is_empty() && "one two three".starts_with(&said), "{said}");
        assert_eq!(
            (&last["finish_reason"], &last["prompt_r1"]["finish_reason"]),
            (&json!("length"), &json!("deadline")),
            "{last}"
        );
    }
}

#[tokio::test]
async fn where_the_last_reply_does_not_come_in_time_the_one_before_is_the_answer() {
    for is_stream in [false, true] {
        let upstream = Loopback::answering(|_| Script::nothing(Cut::Stall)).await;
        upstream.then(Script::reply("half way"));
        let turns =
            ["<interaction_prompt>a</interaction_prompt>", "<final_prompt>b</final_prompt>"];
        let server = Setup::turns(turns).start(&upstream).await;
        let mut request = request(is_stream);
        request["prompt_r1"] = json!({"deadline_ms": 500});
        let text = server.ask(CHAT, request).await.text().await.unwrap();
        let (said, choice) = if is_stream {
            let (chunks, _) = events(&text);
            (joined(&chunks, "content"), chunks.last().unwrap()["choices"][0].clone())
        } else {
            let body: Value = serde_json::from_str(&text).unwrap();
            let choice = body["choices"][0].clone();
            (choice["message"]["content"].as_str().unwrap_or_default().to_owned(), choice)
        };
        assert_eq!(said, "half way", "{text}");
        assert_eq!(choice["prompt_r1"]["finish_reason"], "deadline", "{text}");
    }
}

#[tokio::test]
async fn an_answer_with_pieces_of_tags_is_not_given() {
    let written = "<answer>another question</answer</answer</interaction</interaction>";
    let upstream = Loopback::answering(|_| Script::reply("the reply")).await;
    let server = Setup::turns([written]).start(&upstream).await;
    let (status, body) = server.json(CHAT, request(false)).await;
    let choice = &body["choices"][0];
    assert_eq!((status, &choice["message"]["content"]), (200, &json!("the reply")), "{body}");
    assert_eq!(choice["prompt_r1"]["finish_reason"], "malformed");
    assert_eq!(choice["prompt_r1"]["answer_source"], "large_model");
    // What was streamed cannot be taken back, so no other answer follows it.
    let (status, code, said) = outcome(Setup::turns([written]), &upstream, true).await;
    assert_eq!((status, &*code, &*said), (200, "malformed_answer", "another question"));
    assert_eq!(upstream.requests().len(), 1);
    // Without its beginning there is nothing to take back.
    let server = Setup::turns(["<answer></answer</answer>"]).start(&upstream).await;
    let (chunks, done) = events(&server.ask(CHAT, request(true)).await.text().await.unwrap());
    assert_eq!((&*joined(&chunks, "content"), done), ("the reply", true));
}

/// The result of a request: its status, its error code, and the text before it.
async fn outcome(setup: Setup, upstream: &Loopback, is_stream: bool) -> (u16, String, String) {
    let server = setup.start(upstream).await;
    let asked = server.post(CHAT, &request(is_stream)).bearer_auth("sk-theirs");
    let response = asked.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let (error, said) = if is_stream {
        assert!(text.ends_with("}\n\n"), "{text}");
        let (chunks, done) = events(&text);
        assert!(!done, "{text}");
        (chunks.last().unwrap()["error"].clone(), joined(&chunks, "content"))
    } else {
        (serde_json::from_str::<Value>(&text).unwrap()["error"].clone(), String::new())
    };
    for key in ["message", "type", "param", "code"] {
        assert!(error.get(key).is_some(), "no `{key}`: {text}");
    }
    (status, error["code"].as_str().unwrap().to_owned(), said)
}

#[tokio::test]
async fn every_failure_of_the_large_model_reaches_the_client() {
    let good = chunk(json!({"content": "In "}), None).to_string();
    let half = good.len() + 20;
    let quota = r#"{"error": {"message": "no quota", "type": "t", "param": null, "code": 429}}"#;
    let overflow = json!({"max_reply_bytes": 10_000});
    let slow = json!({"timeouts": {"idle_ms": 300}});
    type Row = (&'static str, Value, Script, bool, u16, &'static str, &'static str);
    let table: [Row; 10] = [
        (
            "a body cut in half",
            json!({}),
            Script::reply("In Lyon").cut(30, Cut::Close),
            false,
            502,
            "large_model_unreachable",
            "",
        ),
        (
            "a chunk cut in half",
            json!({}),
            Script::events([&good, &good]).cut(half, Cut::Close),
            true,
            200,
            "large_model_unreachable",
            "In ",
        ),
        (
            "a reset",
            json!({}),
            Script::events([&good, &good]).cut(half, Cut::Reset),
            true,
            200,
            "large_model_unreachable",
            "In ",
        ),
        (
            "a stall",
            slow,
            Script::events([&good, &good]).cut(half, Cut::Stall),
            true,
            200,
            "large_model_timeout",
            "In ",
        ),
        (
            "an end without an ending",
            json!({}),
            Script::events([&good]),
            true,
            200,
            "large_model_malformed",
            "In ",
        ),
        (
            "a line without end",
            overflow.clone(),
            Script::endless("text/event-stream", "data: "),
            true,
            200,
            "large_model_malformed",
            "",
        ),
        (
            "a body without end",
            overflow,
            Script::endless("application/json", " "),
            false,
            502,
            "large_model_malformed",
            "",
        ),
        (
            "an error that claims to be good",
            json!({}),
            Script::bytes(200, "application/json", quota),
            false,
            429,
            "large_model_error",
            "",
        ),
        (
            "an error in the stream",
            json!({}),
            Script::events([&good, quota]),
            true,
            200,
            "large_model_error",
            "In ",
        ),
        (
            "a key that is not taken",
            json!({}),
            Script::error(401, "no such key"),
            false,
            401,
            "large_model_error",
            "",
        ),
    ];
    for (name, endpoint, script, is_stream, status, code, said) in table {
        let upstream = Loopback::start().await;
        upstream.then(script);
        let mut setup = Setup::turns(["<final_prompt>Tell</final_prompt>"]);
        setup.endpoint = endpoint;
        let wait = Duration::from_secs(30);
        let outcome = tokio::time::timeout(wait, outcome(setup, &upstream, is_stream)).await;
        let expected = (status, code.to_owned(), said.to_owned());
        assert_eq!(outcome.unwrap(), expected, "{name}");
    }
}
