//! What came out: one account of it, as data, as Markdown and as a page.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::episode::{EpisodeUsage, RoleUsage};
use crate::reward::Normalization;

use super::EvalError;
use super::rows::AnswerStep;
use super::search::Found;
use super::statistics::Interval;

mod build;
mod html;
mod markdown;
mod plot;
#[cfg(test)]
mod tests;

pub use build::{ReportInput, build};
pub use html::html;
pub use markdown::markdown;

/// An evaluation's account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this form: 1.
    pub schema_version: u32,
    /// What the report is headed.
    pub title: String,
    /// Seed of the questions, the attempts and the resampling.
    pub seed: u64,
    /// Questions asked.
    pub questions: usize,
    /// The large model that all arms use.
    pub large_model: String,
    /// How text was made comparable.
    pub normalization: Normalization,
    /// The arms, in the order they were configured.
    pub arms: Vec<ArmSummary>,
    /// Who judged and what that took, where answers were judged; no arm pays for it.
    pub judge: Option<JudgeSummary>,
    /// The prompt that was searched for, and how.
    pub search: Option<Found>,
    /// Scores by data set, by kind, by number of hops and by number of calls.
    pub tables: Vec<Table>,
    /// Pairs of arms.
    pub comparisons: Vec<Comparison>,
    /// What failed, and how often.
    pub failures: Vec<ArmFailure>,
    /// What a reader should know about the questions.
    pub warnings: Vec<String>,
    /// The first questions, with what every arm did.
    pub episodes: Vec<EpisodeView>,
}

/// What judging took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeSummary {
    /// The large model.
    pub model: String,
    /// What it used.
    pub usage: RoleUsage,
}

/// What an arm did, and what it used per answered question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmSummary {
    /// Its name.
    pub name: String,
    /// What it is: `direct`, `policy:…`.
    pub method: String,
    /// Questions answered.
    pub answered: usize,
    /// Questions on which a model failed; they count in no score.
    pub failed: usize,
    /// Questions answered whose answer the judge failed on; they count in no score.
    pub unscored: usize,
    /// Mean score over all answered questions.
    pub score: Option<Cell>,
    /// Calls of the large model; those of a search for the arm's prompt are spread over the
    /// questions, here and below.
    pub calls: f64,
    /// Tokens that the large model read and wrote.
    pub large_model_tokens: f64,
    /// Tokens that the policy wrote.
    pub policy_tokens: f64,
    /// Money, in the currency of the configured prices.
    pub cost: f64,
    /// All that the arm used: its search and what failed attempts had used are in it.
    pub total: EpisodeUsage,
    /// How episodes ended: reason and share of the answered questions.
    pub finishes: Vec<(String, f64)>,
}

/// Mean scores with their 95 % intervals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What its rows are: `data set`, `kind`, `hops`, `calls`.
    pub by: String,
    /// The rows.
    pub rows: Vec<TableRow>,
}

/// One class of questions; by `calls`, of attempts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableRow {
    /// The class.
    pub label: String,
    /// How it is scored.
    pub metric: String,
    /// One for each arm; `None` where it answered nothing.
    pub cells: Vec<Option<Cell>>,
}

impl TableRow {
    /// The largest number of answers that a cell is a mean of.
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
    /// Questions that would settle a difference of this size, where it is not settled: level 0.05
    /// after correction for all comparisons, power 0.8.
    pub questions_needed: Option<u64>,
}

impl Comparison {
    /// Whether the difference is settled at level 0.05 after correction.
    pub fn is_settled(&self) -> bool {
        self.p_holm < 0.05
    }
}

/// A failure, which is no wrong answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArmFailure {
    /// The arm.
    pub arm: String,
    /// What happened.
    pub error: String,
    /// How often.
    pub count: usize,
    /// The id of one of the questions.
    pub example: String,
}

/// A question with what every arm did.
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
    /// What was asked.
    pub question: String,
    /// What is right.
    pub golds: Vec<String>,
    /// One for each arm.
    pub attempts: Vec<AttemptView>,
}

/// What an arm did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptView {
    /// The score; `None` where there is none for a failure.
    pub score: Option<f64>,
    /// The answer. Long texts are cut.
    pub answer: String,
    /// What failed: the attempt, or the judge of its answer.
    pub error: Option<String>,
    /// Why it stopped.
    pub finish: String,
    /// What it took.
    pub usage: EpisodeUsage,
    /// How the answer came about. Long texts are cut.
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
    let page = folder.join("report.html");
    for (path, text) in [
        (folder.join("report.json"), json + "\n"),
        (folder.join("report.md"), markdown(report)),
        (page.clone(), html(report)?),
    ] {
        std::fs::write(&path, text).map_err(EvalError::io(&path))?;
    }
    Ok(page)
}
