//! Puts every question to every arm, with bounded concurrency, and each only once.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::episode::{EpisodeError, EpisodeErrorKind};
use crate::large_model::{LargeModelError, Prices};

use super::EvalError;
use super::arms::{Arm, ArmSpec, Method};
use super::data::Question;
use super::rows::{ArmAnswer, Outcome, Row, RowFile, RowKey};

/// How often a row waits for an open circuit breaker.
const PAUSES: usize = 5;
/// The longest such wait.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// A plan of what to run.
pub struct Plan {
    /// The arms, in the order of the report.
    pub arms: Vec<Arc<dyn Arm>>,
    /// The questions, in order.
    pub questions: Vec<Question>,
    /// Seeds every attempt.
    pub seed: u64,
    /// Attempts at once.
    pub max_in_flight: usize,
}

/// Receives the progress of a run.
pub trait EvalProgress: Send {
    /// `done` of `total` rows are finished already.
    fn begin(&mut self, done: usize, total: usize);
    /// One more row.
    fn row(&mut self, arm: &str, outcome: &Outcome);
}

/// The outcome of every question under every arm: by question, then by arm.
pub type Outcomes = Vec<Vec<Outcome>>;

/// Runs `plan`. Finished rows are stored in the file `rows`, and those found there are not run
/// again, except failed ones.
///
/// # Errors
/// When the file cannot be used, when `stop` is cancelled, or when not one row was answered.
pub async fn run(
    plan: &Plan,
    rows: &Path,
    progress: &mut dyn EvalProgress,
    stop: &CancellationToken,
) -> Result<Outcomes, EvalError> {
    let (mut file, mut known) = RowFile::open(rows)?;
    known.retain(|_, outcome| matches!(outcome, Outcome::Answered(_)));
    // All arms of a question come before the next question, so that an interrupted run is still
    // paired.
    let keys = plan.keys();
    let mut waiting: VecDeque<(usize, &RowKey)> =
        keys.iter().enumerate().filter(|(_, key)| !known.contains_key(key)).collect();
    let total = keys.len();
    let wanted = waiting.len();
    progress.begin(total - wanted, total);
    let mut running = Running::new();
    let mut first_failure = None;
    let mut answered = 0;
    loop {
        plan.refill(&mut running, &mut waiting);
        let mut finished = tokio::select! {
            () = stop.cancelled() => {
                // Answers that were paid for are kept.
                let mut done = Vec::new();
                while let Some(joined) = running.try_join_next() {
                    done.extend(joined.ok().map(|(_, row)| row));
                }
                file.append(&done)?;
                let done = total - waiting.len() - running.len();
                return Err(EvalError::Interrupted { done, total });
            }
            joined = running.join_next() => match joined {
                None => break,
                Some(joined) => vec![joined],
            },
        };
        finished.extend(std::iter::from_fn(|| running.try_join_next()));
        // The next attempts start before this waits for the disk.
        plan.refill(&mut running, &mut waiting);
        let mut batch = Vec::with_capacity(finished.len());
        for joined in finished {
            let (arm, row) = joined.map_err(|error| {
                EvalError::Setting(format!("an attempt panicked: {error}").into())
            })?;
            match &row.outcome {
                Outcome::Answered(_) => answered += 1,
                Outcome::Failed { error, .. } => {
                    first_failure.get_or_insert_with(|| error.clone());
                }
            }
            progress.row(arm.name(), &row.outcome);
            batch.push(row);
        }
        file.append(&batch)?;
        known.extend(batch.into_iter().map(|row| (row.key, row.outcome)));
    }
    if let (Some(first), 0, true) = (first_failure, answered, wanted == total) {
        return Err(EvalError::AllFailed { rows: wanted, first });
    }
    Ok(plan.collect(&keys, known))
}

/// Charges outcomes by the prices of now: stored rows have those of when their calls were made.
pub fn charge(outcomes: &mut Outcomes, arms: &[ArmSpec], prices: Prices) {
    for row in outcomes {
        for (outcome, arm) in row.iter_mut().zip(arms) {
            let usage = match outcome {
                Outcome::Answered(answer) => &mut answer.usage,
                Outcome::Failed { usage, .. } => usage,
            };
            usage.large_model.cost = prices.cost(usage.large_model.tokens);
            if arm.method == Method::SelfPolicy {
                usage.policy.cost = prices.cost(usage.policy.tokens);
            }
        }
    }
}

/// Attempts in progress: each ends with its arm and its row.
type Running = JoinSet<(Arc<dyn Arm>, Row)>;

/// One attempt; it waits while a circuit breaker is open.
pub(super) async fn attempt(arm: &dyn Arm, task: &crate::task::Task, seed: u64) -> Outcome {
    let mut pauses = 0;
    loop {
        let begun = Instant::now();
        match arm.answer(task, seed).await {
            Ok(answer) => {
                let micros = Some(begun.elapsed().as_micros() as u64);
                return Outcome::Answered(ArmAnswer { micros, ..answer });
            }
            Err(EpisodeError {
                kind: EpisodeErrorKind::LargeModel(LargeModelError::CircuitOpen { retry_in, .. }),
                ..
            }) if pauses < PAUSES => {
                pauses += 1;
                tokio::time::sleep(retry_in.min(MAX_PAUSE)).await;
            }
            Err(EpisodeError { kind, usage }) => {
                return Outcome::Failed { error: kind.to_string(), usage };
            }
        }
    }
}

impl Plan {
    /// Starts attempts up to the limit.
    fn refill(&self, running: &mut Running, waiting: &mut VecDeque<(usize, &RowKey)>) {
        while running.len() < self.max_in_flight.max(1) {
            let Some((index, key)) = waiting.pop_front() else { break };
            let (question, arm) = self.at(index);
            let (arm, task, key) = (Arc::clone(arm), question.task.clone(), key.clone());
            running.spawn(async move {
                let outcome = attempt(&*arm, &task, key.seed).await;
                (arm, Row { key, outcome })
            });
        }
    }

    /// The keys of all rows: by question, then by arm.
    fn keys(&self) -> Vec<RowKey> {
        let of = |question: &Question, arm: &Arc<dyn Arm>| RowKey {
            arm: arm.identity().to_owned(),
            source: question.task.source.to_string(),
            id: question.task.id.clone(),
            question: question.task.question.clone(),
            seed: self.seed_of(question),
        };
        let questions = self.questions.iter();
        questions.flat_map(|question| self.arms.iter().map(move |arm| of(question, arm))).collect()
    }

    /// Every arm gets the same seed for a question.
    fn seed_of(&self, question: &Question) -> u64 {
        let name = format!("{}\n{}", question.task.source, question.task.id);
        crate::seed::of_name(self.seed, &name)
    }

    fn at(&self, index: usize) -> (&Question, &Arc<dyn Arm>) {
        let arms = self.arms.len();
        (&self.questions[index / arms], &self.arms[index % arms])
    }

    fn collect(&self, keys: &[RowKey], known: HashMap<RowKey, Outcome>) -> Outcomes {
        let of = |key: &RowKey| {
            known.get(key).cloned().unwrap_or_else(|| Outcome::Failed {
                error: "it was not run".into(),
                usage: Default::default(),
            })
        };
        keys.chunks(self.arms.len().max(1)).map(|row| row.iter().map(of).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::episode::EpisodeUsage;

    #[test]
    fn outcomes_cost_what_their_tokens_do_now() {
        let arms: Vec<ArmSpec> =
            ["direct", "self-policy"].iter().map(|arm| arm.parse().unwrap()).collect();
        let mut usage = EpisodeUsage::default();
        for role in [&mut usage.policy, &mut usage.large_model] {
            (role.tokens.prompt_tokens, role.tokens.completion_tokens, role.cost) = (10, 1, 9.0);
        }
        let answered = Outcome::Answered(ArmAnswer { usage, ..ArmAnswer::default() });
        let failed = Outcome::Failed { error: "down".into(), usage };
        let mut outcomes = vec![vec![answered, failed]];
        let prices = Prices { input_per_million: 1e6, output_per_million: 2e6 };
        charge(&mut outcomes, &arms, prices);
        let costs = |outcome: &Outcome| {
            let (Outcome::Answered(ArmAnswer { usage, .. }) | Outcome::Failed { usage, .. }) =
                outcome;
            (usage.large_model.cost, usage.policy.cost)
        };
        assert_eq!((costs(&outcomes[0][0]), costs(&outcomes[0][1])), ((12.0, 9.0), (12.0, 12.0)));
    }
}
