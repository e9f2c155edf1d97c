//! A store that hangs: it holds up each request for the time of one statement or two, however many
//! wait, and known keys go on.

use std::time::Instant;

use futures::future::join_all;
use prompt_r1::record::Recorder;
use sqlx::{Connection, Executor, SqliteConnection};

use super::*;

/// Keys of each kind that ask at once.
const KEYS: usize = 4;
/// Two statements that wait 5 s each, and some time for a busy machine.
const LIMIT: Duration = Duration::from_secs(14);

#[tokio::test]
async fn an_episode_is_recorded_though_the_client_leaves_while_it_is_charged() {
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let key = keys.make(json!({})).await;
    // A Redis that takes connections and says nothing.
    let redis = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}/0", redis.local_addr().unwrap());
    let store = keys.folder.path().join("keys.db");
    let config =
        AccessConfig { store, redis_url_env: Some("REDIS".into()), ..AccessConfig::default() };
    let urls = |name: &str| (name == "REDIS").then(|| url.clone().into());
    let records = keys.folder.path().join("records");
    let recorder = serde_json::from_value(json!({"folder": records})).unwrap();
    let mut setup = Setup::relay();
    setup.access = Some(Arc::new(Access::open(&config, &urls).await.unwrap()));
    setup.recorder = Some(Recorder::start(&recorder, &|_| None).unwrap());
    let server = setup.start(&upstream).await;
    let body = json!({"question": "a", "stream": true});
    let mut pieces = ask(&server, &key, "/v1/solve", body).await.bytes_stream();
    let mut read = String::new();
    while !read.contains("event: answer") {
        read += std::str::from_utf8(&pieces.next().await.unwrap().unwrap()).unwrap();
    }
    assert!(!read.contains("event: done"), "{read}");
    drop(pieces);
    server.wait_for_metric(&CANCELLED.replace("cancelled", "answered"), 1.0).await;
    server.wait_for_metric("prompt_r1_records_total{result=\"written\"}", 1.0).await;
    server.wait_for_metric("prompt_r1_client_disconnects_total", 1.0).await;
    assert_eq!(server.metric(CANCELLED).await, 0.0);
}

#[tokio::test]
async fn a_store_that_hangs_holds_requests_up_together() {
    let upstream = Loopback::start().await;
    let keys = Keys::new().await;
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for _ in 0..KEYS {
        known.push(keys.make(json!({"budget_per_day": 1e6})).await);
        unknown.push(keys.make(json!({"budget_per_day": 1e6})).await);
    }
    let mut setup = Setup::relay();
    setup.endpoint = json!({"prices": {"input_per_million": 1.0, "output_per_million": 1.0}});
    setup.access = Some(keys.access().await);
    let server = setup.start(&upstream).await;
    for key in &known {
        assert_eq!(solve(&server, key).await.status(), 200);
    }
    let path = keys.folder.path().join("keys.db");
    let url = format!("sqlite://{}", path.display());
    let mut other = SqliteConnection::connect(&url).await.unwrap();
    other.execute("BEGIN EXCLUSIVE").await.unwrap();
    let asked = known.iter().map(|key| (key, 200)).chain(unknown.iter().map(|key| (key, 503)));
    let asked = asked.map(|(key, expected)| {
        let server = &server;
        async move {
            let begun = Instant::now();
            let status = solve(server, key).await.status();
            assert_eq!(status, expected);
            begun.elapsed()
        }
    });
    let waited = join_all(asked).await;
    assert!(waited.iter().all(|waited| *waited < LIMIT), "{waited:?}");
    other.execute("ROLLBACK").await.unwrap();
    // It is asked again a moment after it failed.
    eventually("an answer of the store", async || {
        solve(&server, &unknown[0]).await.status() == 200
    })
    .await;
}
