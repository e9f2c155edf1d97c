//! The outcome of a run: logged at its end, and written into its folder.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::error::TrainError;
use super::json_file;
use super::metrics::Values;
use crate::dataset::ReadSummary;
use crate::hint::Hint;
use crate::run_files;

/// The number of reasons that are listed.
const NAMED: usize = 10;

/// Metrics whose mean over the steps is part of the summary.
const MEANS: [&str; 6] = [
    "cut_turns",
    "zero_variance",
    "failed_episodes",
    "fallback_replies",
    "dropped_updates",
    "cost",
];

/// The summary of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RunSummary {
    /// `sft` or `grpo`.
    pub method: &'static str,
    /// `finished`, or why it ended.
    pub ended: String,
    /// Steps done, those of earlier attempts included.
    pub steps: u64,
    /// The device and type.
    pub device: String,
    /// What was read.
    pub data: Vec<DataSummary>,
    /// Means over the steps of this attempt.
    pub means: BTreeMap<&'static str, f64>,
    /// Substituted, truncated or tolerated data.
    pub notes: Vec<String>,
    #[serde(skip)]
    counts: BTreeMap<&'static str, f64>,
}

/// The outcome of a file's rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DataSummary {
    /// The file, or another source.
    pub from: String,
    /// Rows read.
    pub rows: usize,
    /// Rows that are used.
    pub used: usize,
    /// Rows that could not be parsed.
    pub rejected: usize,
    /// Rows that do not fit the context.
    pub too_long: usize,
    /// Rows that were left out to keep an evaluation short.
    pub left_out: usize,
    /// Why the first of them were rejected.
    pub reasons: Vec<String>,
    /// What was left out of rows that are used.
    pub notes: Vec<String>,
}

impl DataSummary {
    /// For rows from `from`.
    pub fn new(from: &Path, read: &ReadSummary) -> Self {
        let skipped: usize = read.skipped.values().sum();
        Self {
            from: from.display().to_string(),
            rows: read.rows,
            used: read.used,
            rejected: read.rejected,
            left_out: skipped + read.filtered_out + read.beyond_limit,
            reasons: read.reasons(),
            notes: read.remarks(),
            ..Self::default()
        }
    }

    /// Adds a rejected row.
    pub fn reject(&mut self, reason: String) {
        self.rejected += 1;
        if self.reasons.len() < NAMED {
            self.reasons.push(reason);
        }
    }

    /// Logs it. Fails if nothing is left, or more than the share `allowed` of the rows was rejected
    /// or too long.
    ///
    /// # Errors
    /// Names the file, the counts and the first reasons.
    pub fn check(&self, allowed: f64) -> Result<(), TrainError> {
        let Self { from, rows, used, rejected, too_long, left_out, .. } = self;
        for note in &self.notes {
            tracing::warn!(from, "{note}");
        }
        let lost = rejected + too_long;
        if lost == 0 {
            tracing::info!(from, rows, used, left_out, "read");
            return Ok(());
        }
        for reason in &self.reasons {
            tracing::warn!(from, "rejected: {reason}");
        }
        tracing::warn!(from, rows, used, rejected, too_long, left_out, "not every row is used");
        if lost == *rows || lost as f64 > allowed * *rows as f64 {
            let first: String =
                self.reasons.iter().take(3).map(|reason| format!("\n  {reason}")).collect();
            return Err(TrainError::Config(reason!(
                "of the {rows} rows of `{from}`, {rejected} were rejected and {too_long} are too long for the policy's context{first}";
                hint: "repair them, or raise `max_rejected` (a share, {allowed} now)"
            )));
        }
        Ok(())
    }
}

impl RunSummary {
    /// For a run that begins.
    pub fn new(method: &'static str) -> Self {
        Self { method, ..Self::default() }
    }

    /// Adds and logs something that was done differently from what was asked.
    pub fn note(&mut self, note: String) {
        tracing::warn!("{note}");
        self.notes.push(note);
    }

    /// Adds the metrics of a step.
    pub fn step(&mut self, done: u64, values: &Values) {
        self.steps = done;
        for (name, value) in values.iter().filter(|(name, _)| MEANS.contains(name)) {
            let count = self.counts.entry(name).or_default();
            *count += 1.0;
            let mean = self.means.entry(name).or_default();
            *mean += (value - *mean) / *count;
        }
    }

    /// Adds the result of the run, logs it, and writes it into `folder`.
    pub fn finish<T>(mut self, folder: &Path, outcome: &Result<T, TrainError>) {
        self.ended = match outcome {
            Ok(_) => "finished".to_owned(),
            Err(error) => error.explained(),
        };
        let Self { method, steps, device, means, .. } = &self;
        let ended = self.ended.lines().next().unwrap_or_default();
        tracing::info!(method, steps, device, ?means, notes = self.notes.len(), ended, "summary");
        if let Err(error) = json_file::write(&folder.join(run_files::SUMMARY), &self) {
            tracing::warn!(%error, "cannot write the summary");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_small_share_of_bad_rows_is_allowed_and_a_large_one_is_not() {
        for (rejected, too_long, allowed, passes) in [
            (0, 0, 0.0, true),
            (1, 0, 0.05, true),
            (5, 1, 0.05, false),
            (6, 0, 1.0, true),
            (50, 50, 1.0, false),
        ] {
            let mut data = DataSummary { from: "a.jsonl".into(), rows: 100, ..Default::default() };
            for line in 0..rejected {
                data.reject(format!("line {line}: no answer"));
            }
            data.too_long = too_long;
            let outcome = data.check(allowed);
            assert_eq!(outcome.is_ok(), passes, "{rejected} {too_long} {allowed}");
            if let Err(error) = outcome {
                let said = error.to_string();
                assert!(said.contains("`a.jsonl`") && said.contains("line 2: no answer"), "{said}");
            }
        }
    }

    #[test]
    fn what_was_left_out_of_rows_is_part_of_the_summary() {
        let mut read = ReadSummary::default();
        read.notes.insert("its system message is left out", 3);
        read.unread.insert("hint".into());
        let data = DataSummary::new(Path::new("a.jsonl"), &read);
        let notes =
            ["3 rows: its system message is left out", "columns that were not read: `hint`"];
        assert_eq!(data.notes, notes);
    }

    #[test]
    fn means_are_over_the_steps_that_measured() {
        let folder = tempfile::tempdir().unwrap();
        let mut summary = RunSummary::new("grpo");
        summary.step(1, &vec![("zero_variance", 0.5), ("reward", 1.0)]);
        summary.step(2, &vec![("zero_variance", 1.0)]);
        summary.note("on the CPU".into());
        summary.finish(folder.path(), &Err::<(), _>(TrainError::Interrupted(2)));
        let text = std::fs::read_to_string(folder.path().join(run_files::SUMMARY)).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["means"], serde_json::json!({ "zero_variance": 0.75 }));
        assert_eq!(value["steps"], 2);
        assert!(value["ended"].as_str().unwrap().starts_with("stopped after step 2"));
    }
}
