//! A large model that fails in every way, and clients that leave: each request ends in an answer or
//! a proper error within its deadline, and the server stays healthy.
//!
//! `PROMPT_R1_TEST_FAULTS` sets the number of requests:
//! `PROMPT_R1_TEST_FAULTS=10000 cargo test --test it faults:: -- --ignored --nocapture`

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};

use crate::loopback::{Cut, Loopback, Script};
use crate::process::{Process, configuration};
use crate::server::{client, events};

mod drawn;
mod names;

/// The deadline of a request.
const DEADLINE: Duration = Duration::from_secs(10);
/// The tolerance: the five seconds in which a stream may report its end, and a busy machine.
const SLACK: Duration = Duration::from_secs(8);
/// Concurrent requests: most of them wait for a failing large model.
const AT_ONCE: usize = 48;
/// Questions at the end, which a healthy server must answer.
const AFTERWARDS: usize = 12;
/// Allowed growth over the second half of the requests, bytes: twice the prefixes that the policy
/// may cache, which is all that is cached of a request.
const MAX_GAINED: i64 = 2 * KEPT * 1024 * 1024;
/// The same in MiB.
const KEPT: i64 = 8;

/// The large model's response to its request of this number.
fn fault(number: usize) -> Script {
    if number / 25 % 6 == 4 {
        return Script::error(503, "a burst");
    }
    let words = "one two three ".repeat(20);
    match number % 15 {
        0 | 7 | 14 => Script::reply("Ferk"),
        1 => Script::nothing(Cut::Stall),
        2 => Script::reply(&words).cut(150, Cut::Stall),
        3 => Script::reply(&words).drip(Duration::from_millis(20)),
        4 => Script::nothing(Cut::Reset),
        5 => Script::reply(&words).cut(150, Cut::Reset),
        6 => Script::reply(&words).cut(150, Cut::Close),
        8 => Script::error(429, "slow down").header("retry-after", "30"),
        9 => Script::error(429, "slow down"),
        10 => Script::bytes(200, "application/json", "{\"choices\": [{\"mess"),
        11 => Script::endless("text/event-stream", "data: {\"choices\": []}\n\n")
            // At full speed it would measure the machine.
            .drip(Duration::from_millis(1)),
        12 => Script::bytes(200, "text/html", "<html>no API here</html>"),
        _ => Script::reply(&"x".repeat(300_000)),
    }
}

async fn upstream(is_well: Arc<AtomicBool>) -> Loopback {
    let count = AtomicUsize::new(0);
    Loopback::answering(move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        if is_well.load(Ordering::Relaxed) { Script::reply("Ferk") } else { fault(number) }
    })
    .await
}

fn config(folder: &std::path::Path, upstream: &Loopback) -> std::path::PathBuf {
    let hasty = "max_reply_bytes = 100000\nbreaker = { failures = 0 }\n\
         retries = { max = 1, base_ms = 1, cap_ms = 50 }\n\
         timeouts = { connect_ms = 500, first_byte_ms = 500, idle_ms = 300, total_ms = 1500 }\n";
    let top = format!(
        "default_large_model = \"test\"\n[server]\nmax_in_flight = {AT_ONCE}\nqueue = 1000\n\
         [episode]\ndeadline_ms = 60000\nmax_turns = 3\n\
         [policy]\nengine = \"mistralrs\"\nmodel = \"models/policy\"\nmistralrs = {{ prefix_cache_mib = {KEPT} }}\n\
         [large_models.closed]\nurl = \"http://127.0.0.1:1/v1\"\nmodel = \"m\"\napi_key_env = \"\"\n{hasty}\
         [large_models.patient]\nurl = {:?}\nmodel = \"m\"\napi_key_env = \"\"",
        upstream.url(),
    );
    configuration(folder, upstream, &top, hasty)
}

/// The request of this number.
fn request(client: &Client, url: &str, number: usize) -> (RequestBuilder, bool) {
    let stream = number.is_multiple_of(2);
    let messages = json!([{"role": "user", "content": "What is Grania's president's birthplace?"}]);
    let large_model = if number % 11 == 5 { "closed" } else { "test" };
    let (path, body) = match number / 2 % 3 {
        0 => {
            let body = json!({"messages": messages, "large_model": large_model,
                              "deadline_ms": DEADLINE.as_millis() as u64});
            ("/v1/solve", body)
        }
        1 => {
            let model = format!("prompt-r1/{large_model}");
            let own = json!({"deadline_ms": DEADLINE.as_millis() as u64});
            let body = json!({"model": model, "messages": messages, "prompt_r1": own});
            ("/v1/chat/completions", body)
        }
        _ => ("/v1/chat/completions", json!({"model": large_model, "messages": messages})),
    };
    let mut body = body;
    body["stream"] = json!(stream);
    (client.post(format!("{url}{path}")).json(&body), stream)
}

/// How a request ended, as one word.
async fn outcome(request: RequestBuilder, is_stream: bool, is_passed: bool) -> String {
    let response = request.send().await.expect("the server did not answer");
    let status = response.status().as_u16();
    assert!([200, 429, 502, 503, 504].contains(&status), "{status}");
    let mut text = Vec::new();
    let (begun, mut pieces) = (Instant::now(), response.bytes_stream());
    while let Some(piece) = pieces.next().await {
        let Ok(piece) = piece else {
            // Only a passed-through response can break off, and then the client notices.
            assert!(is_passed && !is_stream, "a reply broke off");
            return "broken off".to_owned();
        };
        text.extend_from_slice(&piece);
        // What is passed through and makes progress is the client's to end.
        if is_passed && begun.elapsed() > DEADLINE {
            return "endless".to_owned();
        }
    }
    let text = String::from_utf8(text).unwrap();
    if status != 200 {
        let error: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
        assert!(error["error"]["message"].is_string(), "{error}");
        return format!("{status} {}", error["error"]["code"].as_str().unwrap_or_default());
    }
    if is_passed {
        return "passed".to_owned();
    }
    if !is_stream {
        let reply: Value = serde_json::from_str(&text).unwrap();
        let answer = reply.pointer("/choices/0/message/content").or(reply.get("answer"));
        assert!(answer.is_some_and(Value::is_string), "{reply}");
        return "answered".to_owned();
    }
    let (all, is_done) = events(&text);
    let last = all.last().unwrap_or_else(|| panic!("an empty stream: {text}"));
    let is_answered = is_done || last["object"] == "solve";
    let is_failed = last["error"]["message"].is_string();
    assert!(is_answered != is_failed, "{text}");
    if is_failed { "failed in the stream".to_owned() } else { "answered".to_owned() }
}

/// Sends the requests of these numbers; returns the number of each ending, and the longest time.
async fn load(url: &str, numbers: std::ops::Range<usize>) -> (BTreeMap<String, usize>, Duration) {
    let client = client();
    let asked = futures::stream::iter(numbers).map(|number| {
        let (request, is_stream) = request(&client, url, number);
        let is_passed = number / 2 % 3 == 2;
        async move {
            let begun = Instant::now();
            if number % 9 == 4 {
                // A client that leaves, at once or after some turns.
                let patience = Duration::from_millis((number as u64 * 37) % 700);
                let left =
                    tokio::time::timeout(patience, async { request.send().await?.bytes().await });
                let _ = left.await;
                return ("left".to_owned(), begun.elapsed());
            }
            let ended = outcome(request, is_stream, is_passed);
            let ended = tokio::time::timeout(DEADLINE + SLACK, ended).await;
            (ended.unwrap_or_else(|_| panic!("{number} never ended")), begun.elapsed())
        }
    });
    let mut asked = asked.buffer_unordered(AT_ONCE);
    let (mut outcomes, mut longest) = (BTreeMap::new(), Duration::ZERO);
    while let Some((outcome, took)) = asked.next().await {
        *outcomes.entry(outcome).or_default() += 1;
        longest = longest.max(took);
    }
    (outcomes, longest)
}

/// Bytes of memory that a process has.
fn memory(process: i32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<i64>().unwrap() * 1024
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and measures memory"]
#[allow(clippy::print_stdout, reason = "the figures are worth a look")]
async fn every_request_ends() {
    let count = std::env::var("PROMPT_R1_TEST_FAULTS");
    let count = count.map_or(180, |count| count.parse::<usize>().unwrap());
    let is_well = Arc::new(AtomicBool::new(false));
    let upstream = upstream(Arc::clone(&is_well)).await;
    let folder = tempfile::tempdir().unwrap();
    let mut server = Process::serve(&config(folder.path(), &upstream));
    let begun = Instant::now();
    let (mut outcomes, mut longest) = (BTreeMap::<String, usize>::new(), Duration::ZERO);
    let mut memories = Vec::new();
    for (from, to) in [(0, count / 10), (count / 10, count / 2), (count / 2, count)] {
        let part = load(&server.url, from..to).await;
        for (outcome, times) in part.0 {
            *outcomes.entry(outcome).or_default() += times;
        }
        longest = longest.max(part.1);
        memories.push(memory(server.id()));
    }
    println!("{count} requests in {:?}, the longest {longest:?}: {outcomes:#?}", begun.elapsed());
    let megabytes: Vec<_> = memories.iter().map(|bytes| bytes >> 20).collect();
    println!("memory after 10 %, 50 % and 100 % of them: {megabytes:?} MiB");
    assert_eq!(outcomes.values().sum::<usize>(), count);
    assert!(outcomes.contains_key("answered") && outcomes.contains_key("passed"), "{outcomes:?}");
    // The large model fails, and clients leave; the policy and the server's slots must not.
    for fault in ["503 policy_unavailable", "429 overloaded"] {
        assert!(!outcomes.contains_key(fault), "{outcomes:?}");
    }
    assert!(memories[2] - memories[1] < MAX_GAINED, "{megabytes:?} MiB");

    // Afterwards every slot is free, and the engine works. A long deadline avoids time-outs caused
    // by a busy machine.
    is_well.store(true, Ordering::Relaxed);
    let client = client();
    let ready = client.get(format!("{}/readyz", server.url)).send().await.unwrap();
    assert_eq!(ready.status(), 200);
    let question = json!({"question": "What is Grania's president's birthplace?",
                          "large_model": "patient"});
    let asked = (0..AFTERWARDS).map(|_| {
        let request = client.post(format!("{}/v1/solve", server.url)).json(&question);
        async move {
            let begun = Instant::now();
            let response = request.send().await.unwrap();
            let status = response.status();
            let text = response.text().await.unwrap();
            assert!(status == 200, "{status} after {:?}: {text}", begun.elapsed());
        }
    });
    futures::future::join_all(asked).await;
    assert_eq!(server.stop(), 0, "{}", server.log.text());
    assert!(!server.log.text().contains("panicked"), "{}", server.log.text());
}
