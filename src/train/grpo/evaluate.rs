//! Greedy evaluation of the policy on held-out tasks, by class of task.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::{GrpoConfig, OutageConfig};
use super::outage::{Failures, Pauses};
use super::rollout::{RolloutTask, Rollouts, Scored};
use super::step_files;
use super::tasks::Tasks;
use crate::engine::Sampling;
use crate::reward::{RewardFn, own_answer};
use crate::run_files;
use crate::task::Task;
use crate::train::error::TrainError;
use crate::train::json_file;
use crate::train::metrics::Values;
use crate::trajectory::{Action, Trajectory};

/// Sample episodes that are stored, one per class.
const MAX_SHOWN_EPISODES: usize = 8;
/// How right answers are counted: raised with each change of it, so that the best policy of a run
/// of an earlier version is evaluated again.
const COUNTING: u32 = 2;

/// An evaluation after a step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Steps done before it.
    pub step: u64,
    /// A checksum of what its results depend on besides the policy: the questions, and how they are
    /// asked and scored. Evaluations of earlier versions do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<u32>,
    /// All tasks together.
    pub all: ClassResult,
    /// By class: the kind and the number of hops if known, otherwise the data set.
    pub classes: BTreeMap<String, ClassResult>,
    /// Prompts by class; empty if the task source has no classes.
    #[serde(alias = "wordings")]
    pub prompt_classes: BTreeMap<String, usize>,
    /// Episodes that failed for other reasons than the policy; not counted above.
    pub failed: usize,
    /// The first episode of each class.
    pub shown: Vec<SampleEpisode>,
}

/// The results of a class of tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassResult {
    /// Number of tasks.
    pub tasks: usize,
    /// How many of the policy's own answers were wholly right: by the judge if there is one, else
    /// exactly a gold or equal to it by the metric of the reward.
    pub exact: usize,
    /// Mean reward.
    pub reward: f64,
    /// Mean number of turns.
    pub turns: f64,
}

/// A sample episode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleEpisode {
    /// The question.
    pub task: Task,
    /// The turns.
    pub trajectory: Trajectory,
    /// The reward.
    pub reward: f64,
    /// How much better it was than its group, where a step learnt from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advantage: Option<f64>,
}

impl ClassResult {
    /// Share of right answers.
    pub fn share(&self) -> f64 {
        self.exact as f64 / self.tasks.max(1) as f64
    }

    /// The 95 % interval of that share (Wilson).
    pub fn interval(&self) -> (f64, f64) {
        const Z: f64 = 1.959_963_984_540_054;
        let n = self.tasks.max(1) as f64;
        let (p, z2) = (self.share(), Z * Z);
        let middle = p + z2 / (2.0 * n);
        let spread = Z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
        let scale = 1.0 + z2 / n;
        (((middle - spread) / scale).max(0.0), ((middle + spread) / scale).min(1.0))
    }

    fn add(&mut self, is_right: bool, scored: &Scored) {
        let before = self.tasks as f64;
        let mean = |mean: f64, value: f64| (mean * before + value) / (before + 1.0);
        self.reward = mean(self.reward, scored.reward.total);
        self.turns = mean(self.turns, scored.episode.trajectory.turns.len() as f64);
        self.exact += usize::from(is_right);
        self.tasks += 1;
    }
}

impl Evaluation {
    /// Runs every held-out task once, greedily. While most of them fail, waits and repeats those.
    ///
    /// # Errors
    /// When most of them still fail after the last pause, or one fails permanently.
    pub async fn run(
        outage: &OutageConfig,
        tasks: &Tasks,
        rollouts: &Rollouts,
        step: u64,
    ) -> Result<Self, TrainError> {
        let mut outcomes: Vec<Option<Scored>> = tasks.eval.iter().map(|_| None).collect();
        let mut pauses = Pauses::new(outage, step);
        let failures = loop {
            let failures = missing(tasks, rollouts, &mut outcomes).await;
            if !failures.is_outage() {
                break failures;
            }
            pauses.after(failures).await?;
        };
        let mut evaluation = Self { step, failed: failures.failed, ..Self::default() };
        if let Some(last) = failures.last {
            let (failed, reason) = (evaluation.failed, last.reason);
            tracing::warn!(step, failed, reason, "episodes of an evaluation failed");
        }
        for (task, outcome) in tasks.eval.iter().zip(outcomes) {
            if let Some(scored) = outcome {
                evaluation.add(task, scored, tasks, rollouts.rewarder.builtin());
            }
        }
        Ok(evaluation)
    }

    /// Its metrics.
    pub fn values(&self) -> Values {
        vec![
            ("eval_exact", self.all.share()),
            ("eval_reward", self.all.reward),
            ("eval_failed", self.failed as f64),
        ]
    }

    fn add(&mut self, task: &Task, scored: Scored, tasks: &Tasks, reward: &RewardFn) {
        let is_right = match &scored.judged {
            Some(judged) => judged.score == 1.0,
            None => own_answer(&scored.episode.trajectory)
                .is_some_and(|answer| reward.is_right(answer, &task.golds)),
        };
        let class = class(task);
        let is_new = !self.classes.contains_key(&class);
        self.all.add(is_right, &scored);
        self.classes.entry(class).or_default().add(is_right, &scored);
        for turn in &scored.episode.trajectory.turns {
            if let Action::Prompt(prompt) = &turn.action
                && let Some(class) = tasks.classify(prompt)
            {
                *self.prompt_classes.entry(class.to_owned()).or_default() += 1;
            }
        }
        if is_new && self.shown.len() < MAX_SHOWN_EPISODES {
            let mut trajectory = scored.episode.trajectory;
            trajectory.trace = Default::default();
            let (task, reward) = (task.clone(), scored.reward.total);
            self.shown.push(SampleEpisode { task, trajectory, reward, advantage: None });
        }
    }

    /// What the policy reaches at least: failed episodes count as wrong, so that the few tasks that
    /// an outage left never look better than all of them.
    pub fn at_least(&self) -> ClassResult {
        ClassResult { tasks: self.all.tasks + self.failed, ..self.all }
    }

    /// Whether it is better than `other`: more right answers, then more reward, which only a
    /// complete evaluation has.
    pub fn is_better_than(&self, other: &ClassResult) -> bool {
        let (own, other_share) = (self.at_least(), other.share());
        own.share() > other_share
            || (self.failed == 0 && own.share() == other_share && own.reward > other.reward)
    }

    /// Whether it measured the same as `other`: results on other questions cannot be compared.
    pub fn is_comparable(&self, other: &Self) -> bool {
        self.at_least().tasks == other.at_least().tasks
            && self.basis.zip(other.basis).is_none_or(|(own, others)| own == others)
    }

    /// Writes it into the run's folder.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), TrainError> {
        let folder = folder.join(run_files::EVALUATIONS);
        std::fs::create_dir_all(&folder)?;
        Ok(json_file::write(&step_files::path(&folder, self.step), self)?)
    }

    /// Removes what an earlier attempt of the run in `folder` evaluated beyond its last checkpoint,
    /// which is after `step` steps; without a checkpoint, all.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn forget_later(folder: &Path, step: Option<u64>) -> io::Result<()> {
        let is_later = |of: u64| step.is_none_or(|step| of > step);
        step_files::remove(&folder.join(run_files::EVALUATIONS), is_later)
    }

    /// All evaluations in the run's folder up to `step`, oldest first.
    pub fn load_all(folder: &Path, step: u64) -> Vec<Self> {
        let all = step_files::all(&folder.join(run_files::EVALUATIONS)).unwrap_or_default();
        let all = all.into_iter().filter(|(of, _)| *of <= step);
        all.filter_map(|(_, file)| json_file::read(&file).ok()).collect()
    }
}

/// A checksum of what the results of an evaluation depend on besides the policy: the questions, and
/// how they are asked and scored. `text` are the files that prompts are made by.
///
/// # Errors
/// When a file cannot be read.
pub fn basis(
    config: &GrpoConfig,
    tasks: &Tasks,
    text: &[(String, PathBuf)],
) -> Result<u32, TrainError> {
    let judge = config.judge.as_ref().map(|judge| &judge.large_model);
    let GrpoConfig { large_model, limits, reward, .. } = config;
    let settings = (COUNTING, &tasks.eval, large_model, limits, reward, judge);
    let mut sum = crc32c::crc32c(&serde_json::to_vec(&settings).map_err(io::Error::other)?);
    for (_, path) in text {
        let contents = std::fs::read(path).map_err(|source| TrainError::read(path, source))?;
        sum = crc32c::crc32c_append(sum, &contents);
    }
    Ok(sum)
}

/// Runs the tasks without an outcome, and counts those that fail.
async fn missing(tasks: &Tasks, rollouts: &Rollouts, outcomes: &mut [Option<Scored>]) -> Failures {
    let mut failures = Failures::among(outcomes.len());
    let places: Vec<usize> =
        (0..outcomes.len()).filter(|&place| outcomes[place].is_none()).collect();
    let attempt = |&place: &usize| {
        let task = &tasks.eval[place];
        RolloutTask { task, sampling: Sampling::GREEDY }
    };
    let attempts: Vec<RolloutTask<'_>> = places.iter().map(attempt).collect();
    for (place, outcome) in places.into_iter().zip(rollouts.run(&attempts).await) {
        match outcome {
            Ok(scored) => outcomes[place] = Some(scored),
            Err(failure) => failures.add(failure),
        }
    }
    failures
}

fn class(task: &Task) -> String {
    match (&task.kind, task.hops) {
        (Some(kind), Some(hops)) if kind == "chain" => format!("{hops} hops"),
        (Some(kind), _) => kind.clone(),
        (None, _) => task.source.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn evaluations_of_an_abandoned_attempt_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        Evaluation::forget_later(folder.path(), None).unwrap();
        let found = || {
            let all = Evaluation::load_all(folder.path(), 9);
            all.iter().map(|evaluation| evaluation.step).collect::<Vec<_>>()
        };
        for step in [0, 2, 4] {
            Evaluation { step, ..Evaluation::default() }.save(folder.path()).unwrap();
        }
        let files = folder.path().join(run_files::EVALUATIONS);
        let file = step_files::path(&files, 2);
        std::fs::copy(&file, file.with_extension("json.1-0.tmp")).unwrap();
        assert_eq!(found(), [0, 2, 4], "what a kill left beside a file is no evaluation");
        Evaluation::forget_later(folder.path(), Some(2)).unwrap();
        assert_eq!(found(), [0, 2]);
        Evaluation::forget_later(folder.path(), None).unwrap();
        assert!(found().is_empty(), "nothing is left of them");
    }

    /// From Wilson's formula, calculated by hand to four digits.
    #[test]
    fn intervals() {
        for (exact, tasks, low, high) in
            [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (100, 100, 0.9630, 1.0)]
        {
            let (a, b) = ClassResult { exact, tasks, ..ClassResult::default() }.interval();
            assert!((a - low).abs() < 1e-4 && (b - high).abs() < 1e-4, "{exact}/{tasks}: {a} {b}");
        }
    }

    #[test]
    fn what_measured_something_else_is_not_compared() {
        let found = |tasks, failed, basis| {
            let all = ClassResult { tasks, ..ClassResult::default() };
            Evaluation { all, failed, basis, ..Evaluation::default() }
        };
        let last = found(4, 0, Some(1));
        // Earlier versions say how many tasks there were, and no more.
        for (tasks, failed, basis, is_comparable) in [
            (4, 0, Some(1), true),
            (3, 1, Some(1), true),
            (4, 0, Some(2), false),
            (4, 0, None, true),
            (3, 0, None, false),
        ] {
            let other = found(tasks, failed, basis);
            assert_eq!(other.is_comparable(&last), is_comparable, "{tasks}, {failed}, {basis:?}");
        }
    }

    #[test]
    fn a_fragment_is_not_better_than_the_whole() {
        let best = ClassResult { tasks: 4, exact: 3, reward: 0.5, turns: 2.0 };
        for (tasks, exact, failed, reward, is_better) in [
            (4, 4, 0, 0.5, true),
            (4, 3, 0, 0.6, true),
            (4, 3, 0, 0.5, false),
            // All of its two are right, but two more failed.
            (2, 2, 2, 1.0, false),
            // As many are right, and the reward of one is unknown.
            (3, 3, 1, 0.9, false),
            // Even if all that failed were wrong.
            (9, 9, 1, 0.0, true),
        ] {
            let all = ClassResult { tasks, exact, reward, turns: 2.0 };
            let found = Evaluation { all, failed, ..Evaluation::default() };
            assert_eq!(found.is_better_than(&best), is_better, "{exact}/{tasks}, {failed} failed");
        }
    }
}
