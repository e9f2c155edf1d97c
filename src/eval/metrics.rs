//! Which metric scores which data set.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::reward::{AnswerMetric, Normalization};

/// How an answer is scored: 0 to 1, and 0 for an empty one under every metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The harmonic mean of precision and recall over tokens.
    F1,
    /// 1 when the normal forms are equal, else 0.
    Exact,
    /// 1 when both are the same number, else 0.
    Numeric,
    /// `numeric` for golds that are numbers, `f1` for the others.
    Auto,
    /// The cosine of sentence embeddings; a negative one counts as 0.
    Ssim,
    /// What a large model says that the answer is worth.
    Judge,
}

/// The published metric of each data set, by how its name begins.
const PUBLISHED: [(&str, Metric); 14] = [
    ("world", Metric::Exact),
    ("2wiki", Metric::F1),
    ("hotpot", Metric::F1),
    ("musique", Metric::F1),
    ("popqa", Metric::F1),
    ("squad", Metric::F1),
    ("triviaqa", Metric::F1),
    ("gsm8k", Metric::Exact),
    ("dapo", Metric::Exact),
    ("mathqa", Metric::Exact),
    ("math", Metric::Exact),
    ("booksum", Metric::Ssim),
    ("writingprompts", Metric::Ssim),
    ("xsum", Metric::Ssim),
];

/// How answers are scored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricConfig {
    /// How text is made comparable.
    pub normalization: Normalization,
    /// The metric of a data set, by its name; the published one where none is given, and `f1` for
    /// a data set that is not known.
    pub by_source: BTreeMap<String, Metric>,
    /// What embeds sentences for `ssim`: a folder, or an id on the Hugging Face hub. Default:
    /// `sentence-transformers/all-MiniLM-L6-v2`, as published.
    pub sentence_model: String,
}

impl Default for MetricConfig {
    fn default() -> Self {
        Self {
            normalization: Normalization::default(),
            by_source: BTreeMap::new(),
            sentence_model: "sentence-transformers/all-MiniLM-L6-v2".into(),
        }
    }
}

impl Metric {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::F1 => "F1",
            Self::Exact => "exact match",
            Self::Numeric => "numeric match",
            Self::Auto => "numeric match or F1",
            Self::Ssim => "SSim",
            Self::Judge => "judge",
        }
    }

    /// Whether it gives nothing between 0 and 1.
    pub fn is_binary(self) -> bool {
        matches!(self, Self::Exact | Self::Numeric)
    }

    /// The comparison of texts that it is, if no model is needed for it.
    pub fn by_text(self) -> Option<AnswerMetric> {
        match self {
            Self::F1 => Some(AnswerMetric::F1),
            Self::Exact => Some(AnswerMetric::Exact),
            Self::Numeric => Some(AnswerMetric::Numeric),
            Self::Auto => Some(AnswerMetric::Auto),
            Self::Ssim | Self::Judge => None,
        }
    }
}

impl MetricConfig {
    /// The metric of the data set `source`.
    pub fn of(&self, source: &str) -> Metric {
        if let Some(metric) = self.by_source.get(source) {
            return *metric;
        }
        let plain: String =
            source.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
        let published = PUBLISHED.into_iter().find(|(start, _)| plain.starts_with(start));
        published.map_or(Metric::F1, |(_, metric)| metric)
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
            ("world", Metric::Exact),
            ("world_facts", Metric::Exact),
            ("gsm8k-256-test", Metric::Exact),
            ("hotpot-256-test", Metric::F1),
            ("2WikiMultihopQA", Metric::F1),
            ("MuSiQue", Metric::F1),
            ("PopQA", Metric::F1),
            ("DAPO-Math", Metric::Exact),
            ("MathQA", Metric::Exact),
            ("BookSum", Metric::Ssim),
            ("Writing_Prompts", Metric::Ssim),
            ("XSum", Metric::Ssim),
            ("SQuAD v2", Metric::F1),
            ("TriviaQA", Metric::F1),
            ("my own", Metric::F1),
        ] {
            assert_eq!(config.of(source), metric, "{source}");
        }
    }

    #[test]
    fn an_override_wins() {
        let text = "by_source = { gsm8k = \"numeric\", BookSum = \"judge\" }";
        let config: MetricConfig = toml::from_str(text).unwrap();
        assert_eq!(config.of("gsm8k"), Metric::Numeric);
        assert_eq!(config.of("BookSum"), Metric::Judge);
        assert_eq!(config.of("WritingPrompts"), Metric::Ssim);
    }
}
