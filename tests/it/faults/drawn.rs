//! Random faults of all kinds, under every protocol: complete replies reach the client unchanged,
//! requests that may have been billed are sent once, and memory stays flat.
//!
//! `PROMPT_R1_TEST_FAULTS` sets the number of requests, `PROMPT_R1_TEST_SEED` the draw:
//! `PROMPT_R1_TEST_FAULTS=10000 cargo test --test it faults::drawn -- --nocapture`

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reqwest::{Client, Response};
use serde_json::{Value, json};

use super::memory;
use crate::loopback::{Cut, Loopback, Recorded, Script, USAGE, chunk, completion};
use crate::process::Process;
use crate::server::events;

/// Requests of the short form.
const FEW: usize = 400;
const AT_ONCE: usize = 32;
/// Allowed growth over the second half of the requests, bytes.
const MAX_GAINED: i64 = 24 * 1024 * 1024;
/// Far longer than any request may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// A complete reply: the client gets it, and it is not requested again.
    Whole,
    /// It was not served and may be retried.
    Refused,
    /// It may have been billed, and is not retried.
    Broken,
}
use Effect::{Broken, Refused, Whole};

/// The reply to the question of this tag: characters of one to four bytes.
fn text(tag: &str) -> String {
    format!("{tag}: été «à» Łódź 東京 🌧 & <b> fin")
}

fn data(delta: Value, reason: Option<&str>) -> String {
    format!("data: {}\n\n", chunk(delta, reason))
}

/// The last events of a stream.
fn end(reason: &str, usage: Value) -> String {
    let last = json!({"choices": [], "usage": usage});
    format!("{}data: {last}\n\ndata: [DONE]\n\n", data(json!({}), Some(reason)))
}

fn usage() -> Value {
    json!({"prompt_tokens": USAGE.0, "completion_tokens": USAGE.1})
}

/// A stream of these bytes, whole or byte by byte.
fn stream(body: &str, rng: &mut StdRng) -> Script {
    let script = Script::bytes(200, "text/event-stream", body);
    if rng.random_bool(0.8) { script } else { script.drip(Duration::ZERO) }
}

/// Complete replies in all common forms, with the same meaning.
fn whole(tag: &str, is_stream: bool, rng: &mut StdRng) -> Script {
    let text = text(tag);
    if !is_stream {
        let mut reply = completion(&json!({"role": "assistant", "content": text}), "stop");
        return match rng.random_range(0..8) {
            0 => Script::reply(&text),
            1 => Script::bytes(200, "application/json", format!("\u{feff}{reply}")),
            2 => Script::bytes(
                200,
                "application/json",
                reply.to_string().replacen('{', "{\"x\": NaN,", 1),
            ),
            3 => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(reply.to_string().as_bytes()).unwrap();
                let body = encoder.finish().unwrap();
                Script::bytes(200, "application/json", body).header("content-encoding", "gzip")
            }
            4 => {
                reply["error"] = json!({"code": 0, "message": ""});
                reply["usage"] = json!({"prompt_tokens": 11.0, "completion_tokens": "7"});
                Script::json(200, reply)
            }
            5 => {
                reply["choices"][0]["message"]["content"] = json!([{"type": "text", "text": text}]);
                Script::json(200, reply)
            }
            6 => {
                reply["choices"][0]["finish_reason"] = json!("eos_token");
                Script::bytes(200, "application/json", format!("\n  {reply}"))
            }
            _ => (0..300).fold(Script::json(200, reply), |script, number| {
                script.header(&format!("x-{number}"), "1")
            }),
        };
    }
    let letters: Vec<String> = text.chars().map(String::from).collect();
    let spelled: String = letters.iter().map(|it| data(json!({"content": it}), None)).collect();
    let whole = data(json!({"role": "assistant", "content": text}), None);
    match rng.random_range(0..9) {
        0 => Script::reply(&text),
        1 => stream(&(spelled + &end("stop", usage())), rng),
        2 => {
            let beats =
                "data:\n\nevent: ping\ndata: x\n\n: comment\n\ndata: {\"type\":\"ping\"}\n\n";
            stream(&format!("{beats}{whole}{beats}{}", end("stop", usage())), rng)
        }
        3 => {
            let parts = |text: &String| json!({"content": [{"type": "text", "text": text}]});
            let events: String = letters.iter().map(|it| data(parts(it), None)).collect();
            stream(&(events + &end("stop", usage())), rng)
        }
        4 => {
            // Characters beyond the first plane as two halves, in two events.
            let mut events = String::new();
            for letter in text.chars() {
                let mut units = [0; 2];
                for unit in letter.encode_utf16(&mut units) {
                    let delta = chunk(json!({"content": "#"}), None).to_string();
                    let delta = delta.replacen("\"#\"", &format!("\"\\u{unit:04x}\""), 1);
                    events.push_str(&format!("data: {delta}\n\n"));
                }
            }
            stream(&(events + &end("stop", usage())), rng)
        }
        5 => stream(&(whole + &end("STOP", usage())).replace('\n', "\r\n"), rng),
        6 => stream(&(whole + &end("eos", json!({"prompt_tokens": 11.0}))), rng),
        7 => stream(&(whole + &data(json!({"content": null}), None) + &end("stop", usage())), rng),
        // Asked for a stream, it sends everything at once.
        _ => Script::json(200, completion(&json!({"role": "assistant", "content": text}), "stop")),
    }
}

/// Faults of requests that were not served.
fn refused(rng: &mut StdRng) -> Script {
    match rng.random_range(0..9) {
        0 => Script::error(429, "slow down").header("retry-after", "30"),
        1 => Script::error(429, "slow down").header("retry-after", "0"),
        2 => Script::error(500, "it broke"),
        3 => Script::bytes(503, "text/html", "<h1>busy</h1>"),
        4 => Script::json(503, json!([{"error": {"code": 503, "message": "overloaded"}}])),
        5 => Script::json(529, json!({"type": "error", "error": {"type": "overloaded_error"}})),
        6 => Script::nothing(Cut::Reset),
        7 => Script::nothing(Cut::Close),
        _ => Script::error(400, "too odd"),
    }
}

/// Faults after a request may have been billed.
fn broken(tag: &str, is_stream: bool, rng: &mut StdRng) -> Script {
    let half = text(tag);
    let cut = [Cut::Close, Cut::Reset, Cut::Stall][rng.random_range(0..3)];
    match rng.random_range(0..8) {
        0 => Script::nothing(Cut::Stall),
        1 => Script::error(504, "upstream time-out"),
        2 => Script::bytes(200, "text/html", "<html>no API here</html>"),
        3 => Script::bytes(200, "application/json", "{\"choices\": [{\"mess"),
        4 if is_stream => {
            let error =
                "data: {\"object\":\"error\",\"message\":\"out of memory\",\"code\":500}\n\n";
            stream(&format!("{}{error}data: [DONE]\n\n", data(json!({"content": half}), None)), rng)
        }
        5 if is_stream => stream(&data(json!({"content": half}), None), rng),
        6 => Script::reply(&"x".repeat(300_000)),
        _ => Script::reply(&half).cut(rng.random_range(10..150), cut),
    }
}

/// The answer to each question, and the number of calls.
type Seen = Arc<Mutex<HashMap<String, Vec<Effect>>>>;

fn tag_of(request: &Recorded) -> String {
    request.prompt().split_whitespace().next().unwrap_or_default().to_owned()
}

async fn upstream(seen: Seen, seed: u64) -> Loopback {
    Loopback::answering(move |request| {
        let tag = tag_of(request);
        let is_stream = request.json()["stream"] == json!(true);
        let mut seen = seen.lock().unwrap();
        let number: u64 = tag.trim_start_matches('q').parse().unwrap_or(0);
        let effects = seen.entry(tag.clone()).or_default();
        let draw = seed ^ (number << 8) ^ effects.len() as u64;
        let mut rng = StdRng::seed_from_u64(draw);
        let effect = [Whole, Refused, Broken][[0, 0, 1, 1, 1, 2][rng.random_range(0..6)]];
        effects.push(effect);
        match effect {
            Whole => whole(&tag, is_stream, &mut rng),
            Refused => refused(&mut rng),
            Broken => broken(&tag, is_stream, &mut rng),
        }
    })
    .await
}

fn config(folder: &std::path::Path, upstream: &Loopback) -> std::path::PathBuf {
    let path = folder.join("server.toml");
    let text = format!(
        "[access]\nstore = {:?}\n[server]\nqueue = 1000\n[episode]\ndeadline_ms = 60000\n\
         [large_models.test]\nurl = {:?}\nmodel = \"m\"\napi_key_env = \"\"\n\
         max_reply_bytes = 100000\nbreaker = {{ failures = 0 }}\n\
         retries = {{ max = 2, base_ms = 1, cap_ms = 20 }}\n\
         timeouts = {{ connect_ms = 5000, first_byte_ms = 5000, idle_ms = 5000, total_ms = 30000 }}\n",
        folder.join("keys.db"),
        upstream.url(),
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// The APIs and modes of clients.
const WAYS: [&str; 5] = ["solve", "chat", "responses", "messages", "passed"];

async fn ask(client: &Client, url: &str, number: usize) -> Response {
    let question = format!("q{number} where?");
    let messages = json!([{"role": "user", "content": question}]);
    let is_stream = number / 5 % 2 == 1;
    let (path, mut body) = match WAYS[number % 5] {
        "solve" => ("solve", json!({"question": question})),
        "chat" => ("chat/completions", json!({"model": "prompt-r1", "messages": messages})),
        "responses" => ("responses", json!({"model": "prompt-r1", "input": question})),
        "messages" => {
            // The limit is on words of the answer.
            ("messages", json!({"model": "prompt-r1", "max_tokens": 99, "messages": messages}))
        }
        _ => ("chat/completions", json!({"model": "m", "messages": messages})),
    };
    body["stream"] = json!(is_stream);
    client.post(format!("{url}/v1/{path}")).json(&body).send().await.expect("no response")
}

/// The answer that a client of this kind reads, or why there is none.
fn answer(way: &str, is_stream: bool, text: &str) -> Result<String, String> {
    if !is_stream {
        let body: Value = serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
        let place = match way {
            "solve" => "/answer",
            "chat" => "/choices/0/message/content",
            "responses" => "/output/0/content/0/text",
            _ => "/content/0/text",
        };
        let found = body.pointer(place).and_then(Value::as_str);
        return found.map(str::to_owned).ok_or_else(|| body.to_string());
    }
    let (all, _) = events(text);
    if let Some(error) = all.iter().find(|event| event["error"].is_object()) {
        return Err(error.to_string());
    }
    let pieces = all.iter().filter_map(|event| {
        let piece = match way {
            "solve" => event.get("answer"),
            "chat" => event.pointer("/choices/0/delta/content"),
            "responses" => event.get("delta"),
            _ => event.pointer("/delta/text"),
        };
        piece.and_then(Value::as_str)
    });
    Ok(pieces.collect())
}

/// Sends a request; returns how it ended, as one word.
async fn one(client: &Client, url: &str, number: usize, seen: &Seen) -> &'static str {
    let (way, is_stream) = (WAYS[number % 5], number / 5 % 2 == 1);
    let tag = format!("q{number}");
    if number % 11 == 7 {
        let patience = Duration::from_millis((number as u64 * 37) % 300);
        let _ = tokio::time::timeout(patience, ask(client, url, number)).await;
        return "left";
    }
    let response = ask(client, url, number).await;
    let status = response.status().as_u16();
    let is_final = response.headers().get("x-should-retry").is_some_and(|it| it == "false");
    let text_read = response.text().await;
    let effects = seen.lock().unwrap().get(&tag).cloned().unwrap_or_default();
    let shown = format!("{tag} {way} stream {is_stream} {effects:?}: {status} {text_read:?}");
    let billed = effects.iter().filter(|effect| **effect != Refused).count();
    assert!(billed <= 1, "it was asked again though it may have been billed: {shown}");
    assert!(!effects.is_empty(), "it never arrived: {shown}");
    let last = *effects.last().unwrap();
    if way == "passed" {
        // The client gets its endpoint's response unchanged.
        return "passed";
    }
    let text_read = text_read.unwrap_or_else(|_| panic!("it broke off: {shown}"));
    match last {
        Whole => {
            assert_eq!(status, 200, "{shown}");
            let found = answer(way, is_stream, &text_read);
            assert_eq!(found.as_deref(), Ok(&*text(&tag)), "{shown}");
            "answered"
        }
        _ if is_stream => {
            assert!(answer(way, is_stream, &text_read).is_err(), "{shown}");
            "failed"
        }
        Broken => {
            assert!(status >= 500 && is_final, "a client would pay twice: {shown}");
            "failed"
        }
        Refused => {
            assert!(status >= 400, "{shown}");
            "refused"
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout, reason = "the figures are worth a look")]
async fn nothing_is_lost_and_nothing_is_billed_twice() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<usize>().unwrap());
    let count = number("PROMPT_R1_TEST_FAULTS").unwrap_or(FEW);
    let seed = number("PROMPT_R1_TEST_SEED").unwrap_or(7) as u64;
    let seen = Seen::default();
    let upstream = upstream(Arc::clone(&seen), seed).await;
    let folder = tempfile::tempdir().unwrap();
    let mut server = Process::serve(&config(folder.path(), &upstream));
    // Some endpoints send more header fields than clients accept by default.
    let client = Client::builder().no_proxy().http1_max_headers(2_000).build().unwrap();
    let (mut outcomes, mut memories) = (BTreeMap::<_, usize>::new(), Vec::new());
    for part in [0..count / 2, count / 2..count] {
        let asked = part.map(|number| {
            let (client, url, seen) = (&client, &server.url, &seen);
            async move {
                let one = tokio::time::timeout(PATIENCE, one(client, url, number, seen)).await;
                one.unwrap_or_else(|_| panic!("{number} never ended"))
            }
        });
        let mut asked = futures::stream::iter(asked).buffer_unordered(AT_ONCE);
        while let Some(outcome) = asked.next().await {
            *outcomes.entry(outcome).or_default() += 1;
        }
        memories.push(memory(server.id()));
    }
    let calls: usize = seen.lock().unwrap().values().map(Vec::len).sum();
    let gained = memories[1] - memories[0];
    println!("{calls} calls of {count} requests: {outcomes:?}, {} kB gained", gained / 1024);
    assert!(gained < MAX_GAINED, "{memories:?} bytes");
    for outcome in ["answered", "failed", "refused", "passed"] {
        assert!(outcomes.contains_key(outcome), "{outcomes:?}");
    }
    assert_eq!(server.stop(), 0, "{}", server.log.text());
    assert!(!server.log.text().contains("panicked"), "{}", server.log.text());
}
