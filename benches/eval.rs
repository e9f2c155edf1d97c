//! Questions per second of an evaluation whose large model, behind HTTP on this machine, takes 50
//! ms to reply, compared with the ideal rate at this concurrency. Replies and rows are written to
//! disk as in a real run.
//!
//! ```text
//! cargo bench --bench eval
//! ```

#![allow(clippy::print_stdout)] // the figures are what it is for

mod upstream;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use prompt_r1::eval::arms::{Arm, BriefSources, Prompt, PromptArm};
use prompt_r1::eval::data::Question;
use prompt_r1::eval::metric_choice::Metric;
use prompt_r1::eval::rows::Outcome;
use prompt_r1::eval::run::{EvalProgress, Plan, run};
use prompt_r1::large_model::{CachedModel, Endpoint, EndpointSetup, LargeModel, LargeModelConfig};
use prompt_r1::reward::AnswerMetric;
use prompt_r1::task::Task;
use tokio_util::sync::CancellationToken;
use upstream::upstream;

const LATENCY: Duration = Duration::from_millis(50);
/// Each measurement takes about this long at the ideal rate.
const SPAN: Duration = Duration::from_secs(5);

const REPLY: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"The answer, as far as can be told, is forty-two."},"finish_reason":"stop"}],"usage":{"prompt_tokens":40,"completion_tokens":12,"total_tokens":52}}"#;

struct Quiet;

impl EvalProgress for Quiet {
    fn begin(&mut self, _done: usize, _total: usize) {}
    fn row(&mut self, _arm: &str, _outcome: &Outcome) {}
}

fn question(index: usize) -> Question {
    let task = Task {
        id: index.to_string(),
        question: format!("What is the answer to question {index} of this long list?"),
        golds: vec!["42".into()],
        source: "own".into(),
        ..Task::default()
    };
    Question { task, metric: Metric::Text(AnswerMetric::F1) }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = upstream(|_| {
        thread::sleep(LATENCY);
        REPLY.to_owned()
    })?;
    let config = LargeModelConfig::new(format!("http://{address}/v1"), "m");
    for max_in_flight in [1, 8, 64] {
        let ideal = max_in_flight as f64 / LATENCY.as_secs_f64();
        let count = (ideal * SPAN.as_secs_f64()) as usize;
        let folder = tempfile::tempdir()?;
        let setup = EndpointSetup { keys: &|_| None, observer: Arc::new(()), seed: 0 };
        let endpoint: Arc<dyn LargeModel> = Arc::new(Endpoint::new("m", &config, &setup)?);
        let replies = folder.path().join("replies.jsonl");
        let model =
            CachedModel::persistent(endpoint, 1_000_000, &replies)?.billing_cached_replies();
        let arm: Arc<dyn Arm> = Arc::new(PromptArm::new(
            "direct",
            Prompt::direct(&BriefSources::default())?,
            1,
            (Arc::new(model), "m"),
            Duration::from_secs(60),
        ));
        let plan = Plan {
            arms: vec![arm],
            questions: (0..count).map(question).collect(),
            seed: 0,
            max_in_flight,
        };
        let rows = folder.path().join("rows.jsonl");
        let start = Instant::now();
        let outcomes = run(&plan, &rows, &mut Quiet, &CancellationToken::new()).await?;
        let rate = outcomes.len() as f64 / start.elapsed().as_secs_f64();
        let answered = outcomes.iter().flatten();
        let answered = answered.filter(|o| matches!(o, Outcome::Answered(_))).count();
        anyhow::ensure!(answered == count, "{} of {count} failed", count - answered);
        println!(
            "{max_in_flight:>3} in flight: {rate:>7.1} questions/s of {ideal:>6.0} ideal ({:.1} %)",
            100.0 * rate / ideal
        );
    }
    Ok(())
}
