//! Recording of episodes.

use prompt_r1::dataset::{Example, ReadOptions, read_examples, read_tasks};
use prompt_r1::record::{Record, RecordConfig, Recorder};
use serde_json::{Value, json};

use crate::loopback::Loopback;
use crate::server::{Server, Setup};

mod database;
mod episodes;

const WRITTEN: &str = "prompt_r1_records_total{result=\"written\"}";
const DROPPED: &str = "prompt_r1_records_total{result=\"dropped\"}";

fn config(value: Value) -> RecordConfig {
    serde_json::from_value(value).unwrap()
}

async fn server(recorder: Recorder, upstream: &Loopback) -> Server {
    let mut setup = Setup::relay();
    setup.recorder = Some(recorder);
    setup.start(upstream).await
}

/// Has four episodes recorded: of both endpoints, whole and streamed.
async fn record_four(server: &Server) {
    let chat = json!({"model": "prompt-r1", "messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "second?"}]});
    for stream in [false, true] {
        let mut bodies =
            [("/v1/solve", json!({"question": "first?"})), ("/v1/chat/completions", chat.clone())];
        for (path, body) in &mut bodies {
            body["stream"] = json!(stream);
            let response = server.post(path, body).send().await.unwrap();
            assert_eq!(response.status(), 200);
            response.text().await.unwrap();
        }
    }
    server.wait_for_metric(WRITTEN, 4.0).await;
    assert_eq!(server.metric(DROPPED).await, 0.0);
}

/// JSON Lines of those four are records, and data to train on.
fn check_four(path: &std::path::Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let records: Vec<Record> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let questions: Vec<_> = records.iter().map(|record| record.question.as_str()).collect();
    assert_eq!(questions, ["first?", "second?", "first?", "second?"]);
    for record in &records {
        assert_eq!(record.episode.answer, "ok");
        assert_eq!(record.episode.trajectory.turns.len(), 2);
        assert_eq!((record.policy.as_str(), record.large_model.as_str()), ("scripted", "test"));
    }
    assert_eq!(records[1].conversation[0].as_text(), "Be brief.");
    // Supervised training reads those without an earlier conversation; none of their answers is a
    // gold.
    let read = read_examples(path, &ReadOptions::default()).unwrap();
    let in_conversation = records.iter().filter(|record| !record.conversation.is_empty()).count();
    assert_eq!((read.rows.len(), read.summary.rejected), (4 - in_conversation, 0));
    let Example::Episode(shown) = &read.rows[0] else { panic!("{:?}", read.rows[0]) };
    assert_eq!((shown.task.question.as_str(), shown.turns.len()), ("first?", 2));
    let error = read_tasks(path, &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("it is a record of an episode"), "{error}");
}

#[tokio::test]
async fn episodes_are_written_down_as_data_to_train_on() {
    let upstream = Loopback::start().await;
    let folder = tempfile::tempdir().unwrap();
    let config = config(json!({"folder": folder.path()}));
    let server = server(Recorder::start(&config, &|_| None).unwrap(), &upstream).await;
    record_four(&server).await;
    check_four(&folder.path().join("episodes-000001.jsonl"));
}
