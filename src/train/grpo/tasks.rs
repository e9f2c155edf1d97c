//! The tasks of a run: the tasks of a step are a function of the seed and the step.

use std::collections::HashMap;
use std::sync::Mutex;

use super::config::TaskConfig;
use crate::dataset::{ReadOptions, read_tasks};
use crate::seed::{Purpose, derive};
use crate::task::Task;
use crate::train::error::TrainError;
use crate::train::order::Order;
use crate::train::summary::DataSummary;
use crate::world::WorldTasks;

/// The source of a run's tasks.
pub struct Tasks {
    source: TaskSource,
    seed: u64,
    /// Held-out tasks.
    pub eval: Vec<Task>,
    /// The outcome of the rows that were read.
    pub read: Vec<DataSummary>,
}

enum TaskSource {
    World(WorldTasks),
    /// The tasks, shuffled anew for each round of a step.
    File {
        tasks: Vec<Task>,
        orders: Mutex<HashMap<u32, Order>>,
    },
}

impl Tasks {
    /// Reads or generates the tasks, and `eval` held-out ones. Those that do not `fit` the policy's
    /// context are left out.
    pub fn load(
        config: &TaskConfig,
        seed: u64,
        eval: usize,
        fits: impl Fn(&Task) -> Result<bool, TrainError>,
    ) -> Result<Self, TrainError> {
        match config {
            TaskConfig::World { world, questions } => {
                let world = WorldTasks::new(world, questions)?;
                // The same for every run with these kinds, so that runs can be compared.
                let eval = world.held_out(eval, derive(0, Purpose::Evaluation, &[]))?;
                let eval = fitting(eval, &fits, &mut DataSummary::default())?;
                Ok(Self { source: TaskSource::World(world), seed, eval, read: Vec::new() })
            }
            TaskConfig::File { path, read, eval_path } => {
                let load = |path: &std::path::Path, read: ReadOptions| {
                    // Rejected and too long rows are checked against one limit.
                    let read = ReadOptions { max_rejected: 1.0, ..read };
                    let outcome = read_tasks(path, &read)?;
                    let mut summary = DataSummary::new(path, &outcome.summary);
                    let tasks = fitting(outcome.rows, &fits, &mut summary)?;
                    Ok::<_, TrainError>((tasks, summary))
                };
                let (tasks, summary) = load(path, read.clone())?;
                // Where rows were rejected, the check of those says more.
                if tasks.is_empty() && summary.rejected == 0 {
                    return Err(TrainError::Config(reason!(
                        "there is nothing to learn from: no task of `{}` is used", path.display();
                        hint: "see `tasks.read`: its `limit`, and which rows it wants"
                    )));
                }
                let mut summaries = vec![summary];
                let mut held_out = Vec::new();
                if let Some(path) = eval_path {
                    let (tasks, mut summary) = load(path, read.columns())?;
                    held_out = tasks;
                    summary.left_out += held_out.len().saturating_sub(eval);
                    held_out.truncate(eval);
                    summary.used = held_out.len();
                    summaries.push(summary);
                }
                let source = TaskSource::File { tasks, orders: Mutex::default() };
                Ok(Self { source, seed, eval: held_out, read: summaries })
            }
        }
    }

    /// `n` tasks for a round of a step; `most` is the largest `n` of any round.
    pub fn draw(
        &self,
        step: u64,
        round: u32,
        n: usize,
        most: usize,
    ) -> Result<Vec<Task>, TrainError> {
        let seed = |part| derive(self.seed, Purpose::Tasks, &[u64::from(round), part]);
        match &self.source {
            // The first kind rotates, so that all are equally frequent in the end.
            TaskSource::World(world) => Ok(world.draw(step * most as u64, n, seed(step + 1))?),
            TaskSource::File { tasks, orders } => {
                let mut orders = orders.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let order = orders.entry(round).or_insert_with(|| Order::new(tasks.len(), seed(0)));
                let chosen = order.batch(step, most);
                Ok(chosen.into_iter().take(n).map(|index| tasks[index].clone()).collect())
            }
        }
    }

    /// The class of a prompt, if the task source has classes.
    pub fn classify(&self, prompt: &str) -> Option<&'static str> {
        match &self.source {
            TaskSource::World(world) => Some(world.classify(prompt)),
            TaskSource::File { .. } => None,
        }
    }
}

fn fitting(
    tasks: Vec<Task>,
    fits: &impl Fn(&Task) -> Result<bool, TrainError>,
    summary: &mut DataSummary,
) -> Result<Vec<Task>, TrainError> {
    let all = tasks.len();
    let mut fitting = Vec::with_capacity(all);
    for task in tasks {
        if fits(&task)? {
            fitting.push(task);
        }
    }
    if fitting.is_empty() && all > 0 {
        return Err(TrainError::Config(reason!(
            "no question of `{}` fits the policy's context", summary.from;
            hint: "use a policy with a longer context, or shorter questions"
        )));
    }
    summary.too_long = all - fitting.len();
    summary.used = fitting.len();
    Ok(fitting)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::world::{TaskKind, WorldConfig};

    fn ids(tasks: Vec<Task>) -> Vec<String> {
        tasks.into_iter().map(|task| task.id).collect()
    }

    fn file() -> (tempfile::TempDir, TaskConfig) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tasks.jsonl");
        let lines: Vec<String> = (0..10)
            .map(|n| format!("{{\"question\": \"q {n}\", \"answer\": \"a\", \"id\": \"{n}\"}}"))
            .collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        let config = TaskConfig::File { path, read: Default::default(), eval_path: None };
        (folder, config)
    }

    #[test]
    fn draws_depend_on_seed_step_and_round_alone() {
        let world = TaskConfig::World {
            world: WorldConfig::default(),
            questions: vec![TaskKind::Chain(2), TaskKind::Comparison],
        };
        let (_folder, file) = file();
        for config in [world, file] {
            let load = |seed| Tasks::load(&config, seed, 4, |_| Ok(true)).unwrap();
            let (a, b, other) = (load(1), load(1), load(2));
            for (step, round) in [(5, 0), (0, 1), (5, 1), (4, 0)] {
                let drawn = ids(a.draw(step, round, 4, 4).unwrap());
                assert_eq!(drawn, ids(b.draw(step, round, 4, 4).unwrap()));
                assert_ne!(drawn, ids(other.draw(step, round, 4, 4).unwrap()));
                assert_ne!(drawn, ids(a.draw(step + 1, round, 4, 4).unwrap()));
                assert_ne!(drawn, ids(a.draw(step, round + 1, 4, 4).unwrap()));
                assert_eq!(drawn[..2], ids(a.draw(step, round, 2, 4).unwrap()));
            }
        }
    }

    #[test]
    fn questions_that_do_not_fit_are_left_out() {
        let (_folder, config) = file();
        let tasks = Tasks::load(&config, 0, 0, |task| Ok(task.id == "3")).unwrap();
        assert_eq!(ids(tasks.draw(0, 0, 2, 2).unwrap()), ["3", "3"]);
        let error = Tasks::load(&config, 0, 0, |_| Ok(false)).err().unwrap().to_string();
        assert!(error.contains("fits the policy's context"), "{error}");
    }

    #[test]
    fn no_task_at_all_is_refused() {
        let (_folder, TaskConfig::File { path, .. }) = file() else { unreachable!() };
        let read = ReadOptions { limit: Some(0), ..Default::default() };
        let config = TaskConfig::File { path, read, eval_path: None };
        let error = Tasks::load(&config, 0, 0, |_| Ok(true)).err().unwrap().to_string();
        assert!(
            error.contains("nothing to learn from") && error.contains("tasks.jsonl"),
            "{error}"
        );
    }
}
