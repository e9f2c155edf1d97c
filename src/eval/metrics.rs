//! Which metric scores which data set.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::reward::{AnswerMetric, Normalization};
use crate::task::Task;

use super::EvalError;

/// The published metric of each data set, by how its name begins.
const PUBLISHED: [(&str, Published); 14] = [
    ("world", Published::Metric(AnswerMetric::Exact)),
    ("2wiki", Published::Metric(AnswerMetric::F1)),
    ("hotpot", Published::Metric(AnswerMetric::F1)),
    ("musique", Published::Metric(AnswerMetric::F1)),
    ("popqa", Published::Metric(AnswerMetric::F1)),
    ("squad", Published::Metric(AnswerMetric::F1)),
    ("triviaqa", Published::Metric(AnswerMetric::F1)),
    ("gsm8k", Published::Metric(AnswerMetric::Exact)),
    ("dapo", Published::Metric(AnswerMetric::Exact)),
    ("mathqa", Published::Metric(AnswerMetric::Exact)),
    ("math", Published::Metric(AnswerMetric::Exact)),
    ("booksum", Published::Similarity),
    ("writingprompts", Published::Similarity),
    ("xsum", Published::Similarity),
];

#[derive(Clone, Copy)]
enum Published {
    Metric(AnswerMetric),
    /// Cosine of sentence embeddings, which this program does not compute.
    Similarity,
}

/// How answers are scored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricConfig {
    /// How text is made comparable.
    pub normalization: Normalization,
    /// The metric of a data set, by its name; the published one where none is given, and `f1` for
    /// a data set that is not known.
    pub by_source: BTreeMap<String, AnswerMetric>,
}

/// The name of a metric in reports.
pub fn name(metric: AnswerMetric) -> &'static str {
    match metric {
        AnswerMetric::F1 => "F1",
        AnswerMetric::Exact => "exact match",
        AnswerMetric::Numeric => "numeric match",
        AnswerMetric::Auto => "numeric match or F1",
    }
}

/// Whether a metric gives nothing between 0 and 1.
pub fn is_binary(metric: AnswerMetric) -> bool {
    matches!(metric, AnswerMetric::Exact | AnswerMetric::Numeric)
}

impl MetricConfig {
    /// The metric of the data set `source`.
    ///
    /// # Errors
    /// When the published metric is one that this program does not compute and no other is given.
    pub fn of(&self, source: &str) -> Result<AnswerMetric, EvalError> {
        if let Some(metric) = self.by_source.get(source) {
            return Ok(*metric);
        }
        let plain: String =
            source.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
        let published = PUBLISHED.into_iter().find(|(start, _)| plain.starts_with(start));
        match published {
            Some((_, Published::Metric(metric))) => Ok(metric),
            Some((_, Published::Similarity)) => Err(EvalError::Setting(format!(
                "the published metric of `{source}` is the similarity of sentence embeddings, which is not computed here\nhint: choose another: `metrics.by_source.\"{source}\" = \"f1\"`"
            ))),
            None => Ok(AnswerMetric::F1),
        }
    }

    /// The score of `answer` to `task` under `metric`, 0 to 1; an empty answer scores 0.
    pub fn score(&self, metric: AnswerMetric, answer: &str, task: &Task) -> f64 {
        metric.score(answer, &task.golds, self.normalization)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn data_sets_have_their_published_metric() {
        let config = MetricConfig::default();
        for (source, metric) in [
            ("world", AnswerMetric::Exact),
            ("world_facts", AnswerMetric::Exact),
            ("gsm8k-256-test", AnswerMetric::Exact),
            ("hotpot-256-test", AnswerMetric::F1),
            ("2WikiMultihopQA", AnswerMetric::F1),
            ("DAPO-Math", AnswerMetric::Exact),
            ("MathQA", AnswerMetric::Exact),
            ("TriviaQA", AnswerMetric::F1),
            ("my own", AnswerMetric::F1),
        ] {
            assert_eq!(config.of(source).unwrap(), metric, "{source}");
        }
    }

    #[test]
    fn an_override_wins_and_a_missing_metric_is_an_error() {
        let by_source = BTreeMap::from([
            ("gsm8k".to_owned(), AnswerMetric::Numeric),
            ("BookSum".to_owned(), AnswerMetric::F1),
        ]);
        let config = MetricConfig { by_source, ..MetricConfig::default() };
        assert_eq!(config.of("gsm8k").unwrap(), AnswerMetric::Numeric);
        assert_eq!(config.of("BookSum").unwrap(), AnswerMetric::F1);
        let error = config.of("WritingPrompts").unwrap_err().to_string();
        assert!(error.contains("`metrics.by_source.\"WritingPrompts\" = \"f1\"`"), "{error}");
    }

    #[test]
    fn nothing_scores_nothing() {
        let config = MetricConfig::default();
        let task = Task { golds: vec![String::new(), "the".into()], ..Task::default() };
        for metric in [AnswerMetric::Exact, AnswerMetric::F1, AnswerMetric::Numeric] {
            assert_eq!(config.score(metric, " \n", &task), 0.0);
        }
    }
}
