//! The tables of an evaluation's configuration: data, metrics, judge, prompt search.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::metric_choice::Metric;
use crate::hint::Reason;
use crate::reward::Normalization;
use crate::world::{WorldFacts, WorldQuestions};

/// The source of questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum DataConfig {
    /// Questions about the bundled world; data set `world`.
    World(WorldQuestions),
    /// Single facts of the bundled world; data set `world_facts`.
    WorldFacts(WorldFacts),
    /// Files of tasks.
    File(FileData),
}

/// Files of tasks, and which of them to use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileData {
    /// A file, a folder or a glob.
    pub path: PathBuf,
    /// The data set's name. Default: what a row has in `source` or `data_source`, or else the
    /// file's stem, or the folder's name.
    #[serde(default)]
    pub source: Option<String>,
    /// Only tasks of these data sets, as their rows name them. Default: all.
    #[serde(default)]
    pub sources: Vec<String>,
    /// Only tasks of these kinds. Default: all.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// Shuffle with this seed before the limit is applied. Default: file order.
    #[serde(default)]
    pub shuffle_seed: Option<u64>,
    /// At most this many tasks. Default: all.
    #[serde(default)]
    pub limit: Option<usize>,
    /// The column with the question, where it has a name of its own.
    #[serde(default)]
    pub question: Option<String>,
    /// The column with the gold answer, where it has a name of its own.
    #[serde(default)]
    pub answer: Option<String>,
    /// A column with a passage that is put before the question. Default: none is.
    #[serde(default)]
    pub context: Option<String>,
    /// The share of rows that may be rejected. Default: 0.01.
    #[serde(default)]
    pub max_rejected: Option<f64>,
    /// The training data of a policy: questions that occur there too cause a warning.
    #[serde(default)]
    pub train: Option<PathBuf>,
}

/// How answers are scored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricConfig {
    /// How text is normalised.
    pub normalization: Normalization,
    /// The metric of a data set, by its name or a prefix; by default the published one, and for an
    /// unknown data set the one that its form suggests, or `auto` if most of its golds are numbers,
    /// or `f1`.
    pub by_source: BTreeMap<String, Metric>,
    /// The sentence encoder for `ssim`: a folder, or an id on the Hugging Face hub. Default:
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

/// The judge and its prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JudgeConfig {
    /// The large model's name. Default: the one that is evaluated.
    pub model: Option<String>,
    /// A template with `question`, `golds`, `answer` and `source` that asks for a last line
    /// `Score: N`, N from 0 to 1. Default: the built-in one.
    pub prompt: Option<PathBuf>,
}

/// How the arm `prompt-search` searches for its prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchConfig {
    /// The budget of large-model calls of the search, including failed ones and those for
    /// proposals. For equal terms, use the number of calls of the policy's training. Default: 500.
    #[serde(default = "budget")]
    pub budget: u64,
    /// Training questions that every prompt is tried on. Default: 20.
    #[serde(default = "sample")]
    pub sample: usize,
    /// Prompts that are proposed in a round. Default: 4.
    #[serde(default = "proposals")]
    pub proposals: usize,
    /// The name of the large model that proposes. Default: the one that is evaluated.
    #[serde(default)]
    pub proposer: Option<String>,
    /// The training questions: tables `[[prompt_search.data]]`.
    pub data: Vec<DataConfig>,
}

fn budget() -> u64 {
    500
}

fn sample() -> usize {
    20
}

fn proposals() -> usize {
    4
}

impl SearchConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// Names the invalid setting.
    pub fn check(&self) -> Result<(), Reason> {
        if self.sample == 0 || self.proposals == 0 {
            return Err(
                "`prompt_search.sample` and `prompt_search.proposals` must be at least 1".into()
            );
        }
        if self.budget < self.sample as u64 {
            return Err(reason!(
                "`prompt_search.budget` is {}, which is too small to try a single prompt on {} questions", self.budget, self.sample;
                hint: "raise it, or lower `prompt_search.sample`"
            ));
        }
        Ok(())
    }
}
