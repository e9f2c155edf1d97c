//! Which metric scores which data set.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::EvalError;
use super::config::MetricConfig;
use super::data::Question;
use crate::dataset::Form;
use crate::reward::AnswerMetric;

/// How an answer is scored: 0 to 1, and 0 for an empty answer under every metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Metric {
    /// By comparing texts.
    Text(AnswerMetric),
    /// The cosine of sentence embeddings; a negative one counts as 0.
    Ssim,
    /// The score of a judge.
    Judge,
}

const F1: Metric = Metric::Text(AnswerMetric::F1);
const EXACT: Metric = Metric::Text(AnswerMetric::Exact);
const NUMERIC: Metric = Metric::Text(AnswerMetric::Numeric);
const AUTO: Metric = Metric::Text(AnswerMetric::Auto);
const MATH: Metric = Metric::Text(AnswerMetric::Math);

/// The data sets of the bundled world, which have these names alone.
const BUNDLED: [&str; 2] = ["world", "world_facts"];

/// The published metric of each data set, by the words that its name begins with. The reference's
/// own file names are among them: `w-book-…`, `wp-…`, `xum-…`. Where it is exact match of numbers
/// or formulas, they are compared as such: a model that has to compute replies with its steps, and
/// a comparison of texts would count every such reply as wrong.
const PUBLISHED: [(&str, Metric); 21] = [
    ("2wiki", F1),
    ("2wikimultihopqa", F1),
    ("hotpot", F1),
    ("hotpotqa", F1),
    ("musique", F1),
    ("bamboogle", F1),
    ("popqa", F1),
    ("squad", F1),
    ("triviaqa", F1),
    ("nq", F1),
    ("naturalquestions", F1),
    ("gsm8k", NUMERIC),
    ("dapo", MATH),
    ("mathqa", MATH),
    ("math", MATH),
    ("booksum", Metric::Ssim),
    ("wbook", Metric::Ssim),
    ("writingprompts", Metric::Ssim),
    ("wp", Metric::Ssim),
    ("xsum", Metric::Ssim),
    ("xum", Metric::Ssim),
];

impl Metric {
    /// Every metric.
    pub fn all() -> impl Iterator<Item = Self> {
        AnswerMetric::ALL.into_iter().map(Self::Text).chain([Self::Ssim, Self::Judge])
    }

    /// Its name in configurations.
    pub fn key(self) -> &'static str {
        match self {
            Self::Text(metric) => metric.key(),
            Self::Ssim => "ssim",
            Self::Judge => "judge",
        }
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text(metric) => metric.name(),
            Self::Ssim => "SSim",
            Self::Judge => "judge",
        }
    }

    /// Whether it gives only 0 or 1.
    pub fn is_binary(self) -> bool {
        matches!(self, Self::Text(metric) if metric.is_binary())
    }

    /// Whether it compares numbers or formulas, which a model has to compute.
    pub fn is_computed(self) -> bool {
        use AnswerMetric::{Gsm8kFlexible, Gsm8kStrict, HendrycksMath, Math, Numeric};
        matches!(self, Self::Text(Numeric | Math | Gsm8kStrict | Gsm8kFlexible | HendrycksMath))
    }

    /// Whether it compares texts, by which a worked solution is not its result.
    pub fn is_textual(self) -> bool {
        matches!(self, Self::Text(AnswerMetric::F1 | AnswerMetric::Exact) | Self::Ssim)
    }
}

impl From<Metric> for String {
    fn from(metric: Metric) -> Self {
        metric.key().to_owned()
    }
}

impl TryFrom<String> for Metric {
    type Error = String;

    fn try_from(key: String) -> Result<Self, String> {
        Self::all().find(|metric| metric.key() == key).ok_or_else(|| {
            let known: Vec<String> =
                Self::all().map(|known| format!("`{}`", known.key())).collect();
            format!("there is no metric `{key}`; there are {}", known.join(", "))
        })
    }
}

/// A data set's metric, and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricChoice {
    /// The metric.
    pub metric: Metric,
    /// Why it was chosen.
    pub reason: &'static str,
}

impl MetricConfig {
    /// Checks that `by_source` names data sets of these questions.
    ///
    /// # Errors
    /// When it names another.
    pub fn check<'q>(
        &self,
        questions: impl Iterator<Item = &'q Question>,
    ) -> Result<(), EvalError> {
        let sources: BTreeSet<&str> = questions.map(|question| &*question.task.source).collect();
        let fits = |name: &str| sources.iter().any(|source| names(name, source));
        let Some(wrong) = self.by_source.keys().find(|name| !fits(name)) else { return Ok(()) };
        let sources: Vec<String> = sources.iter().map(|source| format!("`{source}`")).collect();
        Err(EvalError::Setting(reason!(
            "`metrics.by_source` names the data set `{wrong}`, but there is none of that name";
            hint: "there is {}", sources.join(", ")
        )))
    }

    /// The metric of the data set `source`, whose rows are written in `form`, and whether most of
    /// them have a number as gold.
    pub fn of(&self, source: &str, form: Option<Form>, has_numbers: bool) -> MetricChoice {
        let own = self.by_source.iter().filter(|(name, _)| names(name, source));
        // Of several names that match, the longest is the most specific.
        if let Some((_, metric)) = own.max_by_key(|(name, _)| (*name == source, name.len())) {
            return MetricChoice { metric: *metric, reason: "`metrics.by_source` says so" };
        }
        // A part of a data set that is asked with options is scored by the option.
        let has_options = form == Some(Form::MultipleChoice);
        if let Some(metric) = published(source).filter(|_| !has_options) {
            return MetricChoice { metric, reason: "published with data sets of this name" };
        }
        let by_form = match form {
            Some(Form::Gsm8k) => Some(AnswerMetric::Numeric),
            Some(Form::Math) => Some(AnswerMetric::Math),
            Some(Form::MultipleChoice) => Some(AnswerMetric::Choice),
            _ => None,
        };
        match by_form {
            Some(metric) => {
                MetricChoice { metric: Metric::Text(metric), reason: "usual for rows of this form" }
            }
            None if has_numbers => MetricChoice { metric: AUTO, reason: "most golds are numbers" },
            None => MetricChoice { metric: F1, reason: "the default" },
        }
    }
}

/// Letters and digits of a data set's name, in lower case.
fn plain(source: &str) -> String {
    source.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Whether `name` means the data set `source`: equal to its name or a prefix of it, with or without
/// an owner such as `openai/`.
fn names(name: &str, source: &str) -> bool {
    let (name, bare) = (plain(name), source.rsplit('/').next().unwrap_or(source));
    !name.is_empty() && (plain(source).starts_with(&name) || plain(bare).starts_with(&name))
}

fn published(source: &str) -> Option<Metric> {
    if BUNDLED.contains(&source) {
        return Some(EXACT);
    }
    let bare = source.rsplit('/').next().unwrap_or(source);
    let fits = |name: &str| begins_with(source, name) || begins_with(bare, name);
    PUBLISHED.into_iter().find(|(name, _)| fits(name)).map(|(_, metric)| metric)
}

/// Whether the letters and digits that a text begins with are `name`, and no letter follows.
fn begins_with(text: &str, name: &str) -> bool {
    let mut rest = text.chars();
    let mut wanted = name.chars();
    let is_same = wanted.all(|wanted| {
        let next = rest.find(|c| c.is_alphanumeric());
        next.is_some_and(|c| c.to_ascii_lowercase() == wanted)
    });
    is_same && !rest.next().is_some_and(char::is_alphabetic)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::hint::Hint;

    #[test]
    fn data_sets_have_their_published_metric() {
        let config = MetricConfig::default();
        for (source, metric) in [
            ("world", EXACT),
            ("world_facts", EXACT),
            ("gsm8k-256-test", NUMERIC),
            ("openai/gsm8k", NUMERIC),
            ("hotpot-256-test", F1),
            ("2WikiMultihopQA", F1),
            ("MuSiQue", F1),
            ("PopQA", F1),
            ("DAPO-Math", MATH),
            ("math_dapo", MATH),
            ("MathQA", MATH),
            ("lighteval/MATH", MATH),
            ("DigitalLearningGmbH/MATH-lighteval", MATH),
            ("BookSum", Metric::Ssim),
            ("w-book-6600-256-test", Metric::Ssim),
            ("Writing_Prompts", Metric::Ssim),
            ("wp-6600-256-test", Metric::Ssim),
            ("XSum", Metric::Ssim),
            ("xum-128-eval_ood", Metric::Ssim),
            ("SQuAD v2", F1),
            ("TriviaQA", F1),
            ("nq", F1),
            ("nq_open", F1),
            ("math500", MATH),
            ("nqueens", F1),
            ("wpa", F1),
            ("mathematicians", F1),
            ("world_history", F1),
            ("worldbank", F1),
            ("my own", F1),
        ] {
            assert_eq!(config.of(source, None, false).metric, metric, "{source}");
        }
    }

    #[test]
    fn a_worked_solution_counts_by_its_result() {
        use crate::reward::Normalization;
        let config = MetricConfig::default();
        for (source, reply, gold, score) in [
            ("gsm8k-test", "In May she sold 48 / 2 = 24.\n\nThus, \\(\\boxed{72}\\).", "72", 1.0),
            ("gsm8k-test", "In May she sold 48 / 2 = 24.\n\nThus, \\(\\boxed{24}\\).", "72", 0.0),
            ("openai/gsm8k", "16 - 3 - 4 = 9, and 9 * 2 = $18.", "18", 1.0),
            ("MATH", r"We divide by 4. \[ x = \boxed{\frac{1}{2}} \]", r"\frac{1}{2}", 1.0),
            ("DAPO-Math", "So the sum is 34.", "34", 1.0),
        ] {
            let Metric::Text(metric) = config.of(source, None, true).metric else {
                panic!("{source}")
            };
            let found = metric.score(reply, &[gold.to_owned()], Normalization::Published);
            assert_eq!(found, score, "{source}: {reply}");
        }
    }

    #[test]
    fn an_unknown_data_set_has_the_metric_of_its_form() {
        let config = MetricConfig::default();
        for (source, form, metric) in [
            ("train", Some(Form::Gsm8k), AnswerMetric::Numeric),
            ("train", Some(Form::Math), AnswerMetric::Math),
            ("arc", Some(Form::MultipleChoice), AnswerMetric::Choice),
            ("train", Some(Form::QuestionAnswer), AnswerMetric::F1),
            ("gsm8k", Some(Form::Gsm8k), AnswerMetric::Numeric),
            ("gsm8k-mc", Some(Form::MultipleChoice), AnswerMetric::Choice),
            ("squad-mc", Some(Form::MultipleChoice), AnswerMetric::Choice),
        ] {
            let chosen = config.of(source, form, false).metric;
            assert_eq!(chosen, Metric::Text(metric), "{source} {form:?}");
        }
        for (source, form, metric) in [
            ("svamp", Some(Form::QuestionAnswer), AnswerMetric::Auto),
            ("train", None, AnswerMetric::Auto),
            ("train", Some(Form::Gsm8k), AnswerMetric::Numeric),
            ("train", Some(Form::Math), AnswerMetric::Math),
            ("arc", Some(Form::MultipleChoice), AnswerMetric::Choice),
            ("nq", Some(Form::QuestionAnswer), AnswerMetric::F1),
        ] {
            let chosen = config.of(source, form, true).metric;
            assert_eq!(chosen, Metric::Text(metric), "numbers of {source} {form:?}");
        }
        for (source, is_published) in [
            ("world", true),
            ("HotpotQA", true),
            ("2WikiMultihopQA", true),
            ("Natural-Questions", true),
            ("SQuAD v2", true),
            ("world_history", false),
            ("squadron", false),
            ("musiquette", false),
        ] {
            let reason = config.of(source, None, false).reason;
            assert_eq!(reason.starts_with("published"), is_published, "{source}: {reason}");
        }
    }

    #[test]
    fn an_override_wins_by_name_or_its_beginning_and_must_fit() {
        let text =
            "by_source = { gsm8k = \"numeric\", gsm8k-hard = \"math\", BookSum = \"judge\" }";
        let config: MetricConfig = toml::from_str(text).unwrap();
        let of = |source| config.of(source, None, false).metric;
        assert_eq!(of("openai/gsm8k"), Metric::Text(AnswerMetric::Numeric));
        assert_eq!(of("gsm8k-256-test"), Metric::Text(AnswerMetric::Numeric));
        assert_eq!(of("gsm8k-hard"), Metric::Text(AnswerMetric::Math));
        assert_eq!(of("BookSum"), Metric::Judge);
        assert_eq!(of("WritingPrompts"), Metric::Ssim);
        let question = |source: &str| Question {
            task: crate::task::Task { source: source.into(), ..Default::default() },
            metric: F1,
        };
        let asked = [question("gsm8k-256-test"), question("hotpot")];
        let error = config.check(asked.iter()).unwrap_err().explained();
        assert!(error.contains("the data set `BookSum`"), "{error}");
        assert!(error.contains("there is `gsm8k-256-test`, `hotpot`"), "{error}");
        let error = toml::from_str::<MetricConfig>("by_source = { a = \"f2\" }").unwrap_err();
        assert!(error.to_string().contains("there is no metric `f2`; there are `f1`"), "{error}");
    }
}
