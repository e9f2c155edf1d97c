//! The report of an evaluation: as data, as Markdown and as a page.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic_file::replace;
use crate::episode::EpisodeUsage;
use crate::large_model::CallUsage;
use crate::reward::Normalization;
use crate::run_files;

use super::EvalError;
use super::rows::AnswerStep;
use super::search::SearchResult;
use super::statistics::Interval;

mod build;
mod cut_texts;
mod html;
mod markdown;
mod plot;
#[cfg(test)]
mod tests;

pub use build::{ReportInput, build};
pub use html::html;
pub use markdown::markdown;

/// The report of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this format: 1.
    pub schema_version: u32,
    /// Its title.
    pub title: String,
    /// Seed of the questions, the attempts and the resampling.
    pub seed: u64,
    /// Questions asked.
    pub questions: usize,
    /// The large model that all arms use.
    pub large_model: String,
    /// How text was normalised.
    pub normalization: Normalization,
    /// The arms, in the order they were configured.
    pub arms: Vec<ArmSummary>,
    /// The judge and its usage, if answers were judged; no arm is charged for it.
    pub judge: Option<JudgeSummary>,
    /// The prompt that was searched for, and how.
    pub search: Option<SearchResult>,
    /// The method of the 95 % intervals of mean scores.
    pub interval_method: String,
    /// Scores by data set, by kind, by number of hops and by number of calls.
    pub tables: Vec<Table>,
    /// Pairs of arms.
    pub comparisons: Vec<Comparison>,
    /// Failures, and how often they occurred.
    pub failures: Vec<ArmFailure>,
    /// Warnings about the questions, and about what flatters or harms an arm.
    pub warnings: Vec<String>,
    /// The first questions, with transcripts of every arm.
    pub episodes: Vec<EpisodeView>,
}

/// The usage of the judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeSummary {
    /// The large model.
    pub model: String,
    /// What it used.
    pub usage: CallUsage,
}

/// The results of an arm, and its usage per answered question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmSummary {
    /// Its name.
    pub name: String,
    /// Its method: `direct`, `policy:…`.
    pub method: String,
    /// Questions answered.
    pub answered: usize,
    /// Questions on which a model failed; they count in no score.
    pub failed: usize,
    /// Questions answered for which the judge failed; they count in no score.
    pub unscored: usize,
    /// Replies of the large model that were cut off, at its token limit or by a content filter.
    pub cut_replies: u64,
    /// Turns of the policy that were cut off at its token limits.
    pub cut_turns: u64,
    /// Questions answered with a reply or turn that was cut off; they are scored like all others.
    pub cut_answers: usize,
    /// Questions answered by an earlier version, whose rows do not tell what was cut off.
    pub cut_unknown: usize,
    /// Mean score over all answered questions.
    pub score: Option<Cell>,
    /// Calls of the large model; those of a search for the arm's prompt are spread over the
    /// questions, here and below.
    pub calls: f64,
    /// Tokens that the large model read and wrote.
    pub large_model_tokens: f64,
    /// Tokens that the policy wrote; with `self-policy` they are the large model's.
    pub policy_tokens: f64,
    /// Tokens that the policy read: in each turn all that came before.
    pub policy_tokens_read: f64,
    /// The median wall time of an answer, seconds, at the evaluation's concurrency; `None` if all
    /// rows are of earlier versions.
    pub median_seconds: Option<f64>,
    /// Money, in the currency of the configured prices.
    pub cost: f64,
    /// The whole usage of the arm, including its search and failed attempts.
    pub total: EpisodeUsage,
    /// How episodes ended: reason and share of the answered questions.
    pub finishes: Vec<(String, f64)>,
}

impl ArmSummary {
    /// Tokens that the policy read and wrote.
    fn all_policy_tokens(&self) -> f64 {
        self.policy_tokens_read + self.policy_tokens
    }
}

/// Mean scores with their 95 % intervals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// The grouping of its rows: `data set`, `kind`, `hops`, `calls`.
    pub by: String,
    /// The rows.
    pub rows: Vec<TableRow>,
}

/// One class of questions; by `calls`, of attempts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableRow {
    /// The class.
    pub label: String,
    /// The metric.
    pub metric: String,
    /// One for each arm; `None` if it answered nothing.
    pub cells: Vec<Option<Cell>>,
}

impl TableRow {
    /// The largest number of answers behind a cell.
    fn most(&self) -> usize {
        self.cells.iter().flatten().map(|cell| cell.n).max().unwrap_or(0)
    }
}

/// A mean score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// 0 to 1.
    pub mean: f64,
    /// Its 95 % interval.
    pub interval: Interval,
    /// Questions answered.
    pub n: usize,
}

/// Two arms on the questions that both answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The class of questions.
    pub scope: String,
    /// One arm.
    pub first: String,
    /// The other.
    pub second: String,
    /// Questions that both answered.
    pub n: usize,
    /// Mean score of the second minus that of the first.
    pub difference: f64,
    /// Its 95 % bootstrap interval.
    pub interval: Interval,
    /// `McNemar` for right or wrong, else `permutation`.
    pub test: String,
    /// Two-sided.
    pub p: f64,
    /// The less conservative value of McNemar's test.
    pub mid_p: Option<f64>,
    /// `p` corrected for all comparisons of the report, after Holm.
    pub p_holm: f64,
    /// Cohen's d of the paired differences.
    pub cohens_d: Option<f64>,
    /// Questions that only the first, and only the second, answered right.
    pub discordant: Option<(u64, u64)>,
    /// The number of questions that would settle a difference of this size, if it is not
    /// significant: level 0.05 after correction for all comparisons, power 0.8.
    pub questions_needed: Option<u64>,
}

impl Comparison {
    /// Whether the difference is significant at level 0.05 after correction.
    pub fn is_settled(&self) -> bool {
        self.p_holm < 0.05
    }
}

/// A failure, which is not a wrong answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArmFailure {
    /// The arm.
    pub arm: String,
    /// The error.
    pub error: String,
    /// How often.
    pub count: usize,
    /// The id of one of the questions.
    pub example: String,
}

/// A question with the transcripts of every arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpisodeView {
    /// The task's id.
    pub id: String,
    /// Its data set.
    pub source: String,
    /// Its kind.
    pub kind: Option<String>,
    /// Its number of hops.
    pub hops: Option<u32>,
    /// The question.
    pub question: String,
    /// The gold answers.
    pub golds: Vec<String>,
    /// One for each arm.
    pub attempts: Vec<AttemptView>,
}

/// The transcript of an arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptView {
    /// The score; `None` where there is none for a failure.
    pub score: Option<f64>,
    /// The answer. Long texts are truncated.
    pub answer: String,
    /// The error, of the attempt or of the judge.
    pub error: Option<String>,
    /// Why it stopped.
    pub finish: String,
    /// Its usage.
    pub usage: EpisodeUsage,
    /// The turns. Long texts are truncated.
    pub steps: Vec<AnswerStep>,
}

/// Writes `report.json`, `report.md` and `report.html` into `folder`, and returns the page's path.
///
/// # Errors
/// When a file cannot be written.
pub fn write(report: &Report, folder: &Path) -> Result<PathBuf, EvalError> {
    let json = serde_json::to_string_pretty(report).map_err(|error| EvalError::Io {
        path: folder.join("report.json"),
        source: error.into(),
    })?;
    let page = folder.join(run_files::REPORT);
    for (path, text) in [
        (folder.join("report.json"), json + "\n"),
        (folder.join("report.md"), markdown(report)),
        (page.clone(), html(report)?),
    ] {
        replace(&path, |beside| std::fs::write(beside, text)).map_err(EvalError::io(&path))?;
    }
    Ok(page)
}
