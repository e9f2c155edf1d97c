//! A task: a question and its gold answers.

use serde::{Deserialize, Serialize};

/// One question with everything needed to score an answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Task {
    /// Unique within its data set; stable between runs over the same file.
    pub id: String,
    /// What is asked, as the user would write it.
    pub question: String,
    /// Acceptable answers; a prediction is scored against the best of them.
    pub golds: Vec<String>,
    /// The data set that the task comes from, such as `hotpotqa`; chooses the metric.
    pub source: String,
    /// A finer class inside the data set, such as `comparison`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// How many single facts must be chained to answer, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hops: Option<u32>,
}
