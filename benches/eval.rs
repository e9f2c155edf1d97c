//! Questions per second of an evaluation whose large model takes 50 ms to reply, against the rate
//! that so many calls at one time could reach at best. Rows are written to disk as in a real run.
//!
//! ```text
//! cargo bench --bench eval
//! ```

#![allow(clippy::print_stdout)] // the figures are what it is for

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use prompt_r1::eval::arms::{Arm, Prompt, PromptArm};
use prompt_r1::eval::data::Question;
use prompt_r1::eval::rows::Outcome;
use prompt_r1::eval::run::{Plan, Progress, run};
use prompt_r1::large_model::{
    Call, LargeModel, LargeModelError, Prices, Reply, ReplyStream, reply_stream,
};
use prompt_r1::reward::AnswerMetric;
use prompt_r1::task::Task;
use tokio_util::sync::CancellationToken;

const LATENCY: Duration = Duration::from_millis(50);
/// Each measurement takes about this long at the ideal rate.
const SPAN: Duration = Duration::from_secs(3);

struct Slow;

#[async_trait]
impl LargeModel for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn prices(&self) -> Prices {
        Prices::default()
    }

    async fn complete(&self, _call: &Call) -> Result<Reply, LargeModelError> {
        tokio::time::sleep(LATENCY).await;
        Ok(Reply::text("The answer, as far as can be told, is forty-two."))
    }

    async fn stream(&self, call: &Call) -> Result<ReplyStream, LargeModelError> {
        self.complete(call).await.map(reply_stream)
    }
}

struct Quiet;

impl Progress for Quiet {
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
    Question { task, metric: AnswerMetric::F1 }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    for max_in_flight in [1, 8, 64] {
        let ideal = max_in_flight as f64 / LATENCY.as_secs_f64();
        let count = (ideal * SPAN.as_secs_f64()) as usize;
        let arm: Arc<dyn Arm> = Arc::new(PromptArm::new(
            "direct",
            Prompt::direct(true)?,
            1,
            (Arc::new(Slow), "slow"),
            Duration::from_secs(60),
        ));
        let plan = Plan {
            arms: vec![arm],
            questions: (0..count).map(question).collect(),
            seed: 0,
            max_in_flight,
        };
        let folder = tempfile::tempdir()?;
        let rows = folder.path().join("rows.jsonl");
        let start = Instant::now();
        let outcomes = run(&plan, &rows, &mut Quiet, &CancellationToken::new()).await?;
        let rate = outcomes.len() as f64 / start.elapsed().as_secs_f64();
        println!(
            "{max_in_flight:>3} in flight: {rate:>7.1} questions/s of {ideal:>6.0} ideal ({:.1} %)",
            100.0 * rate / ideal
        );
    }
    Ok(())
}
