//! Finished rows, appended to a file of JSON Lines, so that a run that was killed can continue.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::episode::EpisodeUsage;
use crate::journal::{Journal, JournalError};

use super::EvalError;

/// Everything an answer depends on. A finished row is reused only under the same key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RowKey {
    /// The arm's identity: models, prompts, limits.
    pub arm: String,
    /// The task's data set.
    pub source: String,
    /// The task's id.
    pub id: String,
    /// The question.
    pub question: String,
    /// The seed of the attempt.
    pub seed: u64,
}

/// One step towards an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "text")]
pub enum AnswerStep {
    /// The policy's thought.
    Think(String),
    /// The prompt for the large model.
    Prompt(String),
    /// The large model's reply.
    Reply(String),
    /// A policy's text that is none of these.
    Other(String),
}

/// How many texts of an attempt ended before they were complete.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutTexts {
    /// Replies of the large model, at its token limit or by a content filter.
    pub replies: u64,
    /// Turns of the policy, at its token limits.
    pub turns: u64,
}

/// An answered question.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ArmAnswer {
    /// The answer as it is scored; may be empty.
    pub answer: String,
    /// Why the arm stopped: `answered`, or what prevented its own answer.
    pub finish: String,
    /// Its usage.
    pub usage: EpisodeUsage,
    /// The steps.
    pub steps: Vec<AnswerStep>,
    /// What was cut off; rows of earlier versions do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_off: Option<CutTexts>,
    /// The wall time of the answer beside the others in flight, microseconds; absent from rows of
    /// earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micros: Option<u64>,
}

/// The outcome of a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was answered, right or wrong.
    Answered(ArmAnswer),
    /// A model failed: this says nothing about the arm.
    Failed {
        /// Why.
        error: String,
        /// The usage all the same.
        usage: EpisodeUsage,
    },
}

/// A question with its outcome under an arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its key.
    pub key: RowKey,
    /// Its outcome.
    pub outcome: Outcome,
}

/// The longest time between two syncs to disk. Syncing after every row would slow down a run with a
/// fast large model.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// The file of finished rows.
#[derive(Debug)]
pub struct RowFile {
    path: PathBuf,
    journal: Journal,
    synced: Instant,
}

impl RowFile {
    /// Opens or creates the file, and reads its rows; of several with one key, the last counts. An
    /// incomplete last line is removed.
    ///
    /// # Errors
    /// When the file cannot be opened, or a line other than the last is damaged.
    pub fn open(path: &Path) -> Result<(Self, HashMap<RowKey, Outcome>), EvalError> {
        let mut rows = HashMap::new();
        let journal = Journal::open(path, |Row { key, outcome }| {
            rows.insert(key, outcome);
        });
        let journal = journal.map_err(|error| match error {
            JournalError::Io(source) => EvalError::io(path)(source),
            JournalError::Damaged { line, reason } => {
                EvalError::Damaged { path: path.to_owned(), line, reason }
            }
        })?;
        Ok((Self { path: path.to_owned(), journal, synced: Instant::now() }, rows))
    }

    /// Appends rows. If the process is killed after this, none is lost; a power loss loses those of
    /// the last second at most.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&mut self, rows: &[Row]) -> Result<(), EvalError> {
        let io = EvalError::io(&self.path);
        self.journal.append(rows).map_err(&io)?;
        if self.synced.elapsed() >= SYNC_EVERY {
            self.journal.sync().map_err(&io)?;
            self.synced = Instant::now();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn row(id: &str, answer: &str) -> Row {
        let key = RowKey {
            arm: "a".into(),
            source: "s".into(),
            id: id.into(),
            question: "q\n".into(),
            seed: u64::MAX,
        };
        let attempt = ArmAnswer {
            answer: answer.into(),
            steps: vec![AnswerStep::Think("t".into()), AnswerStep::Prompt("p".into())],
            ..ArmAnswer::default()
        };
        Row { key, outcome: Outcome::Answered(attempt) }
    }

    #[test]
    fn rows_survive_a_kill_in_the_middle_of_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let (mut file, rows) = RowFile::open(&path).unwrap();
        assert!(rows.is_empty());
        file.append(&[row("1", "x"), row("2", "y")]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (mut file, rows) = RowFile::open(&path).unwrap();
            let lines = whole[..cut].iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(rows.len(), lines);
            file.append(&[row("3", "z")]).unwrap();
            let (_, rows) = RowFile::open(&path).unwrap();
            assert_eq!(rows.len(), lines + 1);
            assert_eq!(rows[&row("3", "").key], row("3", "z").outcome);
        }
    }

    #[test]
    fn rows_of_earlier_versions_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let earlier = r#"{"key":{"arm":"a","source":"s","id":"1","question":"q","seed":3},"outcome":{"answered":{"answer":"x","finish":"answered","usage":{"policy":{"calls":0,"prompt_tokens":0,"completion_tokens":0,"cost":0.0},"large_model":{"calls":1,"prompt_tokens":2,"completion_tokens":1,"cost":0.0}},"steps":[{"kind":"reply","text":"x"}]}}}"#;
        std::fs::write(&path, format!("{earlier}\n")).unwrap();
        let (_, rows) = RowFile::open(&path).unwrap();
        let Some(Outcome::Answered(attempt)) = rows.values().next() else { unreachable!() };
        assert_eq!((attempt.answer.as_str(), attempt.cut_off, attempt.micros), ("x", None, None));
    }

    #[test]
    fn the_last_row_of_a_key_counts_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let (mut file, _) = RowFile::open(&path).unwrap();
        let usage = EpisodeUsage::default();
        let failed = Outcome::Failed { error: "down".into(), usage };
        file.append(&[Row { outcome: failed, ..row("1", "") }, row("1", "x")]).unwrap();
        let (_, rows) = RowFile::open(&path).unwrap();
        assert_eq!(rows[&row("1", "").key], row("1", "x").outcome);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{{}}\n{text}")).unwrap();
        let error = RowFile::open(&path).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}
