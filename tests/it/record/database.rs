//! Episodes in a real PostgreSQL.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prompt_r1::engine::Sampling;
use prompt_r1::record::{Record, Recorder};
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{DROPPED, WRITTEN, check_four, config, record_four, server};
use crate::loopback::{Loopback, Script};
use crate::services::Services;

/// The URL of a new database, with another address if one is given.
async fn new_database(at: Option<&str>) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let url = Services::find().postgres;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("records_{}_{count}", std::process::id());
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::query(&format!("CREATE DATABASE {name}")).execute(&mut connection).await.unwrap();
    let url = url.replace("/postgres", &format!("/{name}"));
    match at {
        Some(at) => url.replace(&address(&url), at),
        None => url,
    }
}

/// Host and port of a URL.
fn address(url: &str) -> String {
    let url = url.split_once('@').unwrap().1;
    url.split_once('/').unwrap().0.to_owned()
}

fn recorder(url: &str, queue: usize) -> Recorder {
    let config = config(json!({"url_env": "RECORDS", "queue": queue}));
    Recorder::start(&config, &|_| Some(SecretString::from(url))).unwrap()
}

async fn count(url: &str) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let count = sqlx::query_scalar("SELECT count(*) FROM prompt_r1_episodes");
    count.fetch_one(&mut connection).await.unwrap()
}

/// A proxy to the database that can be cut off.
struct Way {
    address: String,
    connections: Option<JoinSet<()>>,
}

impl Way {
    /// One that is cut.
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { address: listener.local_addr().unwrap().to_string(), connections: None }
    }

    async fn open(&mut self) {
        let listener = TcpListener::bind(&self.address).await.unwrap();
        let database = address(&Services::find().postgres);
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let database = database.clone();
                open.spawn(async move {
                    let mut far = TcpStream::connect(&database).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        self.connections = Some(connections);
    }

    async fn cut(&mut self) {
        self.connections.take().unwrap().shutdown().await;
    }
}

/// The export command of the operator's guide, as a file in a folder.
fn export(url: &str) -> (TempDir, PathBuf) {
    let guide = std::fs::read_to_string("docker/README.md").unwrap();
    let command = guide.lines().find(|line| line.starts_with("psql ")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut psql = Command::new("sh");
    psql.args(["-c", command]).env("DATABASE_URL", url).current_dir(folder.path());
    let exported = psql.output().unwrap();
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    let path = folder.path().join("episodes.jsonl");
    (folder, path)
}

#[tokio::test]
#[ignore = "needs PostgreSQL and Redis: tests/services.sh"]
async fn rows_become_data_to_train_on() {
    let upstream = Loopback::start().await;
    let url = new_database(None).await;
    // Two replicas that start together create one table.
    let (first, second) = (recorder(&url, 16), recorder(&url, 16));
    let server = server(first, &upstream).await;
    record_four(&server).await;
    drop(second);

    let mut connection = PgConnection::connect(&url).await.unwrap();
    let rows: Vec<(String, f64, String, String, String)> = sqlx::query_as(
        "SELECT id, extract(epoch FROM created_at)::float8, policy, large_model, finish_reason
         FROM prompt_r1_episodes WHERE record->>'id' = id ORDER BY key",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(rows.len(), 4, "{rows:?}");
    for (id, created, policy, large_model, finish_reason) in rows {
        assert!(id.starts_with("solve-") || id.starts_with("chatcmpl-"), "{id}");
        assert_eq!(created, 1_700_000_000.0);
        let rest = [policy, large_model, finish_reason];
        assert_eq!(rest, ["scripted", "test", "answered"]);
    }

    let (_folder, exported) = export(&url);
    check_four(&exported);
}

#[tokio::test]
#[ignore = "needs PostgreSQL and Redis: tests/services.sh"]
async fn rows_are_read_again() {
    let url = new_database(None).await;
    // A table from before callers were recorded.
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::query(
        "CREATE TABLE prompt_r1_episodes (
            key UUID PRIMARY KEY, id TEXT NOT NULL, created_at TIMESTAMPTZ NOT NULL,
            policy TEXT NOT NULL, large_model TEXT NOT NULL, finish_reason TEXT NOT NULL,
            record JSON NOT NULL)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    super::episodes::check(json!({"url_env": "RECORDS"}), &|_| Some(url.as_str().into())).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL and Redis: tests/services.sh"]
async fn odd_characters_and_several_answers_of_one_reply_are_stored() {
    let odd = "\u{0} \\ \" \t \r\n \u{1} \u{2028} é 𝄞 \\. \\u0000";
    let upstream = Loopback::answering(move |_| Script::reply(odd)).await;
    let url = new_database(None).await;
    let server = server(recorder(&url, 16), &upstream).await;
    let body = json!({"model": "prompt-r1", "n": 3,
                      "messages": [{"role": "user", "content": odd}]});
    assert_eq!(server.json("/v1/chat/completions", body).await.0, 200);
    server.wait_for_metric(WRITTEN, 3.0).await;
    let (_folder, exported) = export(&url);
    let text = std::fs::read_to_string(exported).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    for line in lines {
        assert_eq!(line["question"], odd);
        assert_eq!(line["trajectory"]["turns"][0]["observation"]["reply"], odd);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL and Redis: tests/services.sh"]
async fn a_database_that_is_down_holds_up_no_request_and_what_fits_is_written_later() {
    let upstream = Loopback::start().await;
    let mut way = Way::new().await;
    let url = new_database(Some(&way.address)).await;
    let server = server(recorder(&url, 2), &upstream).await;
    let question = json!({"question": "a"});
    let ask = async |count| {
        let begun = Instant::now();
        for _ in 0..count {
            assert_eq!(server.json("/v1/solve", question.clone()).await.0, 200);
        }
        // Far less than the time-out of the database.
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    };
    ask(5).await;
    assert_eq!((server.metric(WRITTEN).await, server.metric(DROPPED).await), (0.0, 3.0));
    way.open().await;
    server.wait_for_metric(WRITTEN, 2.0).await;
    assert_eq!(count(&url).await, 2);

    // Cut off while it is used, and back.
    way.cut().await;
    ask(1).await;
    way.open().await;
    server.wait_for_metric(WRITTEN, 3.0).await;
    assert_eq!((count(&url).await, server.metric(DROPPED).await), (3, 3.0));
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_database_that_is_down() {
    let used = json!({"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0});
    let record: Record = serde_json::from_value(json!({
        "id": "a", "created": 1, "policy": "p", "large_model": "m", "question": "a?",
        "conversation": [], "sampling": Sampling::GREEDY, "answer": "b",
        "answer_source": "policy", "finish_reason": "answered",
        "trajectory": {"turns": [], "trace": {"ids": [], "log_probs": [], "action_mask": []}},
        "usage": {"policy": used, "large_model": used},
    }))
    .unwrap();
    // One without a listener, and one that accepts connections and sends nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for address in ["127.0.0.1:1".to_owned(), silent.local_addr().unwrap().to_string()] {
        let recorder = recorder(&format!("postgres://test@{address}/none"), 16);
        (0..4).for_each(|_| recorder.offer(record.clone()));
        let begun = Instant::now();
        drop(recorder);
        // The time-out of one attempt, with a tolerance for a busy machine.
        assert!(begun.elapsed() < Duration::from_secs(9), "{address}: {:?}", begun.elapsed());
    }
}
