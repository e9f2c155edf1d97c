//! A task: a question and its gold answers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One question with everything needed to score an answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Task {
    /// Unique within its data set; stable between runs over the same files.
    pub id: String,
    /// What is asked, as the user would write it.
    pub question: String,
    /// Acceptable answers; a prediction is scored against the best of them.
    pub golds: Vec<String>,
    /// The data set that the task comes from, such as `hotpotqa`; chooses the metric. One text for
    /// all tasks of a file.
    #[serde(with = "shared")]
    pub source: Arc<str>,
    /// A finer class inside the data set, such as `comparison`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// How many single facts must be chained to answer, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hops: Option<u32>,
}

/// A shared text that is serialised like any other.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(text: &Arc<str>, writer: S) -> Result<S::Ok, S::Error> {
        writer.serialize_str(text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(reader: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(reader).map(Arc::from)
    }
}
