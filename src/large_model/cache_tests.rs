#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::{FutureExt, TryStreamExt, poll};
use tokio::sync::Notify;

use super::*;
use crate::chat::ChatMessage;
use crate::large_model::{ReplyChunk, Scripted};

fn call(text: &str, params: Value) -> Call {
    Call {
        messages: vec![ChatMessage::text("user", text)],
        params: params.as_object().cloned().unwrap_or_default(),
        ..Call::default()
    }
}

fn billed(text: &str) -> Reply {
    let usage = TokenUsage { prompt_tokens: 5, completion_tokens: 2, ..TokenUsage::default() };
    Reply { usage, cost: 0.5, ..Reply::text(text) }
}

/// A model that numbers its replies, and rejects `fail`.
fn counting() -> Arc<dyn LargeModel> {
    let calls = AtomicUsize::new(0);
    Arc::new(Scripted::new("m", move |call: &Call| {
        let number = calls.fetch_add(1, Ordering::Relaxed);
        match call.messages[0].as_text().as_str() {
            "fail" => Err(LargeModelError::Rejected {
                model: "m".into(),
                reason: number.to_string().into(),
            }),
            _ => Ok(billed(&number.to_string())),
        }
    }))
}

async fn ask(model: &CachedModel, text: &str) -> String {
    model.complete(&call(text, json!({}))).await.unwrap().message.as_text()
}

#[tokio::test]
async fn the_same_call_is_paid_once() {
    let model = CachedModel::in_memory(counting(), 10);
    let ask = async |params| model.complete(&call("q", params)).await.unwrap();
    let first = ask(json!({"temperature": 0, "nested": {"a": 1, "b": 2}})).await;
    assert_eq!(first, billed("0"));
    let again = ask(json!({"nested": {"b": 2, "a": 1}, "temperature": 0})).await;
    assert_eq!(again, Reply::text("0"));
    assert_eq!(ask(json!({"temperature": 1})).await, billed("1"));
    let stream = model.stream(&call("q", json!({"temperature": 1}))).await.unwrap();
    let chunks: Vec<_> = stream.try_collect().await.unwrap();
    assert_eq!(chunks, [ReplyChunk::Text("1".into()), ReplyChunk::Done(Reply::text("1"))]);
}

#[tokio::test]
async fn repeats_tell_what_the_call_cost_where_wanted() {
    let model = CachedModel::in_memory(counting(), 10).billing_cached_replies();
    for _ in 0..2 {
        assert_eq!(model.complete(&call("q", json!({}))).await.unwrap(), billed("0"));
    }
}

#[tokio::test]
async fn failures_are_not_remembered() {
    let model = CachedModel::in_memory(counting(), 10);
    for number in ["0", "1"] {
        let error = model.complete(&call("fail", json!({}))).await.unwrap_err();
        assert!(error.to_string().ends_with(&format!(": {number}")), "{error}");
    }
}

#[tokio::test]
async fn a_reply_that_its_caller_cannot_use_is_neither_cached_nor_taken_from_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replies.jsonl");
    let model = CachedModel::persistent(counting(), 10, &path).unwrap();
    let asked =
        Call { is_usable: Some(|reply| reply.message.as_text() == "2"), ..call("q", json!({})) };
    let ask_for_2 =
        async |model: &CachedModel| model.complete(&asked).await.unwrap().message.as_text();
    assert_eq!(ask_for_2(&model).await, "0");
    assert!(std::fs::read(&path).unwrap().is_empty());
    // Another caller can use any reply, and has this one cached.
    assert_eq!(ask(&model, "q").await, "1");
    assert_eq!(ask_for_2(&model).await, "2");
    assert_eq!(ask_for_2(&model).await, "2");
    drop(model);
    // The last of two lines for one call counts.
    let model = CachedModel::persistent(counting(), 10, &path).unwrap();
    assert_eq!(ask_for_2(&model).await, "2");
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
}

#[tokio::test]
async fn the_reply_used_longest_ago_is_forgotten() {
    let model = CachedModel::in_memory(counting(), 2);
    for (text, reply) in
        [("a", "0"), ("b", "1"), ("a", "0"), ("c", "2"), ("a", "0"), ("b", "3"), ("c", "4")]
    {
        assert_eq!(ask(&model, text).await, reply, "{text}");
    }
}

#[tokio::test]
async fn the_file_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a run's/replies.jsonl");
    let open = || CachedModel::persistent(counting(), 10, &path);
    let model = open().unwrap();
    assert_eq!((ask(&model, "a").await, ask(&model, "b").await), ("0".into(), "1".into()));
    drop(model);
    // The process was killed in the middle of a line.
    let whole = std::fs::read(&path).unwrap();
    let half = &whole[..whole.len() / 2 - 10];
    std::fs::write(&path, [&whole, half].concat()).unwrap();
    let model = open().unwrap();
    assert_eq!((ask(&model, "b").await, ask(&model, "a").await), ("1".into(), "0".into()));
    assert_eq!(ask(&model, "c").await, "0");
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
    // A line in the middle of the file is damaged.
    std::fs::write(&path, format!("{{}}\n{text}")).unwrap();
    let error = open().err().unwrap().to_string();
    assert!(error.contains("damaged at line 1"), "{error}");
    let error = CachedModel::persistent(counting(), 10, folder.path()).err().unwrap();
    assert!(matches!(error, CacheError::Io { .. }));
}

#[tokio::test]
async fn what_a_remembered_reply_costs_is_the_same_in_memory_and_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replies.jsonl");
    let open = || CachedModel::persistent(counting(), 10, &path).unwrap();
    let ask = async |model: &CachedModel| model.complete(&call("q", json!({}))).await.unwrap();
    let model = open();
    assert_eq!(ask(&model).await, billed("0"));
    assert_eq!(ask(&model).await, Reply::text("0"));
    assert_eq!(ask(&open()).await, Reply::text("0"));
    assert_eq!(ask(&open().billing_cached_replies()).await, billed("0"));
    // Lines of earlier versions have no cost.
    let line = std::fs::read_to_string(&path).unwrap().replace(",\"cost\":0.5", "");
    std::fs::write(&path, line).unwrap();
    assert_eq!(ask(&open().billing_cached_replies()).await, Reply { cost: 0.0, ..billed("0") });
}

#[tokio::test]
async fn models_of_another_identity_share_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replies.jsonl");
    for name in ["m", "n"] {
        let model = Arc::new(Scripted::texts(name, &[name]));
        let model = CachedModel::persistent(model, 10, &path).unwrap();
        assert_eq!(ask(&model, "a").await, name);
    }
}

/// A model that replies once it is released.
struct Slow {
    begun: AtomicUsize,
    go: Notify,
    result: Result<Reply, LargeModelError>,
}

#[async_trait]
impl LargeModel for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn prices(&self) -> Prices {
        Prices::default()
    }

    async fn complete(&self, _: &Call) -> Result<Reply, LargeModelError> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.go.notified().await;
        self.result.clone()
    }

    async fn stream(&self, _: &Call) -> Result<ReplyStream, LargeModelError> {
        panic!("the cache reads replies whole")
    }
}

fn slow(result: Result<Reply, LargeModelError>) -> (Arc<Slow>, CachedModel) {
    let slow = Arc::new(Slow { begun: AtomicUsize::new(0), go: Notify::new(), result });
    (Arc::clone(&slow), CachedModel::in_memory(slow, 10))
}

#[tokio::test]
async fn identical_calls_at_one_time_are_made_once() {
    for result in
        [Ok(billed("a")), Err(LargeModelError::Rejected { model: "m".into(), reason: "r".into() })]
    {
        let (slow, model) = slow(result.clone());
        let call = call("q", json!({}));
        let (mut first, mut second) = (model.complete(&call), model.complete(&call));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        slow.go.notify_one();
        let (first, second) = (first.await, second.await);
        assert_eq!(slow.begun.load(Ordering::Relaxed), 1);
        match result {
            Ok(_) => {
                assert_eq!(first.unwrap(), billed("a"));
                assert_eq!(second.unwrap(), Reply::text("a"));
            }
            Err(error) => {
                assert_eq!(first.unwrap_err().to_string(), error.to_string());
                assert_eq!(second.unwrap_err().to_string(), error.to_string());
            }
        }
    }
}

#[tokio::test]
async fn a_caller_that_leaves_hands_the_call_over() {
    let (slow, model) = slow(Ok(billed("a")));
    let call = call("q", json!({}));
    let (mut first, mut second) = (model.complete(&call), model.complete(&call));
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    drop(first);
    assert!(poll!(&mut second).is_pending());
    slow.go.notify_one();
    assert_eq!(second.await.unwrap(), billed("a"));
    assert_eq!(slow.begun.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn another_callers_deadline_is_not_shared() {
    let deadline = || LargeModelError::Deadline { model: "slow".into(), was_sent: true };
    let (slow, model) = slow(Err(deadline()));
    let patient = call("q", json!({}));
    let hasty = Call { deadline: Some(Instant::now()), ..patient.clone() };
    let (mut first, mut second) = (model.complete(&patient), model.complete(&patient));
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    // A waiting call has its own deadline.
    let waited = tokio::time::timeout(Duration::from_secs(60), model.complete(&hasty)).await;
    assert!(matches!(waited.unwrap(), Err(LargeModelError::Deadline { .. })));
    slow.go.notify_one();
    assert!(first.await.is_err());
    // The second caller now makes the call itself.
    assert!((&mut second).now_or_never().is_none());
    assert_eq!(slow.begun.load(Ordering::Relaxed), 2);
    slow.go.notify_one();
    assert!(second.await.is_err());
}
