//! Runs on the wire.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::runs::{MetricRows, Run, RunKind};

/// The runs of a folder.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunList {
    /// Always `list`.
    object: &'static str,
    /// The runs, at most 200.
    data: Vec<ListedRun>,
}

/// A run in the list.
#[derive(Debug, Serialize, ToSchema)]
struct ListedRun {
    /// The name of its folder.
    name: String,
    /// `training` or `evaluation`.
    #[schema(example = "training")]
    kind: &'static str,
    /// When it last wrote, seconds since 1970.
    updated: u64,
    /// Whether `/v1/runs/{run}/report` exists.
    has_report: bool,
    /// The summary at the end of a training run: how it ended, and its use of data.
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<Value>,
}

impl From<Vec<Run>> for RunList {
    fn from(runs: Vec<Run>) -> Self {
        let data = runs.into_iter().map(|run| ListedRun {
            name: run.name,
            kind: match run.kind {
                RunKind::Training => "training",
                RunKind::Evaluation => "evaluation",
            },
            updated: run.updated,
            has_report: run.has_report,
            summary: run.summary,
        });
        Self { object: "list", data: data.collect() }
    }
}

/// Where to continue reading.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MetricQuery {
    /// The `next` of an earlier answer. Default: the beginning.
    pub(super) from: Option<u64>,
}

/// The metrics of a run.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MetricList {
    /// Always `list`.
    object: &'static str,
    /// An object for each step, with the `step` and its metrics.
    data: Vec<Map<String, Value>>,
    /// The `from` of the next request.
    next: u64,
    /// Whether more can be read now.
    has_more: bool,
}

impl From<MetricRows> for MetricList {
    fn from(metrics: MetricRows) -> Self {
        let MetricRows { rows, next, has_more } = metrics;
        Self { object: "list", data: rows, next, has_more }
    }
}

/// The steps of which a run has something.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StepList {
    /// Always `list`.
    object: &'static str,
    /// The steps, in order.
    data: Vec<u64>,
}

impl From<Vec<u64>> for StepList {
    fn from(data: Vec<u64>) -> Self {
        Self { object: "list", data }
    }
}
