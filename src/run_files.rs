//! The names of the files in a run's folder, for what writes them and what reads them.

/// Metrics of a training run: a line of JSON for each step.
pub const METRICS: &str = "metrics.jsonl";
/// What a training run writes at its end.
pub const SUMMARY: &str = "summary.json";
/// The report of a run, a page of HTML.
pub const REPORT: &str = "report.html";
/// The folder with the evaluations of a training run, a file for each.
pub const EVALUATIONS: &str = "evaluations";
/// The folder with episodes that a training run learnt from, a file for each step.
pub const SAMPLES: &str = "samples";
/// The answers of an evaluation: a line of JSON for each.
pub const ROWS: &str = "rows.jsonl";

/// The name of a step's file in a folder that has one for each: `step-00000010.json`.
pub fn name_of_step(step: u64) -> String {
    format!("step-{step:08}.json")
}

/// The step whose file has this name; `None` for other files.
pub fn step_of(name: &str) -> Option<u64> {
    name.strip_prefix("step-")?.strip_suffix(".json")?.parse().ok()
}
