//! `GET /v1/episodes` over every store that needs no service; `database.rs` has the rest.

use std::sync::Arc;

use prompt_r1::access::{Access, AccessConfig, KeyLimits, NewKey, Store};
use prompt_r1::record::{Archive, Recorder};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{WRITTEN, config};
use crate::loopback::{Loopback, Script};
use crate::server::{Server, Setup};

/// A server that records to `place`, with the keys of two callers.
pub(super) struct Recorded {
    server: Server,
    keys: [(String, String); 2],
    upstream: Loopback,
    _folder: TempDir,
}

/// Everything but the place.
type Urls<'a> = &'a dyn Fn(&str) -> Option<secrecy::SecretString>;

impl Recorded {
    /// `readers`: `*`, or the numbers of keys that may read all.
    pub(super) async fn start(place: Value, urls: Urls<'_>, readers: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.db");
        let store = Store::embedded(&path).await.unwrap();
        let mut keys = Vec::new();
        for name in ["first", "second"] {
            let key = NewKey::new(name, KeyLimits::default(), 1).unwrap();
            store.create(&key).await.unwrap();
            keys.push((key.key.id.clone(), key.bearer.expose_secret().to_owned()));
        }
        let access = AccessConfig { store: path, ..AccessConfig::default() };
        let mut place = place;
        place["readers"] = readers
            .iter()
            .map(|reader| match *reader {
                "*" => "*".to_owned(),
                number => keys[number.parse::<usize>().unwrap()].0.clone(),
            })
            .collect();
        let config = config(place);
        let upstream = Loopback::answering(|asked| {
            Script::reply(if asked.prompt().contains("odd") { ODD } else { "Paris" })
        });
        let upstream = upstream.await;
        let mut setup = Setup::relay();
        setup.access = Some(Arc::new(Access::open(&access, &|_| None).await.unwrap()));
        setup.recorder = Some(Recorder::start(&config, urls).unwrap());
        setup.archive = Some((Archive::open(&config, urls).unwrap(), config));
        let server = setup.start(&upstream).await;
        Self { server, keys: keys.try_into().unwrap(), upstream, _folder: folder }
    }

    async fn ask(&self, key: usize, question: &str) {
        let asked = self.server.post("/v1/solve", &json!({"question": question, "seed": 7}));
        let response = asked.bearer_auth(&self.keys[key].1).send().await.unwrap();
        assert_eq!(response.status(), 200);
    }

    async fn get(&self, key: usize, path: &str) -> (u16, Value) {
        let asked = self.server.client.get(format!("{}{path}", self.server.url));
        let response = asked.bearer_auth(&self.keys[key].1).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// The questions of all pages, by pages of two.
    async fn questions(&self, key: usize, query: &str) -> Vec<String> {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/episodes?limit=2&{query}{cursor}");
            let (status, page) = self.get(key, &path).await;
            assert_eq!(status, 200, "{page}");
            let data = page["data"].as_array().unwrap();
            assert!(data.len() <= 2, "{page}");
            found.extend(data.iter().map(|one| one["question"].as_str().unwrap().to_owned()));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return found,
            }
        }
    }
}

/// Values that stores and pages might fail on.
const ODD: &str = "\u{0} </script> \\ \" \u{202e}\u{2028} é 𝄞 \\u0000 'x'; DROP TABLE";

/// Everything that holds for every store.
pub(super) async fn check(place: Value, urls: Urls<'_>) {
    let recorded = Recorded::start(place, urls, &["1"]).await;
    let odd = format!("odd {ODD}");
    let asked = [(0, "one?"), (1, "two?"), (0, "Three?"), (0, odd.as_str()), (1, "five?")];
    for (count, (key, question)) in asked.iter().enumerate() {
        recorded.ask(*key, question).await;
        // Sequentially, so that their order is known.
        recorded.server.wait_for_metric(WRITTEN, (count + 1) as f64).await;
    }

    // The first key sees its own, by pages; the second, which is a reader, sees all. All were
    // recorded within a second: pages continue within it.
    let mut own = recorded.questions(0, "").await;
    let mut all = recorded.questions(1, "").await;
    assert_eq!((own.len(), all.len()), (3, 5), "{own:?} {all:?}");
    own.sort();
    all.sort();
    assert_eq!(own, ["Three?", odd.as_str(), "one?"]);
    assert_eq!(all, ["Three?", "five?", odd.as_str(), "one?", "two?"]);

    for (query, expected) in [
        ("text=three", 1),
        ("text=PARIS", 4),
        ("text=none%20such", 0),
        ("text=drop%20table", 1),
        ("policy=scripted&large_model=test&finish_reason=answered", 5),
        ("policy=other", 0),
        ("policy=%00", 0),
        ("large_model=other", 0),
        ("finish_reason=deadline", 0),
        ("since=1700000000", 5),
        ("since=1700000001", 0),
        ("until=1700000001", 5),
        ("until=1700000000", 0),
        ("since=18446744073709551615", 0),
    ] {
        assert_eq!(recorded.questions(1, query).await.len(), expected, "{query}");
    }

    // Each can be read whole, by those who may see it.
    let (_, page) = recorded.get(1, "/v1/episodes?text=drop%20table").await;
    let listed = &page["data"][0];
    assert_eq!(listed["caller"], recorded.keys[0].0.as_str());
    assert_eq!((&listed["turns"], &listed["finish_reason"]), (&json!(2), &json!("answered")));
    let path = format!("/v1/episodes/{}", listed["id"].as_str().unwrap());
    let (status, episode) = recorded.get(0, &path).await;
    assert_eq!(status, 200, "{episode}");
    assert_eq!(episode["request"]["question"], odd);
    assert_eq!(episode["request"]["seed"], 7);
    assert_eq!(episode["reply"]["id"], listed["reply_id"]);
    assert_eq!(episode["reply"]["turns"][0]["interaction_response"], ODD);
    assert_eq!(episode["reply"]["turns"][1]["answer"], episode["reply"]["answer"]);

    // Another key's episode is a 404.
    let (_, page) = recorded.get(1, "/v1/episodes?text=two").await;
    let path = format!("/v1/episodes/{}", page["data"][0]["id"].as_str().unwrap());
    assert_eq!(recorded.get(1, &path).await.0, 200);
    let (status, error) = recorded.get(0, &path).await;
    assert_eq!((status, &error["error"]["code"]), (404, &json!("episode_not_found")));

    for id in ["x", "1-1", "9-0", "01-0", "0190a6c0-0000-7000-8000-000000000000", "%27", "%00"] {
        assert_eq!(recorded.get(1, &format!("/v1/episodes/{id}")).await.0, 404, "{id}");
    }
    for (query, name) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=x", "limit"),
        ("cursor=x", "cursor"),
        ("finish_reason=bored", "bored"),
        ("sort=up", "sort"),
    ] {
        let (status, error) = recorded.get(1, &format!("/v1/episodes?{query}")).await;
        let message = error["error"]["message"].as_str().unwrap();
        assert!(status == 400 && message.contains(name), "{query}: {status} {message}");
    }
}

#[tokio::test]
async fn episodes_in_files_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    // Files of one episode each: pages continue from one to the next.
    check(json!({"folder": folder.path(), "max_bytes": 100}), &|_| None).await;
    let folder = tempfile::tempdir().unwrap();
    check(json!({"folder": folder.path()}), &|_| None).await;
}

#[tokio::test]
async fn episodes_in_sqlite_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/a b%?#.db");
    check(json!({"sqlite": path}), &|_| None).await;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    // Rows stay, and there are more of them.
    let recorded = Recorded::start(json!({"sqlite": path}), &|_| None, &["*"]).await;
    recorded.ask(0, "again?").await;
    recorded.server.wait_for_metric(WRITTEN, 1.0).await;
    assert_eq!(recorded.questions(0, "").await.len(), 6);
}

#[tokio::test]
async fn long_lines_are_read_backwards_and_half_a_line_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = Recorded::start(json!({"folder": folder.path()}), &|_| None, &["*"]).await;
    let long = "long ".repeat(60_000);
    for (count, question) in ["a?", long.as_str(), "c?"].into_iter().enumerate() {
        recorded.ask(0, question).await;
        recorded.server.wait_for_metric(WRITTEN, (count + 1) as f64).await;
    }
    let path = folder.path().join("episodes-000001.jsonl");
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str("not a record\n{\"id\": \"half");
    std::fs::write(&path, text).unwrap();
    let found = recorded.questions(0, "").await;
    let heads: Vec<_> = found.iter().map(|question| &question[..2]).collect();
    assert_eq!(heads, ["c?", "lo", "a?"]);
    assert!(found[1].len() < 600, "a list shows the head of long questions");
}

#[tokio::test]
async fn a_page_looks_at_so_many_episodes_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = Recorded::start(json!({"folder": folder.path()}), &|_| None, &["*"]).await;
    recorded.ask(0, "one?").await;
    recorded.server.wait_for_metric(WRITTEN, 1.0).await;
    let path = folder.path().join("episodes-000001.jsonl");
    let line = std::fs::read_to_string(&path).unwrap();
    let other = line.replace("one?", "other?");
    std::fs::write(&path, format!("{line}{}", other.repeat(5000))).unwrap();
    // Nothing on the first pages, but a cursor to continue.
    let (status, page) = recorded.get(0, "/v1/episodes?text=one").await;
    assert_eq!((status, page["data"].as_array().unwrap().len()), (200, 0));
    assert!(page["next_cursor"].is_string(), "{page}");
    assert_eq!(recorded.questions(0, "text=one").await, ["one?"]);
}

#[tokio::test]
async fn a_refused_reader_gets_the_reason() {
    let upstream = Loopback::start().await;
    let server = Setup::relay().start(&upstream).await;
    let (status, code) = error_of(&server).await;
    assert_eq!((status, code.as_str()), (404, "episodes_not_recorded"));

    // Without keys callers cannot be distinguished, so there are no own episodes.
    let folder = tempfile::tempdir().unwrap();
    for (readers, expected) in [(json!([]), 403), (json!(["*"]), 200)] {
        let config = config(json!({"folder": folder.path(), "readers": readers}));
        let mut setup = Setup::relay();
        setup.archive = Some((Archive::open(&config, &|_| None).unwrap(), config));
        let server = setup.start(&upstream).await;
        assert_eq!(error_of(&server).await.0, expected);
    }
    let recorded = Recorded::start(json!({"folder": folder.path()}), &|_| None, &[]).await;
    assert_eq!(recorded.server.get("/v1/episodes").await.status(), 401);
}

async fn error_of(server: &Server) -> (u16, String) {
    let response = server.get("/v1/episodes").await;
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_request_is_recorded_as_it_was_sent() {
    const CHAT: &str = "/v1/chat/completions";
    let folder = tempfile::tempdir().unwrap();
    let recorded = Recorded::start(json!({"folder": folder.path()}), &|_| None, &["*"]).await;
    let chat = |messages: Value| json!({"model": "prompt-r1", "messages": messages, "top_p": 0.5});
    let text = |text: &str| json!({"type": "text", "text": text});
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}});
    let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let direct = |options: Value| {
        let mut body = json!({"question": "Where?", "policy": "direct"});
        body.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        body
    };
    let table = [
        (CHAT, chat(json!([{"role": "user", "content": "Where?"}]))),
        // It continues after the question.
        (
            CHAT,
            chat(json!([{"role": "user", "content": "Where?"},
                        {"role": "assistant", "content": null, "tool_calls": [call]},
                        {"role": "tool", "tool_call_id": "1", "content": "Lyon"}])),
        ),
        (CHAT, chat(json!([{"role": "system", "content": "Where?"}]))),
        (
            CHAT,
            chat(json!([{"role": "user", "content": [text("First:"), image, text("Second?")]}])),
        ),
        (CHAT, chat(json!([{"role": "user", "content": "Where?", "name": "bob"}]))),
        ("/v1/solve", direct(json!({}))),
        ("/v1/solve", direct(json!({"temperature": 0.5, "seed": 7}))),
    ];
    for (count, (path, body)) in table.into_iter().enumerate() {
        let asked = recorded.server.post(path, &body).bearer_auth(&recorded.keys[0].1);
        assert_eq!(asked.send().await.unwrap().status(), 200, "{body}");
        // Sequentially, so that the newest is known; each is asked twice.
        recorded.server.wait_for_metric(WRITTEN, (2 * count + 1) as f64).await;
        let (_, page) = recorded.get(0, "/v1/episodes").await;
        let path = format!("/v1/episodes/{}", page["data"][0]["id"].as_str().unwrap());
        let (_, episode) = recorded.get(0, &path).await;
        let request = &episode["request"];
        if body["question"].is_string() {
            let mut expected = body.clone();
            expected["large_model"] = json!("test");
            assert_eq!(request, &expected);
        } else if request["question"].is_string() {
            assert_eq!(request["question"], body["messages"][0]["content"]);
        } else {
            assert_eq!(request["messages"], body["messages"]);
        }
        // It asks the large model for the same.
        let sent = || {
            let sent = recorded.upstream.last().json();
            ["messages", "temperature", "seed"].map(|name| sent[name].clone())
        };
        let first = sent();
        let again = recorded.server.post("/v1/solve", request).bearer_auth(&recorded.keys[0].1);
        assert_eq!(again.send().await.unwrap().status(), 200, "{request}");
        assert_eq!(sent(), first, "{request}");
        recorded.server.wait_for_metric(WRITTEN, (2 * count + 2) as f64).await;
    }
}

#[tokio::test]
async fn images_are_recorded_with_their_question() {
    let folder = tempfile::tempdir().unwrap();
    let recorded = Recorded::start(json!({"folder": folder.path()}), &|_| None, &["*"]).await;
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}});
    let body = json!({"messages": [
        {"role": "user", "content": "first"}, {"role": "assistant", "content": "ok"},
        {"role": "user", "content": [{"type": "text", "text": "what is it?"}, image]}]});
    let asked = recorded.server.post("/v1/solve", &body).bearer_auth(&recorded.keys[0].1);
    assert_eq!(asked.send().await.unwrap().status(), 200);
    recorded.server.wait_for_metric(WRITTEN, 1.0).await;
    let (_, page) = recorded.get(0, "/v1/episodes").await;
    let path = format!("/v1/episodes/{}", page["data"][0]["id"].as_str().unwrap());
    let (_, episode) = recorded.get(0, &path).await;
    assert_eq!(episode["request"]["messages"], body["messages"]);
}
