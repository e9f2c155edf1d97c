//! Episodes that are written down.

use prompt_r1::dataset::{ReadOptions, read_tasks};
use prompt_r1::record::{Record, RecordConfig, Recorder};
use serde_json::json;

use crate::loopback::Loopback;
use crate::server::Setup;

#[tokio::test]
async fn episodes_are_written_down_as_data_to_train_on() {
    let upstream = Loopback::start().await;
    let folder = tempfile::tempdir().unwrap();
    let config: RecordConfig = serde_json::from_value(json!({"folder": folder.path()})).unwrap();
    let mut setup = Setup::relay();
    setup.recorder = Some(Recorder::start(&config).unwrap());
    let server = setup.start(&upstream).await;
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
    server.wait_for_metric("prompt_r1_records_total{result=\"written\"}", 4.0).await;
    assert_eq!(server.metric("prompt_r1_records_total{result=\"dropped\"}").await, 0.0);
    let path = folder.path().join("episodes-000001.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
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
    // What trains reads it as it is.
    let read = read_tasks(&path, &ReadOptions::default()).unwrap();
    assert_eq!((read.tasks.len(), read.rejected.len()), (4, 0));
    assert_eq!(read.tasks[0].golds, ["ok"]);
}
