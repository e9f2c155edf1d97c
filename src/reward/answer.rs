//! How right an answer is: exact match, token F1, numeric match. An empty prediction scores 0.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::latex::without_latex;
use super::number::Number;
use super::plain::{boxed, plain_unicode};
use super::{choice, harness, math};

/// How text is made comparable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    /// As SQuAD v1.1 publishes it: lower case, without ASCII punctuation, without the articles a,
    /// an and the, single spaces. It makes 5.6 equal to 56 and -3 to 3.
    #[default]
    Published,
    /// The same, but numbers keep their sign, point and percent sign and lose only what does not
    /// change them (separators, currency, trailing zeros, a closing full stop); articles stay where
    /// nothing else is left; of `\boxed{…}` only the content counts, and Unicode has one form (NFC,
    /// quotes, dashes, full-width characters).
    Strict,
}

impl Normalization {
    /// The normal form of `text`.
    pub fn apply(self, text: &str) -> String {
        match self {
            Self::Published => without_articles(&without_punctuation(&text.to_lowercase())),
            Self::Strict => {
                let text = boxed(text).unwrap_or(text);
                let text = match text.contains('\\') {
                    true => plain_unicode(&without_latex(text)),
                    false => plain_unicode(text),
                };
                let words =
                    words(&text.to_lowercase()).map(strict_word).collect::<Vec<_>>().join(" ");
                let bare = without_articles(&words);
                if bare.is_empty() { words.trim().to_owned() } else { bare }
            }
        }
    }
}

/// How a prediction is compared with a gold answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerMetric {
    /// The harmonic mean of precision and recall over tokens.
    F1,
    /// 1 when the normal forms are equal, else 0.
    Exact,
    /// 1 when both are the same number, else 0; a gold that is no number is never matched.
    Numeric,
    /// `numeric` for golds that are numbers, `f1` for the others.
    Auto,
    /// 1 when both are the same number, expression, set, tuple or interval, or the same words.
    Math,
    /// 1 when the answer chooses the label that the first gold is (a letter or a digit), or is one
    /// of the golds in words.
    Choice,
    /// GSM8K as lm-evaluation-harness scores it with `strict-match`: the number after `#### `.
    Gsm8kStrict,
    /// GSM8K as lm-evaluation-harness scores it with `flexible-extract`: the last number.
    Gsm8kFlexible,
    /// MATH as lm-evaluation-harness scores it in `hendrycks_math`.
    HendrycksMath,
}

impl AnswerMetric {
    /// Every metric.
    pub const ALL: [Self; 9] = [
        Self::F1,
        Self::Exact,
        Self::Numeric,
        Self::Auto,
        Self::Math,
        Self::Choice,
        Self::Gsm8kStrict,
        Self::Gsm8kFlexible,
        Self::HendrycksMath,
    ];

    /// Its name in configurations.
    pub fn key(self) -> &'static str {
        match self {
            Self::F1 => "f1",
            Self::Exact => "exact",
            Self::Numeric => "numeric",
            Self::Auto => "auto",
            Self::Math => "math",
            Self::Choice => "choice",
            Self::Gsm8kStrict => "gsm8k_strict",
            Self::Gsm8kFlexible => "gsm8k_flexible",
            Self::HendrycksMath => "hendrycks_math",
        }
    }

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::F1 => "F1",
            Self::Exact => "exact match",
            Self::Numeric => "numeric match",
            Self::Auto => "numeric match or F1",
            Self::Math => "mathematical equality",
            Self::Choice => "chosen letter",
            Self::Gsm8kStrict => "GSM8K strict match",
            Self::Gsm8kFlexible => "GSM8K flexible match",
            Self::HendrycksMath => "MATH exact match",
        }
    }

    /// Whether it gives only 0 or 1.
    pub fn is_binary(self) -> bool {
        !matches!(self, Self::F1 | Self::Auto)
    }

    /// The score of `prediction` against the best of `golds`, 0 to 1.
    pub fn score(self, prediction: &str, golds: &[String], normalization: Normalization) -> f64 {
        if prediction.trim().is_empty() {
            return 0.0;
        }
        let against = |gold: &String| match self {
            Self::F1 | Self::Exact if normalization.apply(gold).is_empty() => {
                f64::from(same_without_words(prediction, gold))
            }
            Self::F1 => f1(prediction, gold, normalization),
            Self::Exact => f64::from(exact_match(prediction, gold, normalization)),
            Self::Numeric => f64::from(numeric_match(prediction, gold)),
            Self::Auto if Number::parse_with_unit(gold).is_some() => {
                f64::from(numeric_match(prediction, gold))
            }
            Self::Auto => Self::F1.score(prediction, std::slice::from_ref(gold), normalization),
            Self::Math => f64::from(math::same(prediction, gold)),
            Self::Choice => f64::from(choice::is_correct(prediction, golds)),
            Self::Gsm8kStrict => f64::from(harness::gsm8k_strict(prediction, gold)),
            Self::Gsm8kFlexible => f64::from(harness::gsm8k_flexible(prediction, gold)),
            Self::HendrycksMath => f64::from(harness::hendrycks_math(prediction, gold)),
        };
        golds.iter().map(against).fold(0.0, f64::max)
    }
}

/// For golds that normalise to nothing, such as `A`, `the` and `?`: whether the prediction is the
/// same except for case and surrounding characters.
fn same_without_words(prediction: &str, gold: &str) -> bool {
    let bare = |text: &str| {
        let lower = plain_unicode(text).to_lowercase();
        let inner = lower.trim_matches(|c: char| !c.is_alphanumeric());
        if inner.is_empty() { lower.trim().to_owned() } else { inner.to_owned() }
    };
    !gold.trim().is_empty() && bare(prediction) == bare(gold)
}

/// Whether the normal forms are equal.
pub fn exact_match(prediction: &str, gold: &str, normalization: Normalization) -> bool {
    !prediction.trim().is_empty() && normalization.apply(prediction) == normalization.apply(gold)
}

/// The harmonic mean of precision and recall over the tokens of the normal forms, each token
/// counted as often as it occurs; 0 to 1.
pub fn f1(prediction: &str, gold: &str, normalization: Normalization) -> f64 {
    let (prediction, gold) = (normalization.apply(prediction), normalization.apply(gold));
    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    let mut gold_length = 0_usize;
    for token in gold.split(' ').filter(|token| !token.is_empty()) {
        *expected.entry(token).or_default() += 1;
        gold_length += 1;
    }
    let (mut length, mut same) = (0_usize, 0_usize);
    for token in prediction.split(' ').filter(|token| !token.is_empty()) {
        length += 1;
        if let Some(left) = expected.get_mut(token).filter(|left| **left > 0) {
            *left -= 1;
            same += 1;
        }
    }
    if same == 0 {
        return 0.0;
    }
    let (precision, recall) = (same as f64 / length as f64, same as f64 / gold_length as f64);
    2.0 * precision * recall / (precision + recall)
}

/// Whether the number that `prediction` gives is the number `gold`.
pub fn numeric_match(prediction: &str, gold: &str) -> bool {
    match (Number::find(prediction), Number::parse_with_words(gold)) {
        (Some(given), Some(wanted)) => given.same(wanted),
        _ => false,
    }
}

fn without_punctuation(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_punctuation()).collect()
}

/// Splits at white space, as Python's `str.split` understands it.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
        .filter(|word| !word.is_empty())
}

/// Drops `a`, `an` and `the` where they stand between characters that are no part of a word, and
/// brings all white space to single spaces.
fn without_articles(text: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut kept = String::with_capacity(text.len());
    let mut word = String::new();
    let flush = |word: &mut String, kept: &mut String| {
        kept.push_str(if matches!(word.as_str(), "a" | "an" | "the") { " " } else { word });
        word.clear();
    };
    for c in text.chars() {
        if is_part(c) {
            word.push(c);
        } else {
            flush(&mut word, &mut kept);
            kept.push(c);
        }
    }
    flush(&mut word, &mut kept);
    words(&kept).collect::<Vec<_>>().join(" ")
}

/// A word without punctuation; a number in its one plain form.
fn strict_word(word: &str) -> String {
    let bare = word
        .trim_start_matches(['(', '[', '"', '\'', '*'])
        .trim_end_matches(['.', ',', ';', ':', '!', '?', ')', ']', '"', '\'', '*']);
    match Number::parse(bare) {
        Some(number) => number.to_string(),
        None => without_punctuation(word),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(Deserialize)]
    struct Row {
        prediction: String,
        gold: String,
        normalised: String,
        exact: f64,
        f1: f64,
    }

    #[test]
    fn published_values_are_those_of_squad() {
        let rows = include_str!("../../tests/golden/answer/answer.json");
        let rows: Vec<Row> = serde_json::from_str(rows).unwrap();
        assert!(rows.len() > 400);
        for row in rows {
            let Row { prediction, gold, .. } = &row;
            let shown = format!("{prediction:?} against {gold:?}");
            assert_eq!(Normalization::Published.apply(prediction), row.normalised, "{shown}");
            let exact = exact_match(prediction, gold, Normalization::Published);
            assert_eq!(f64::from(exact), row.exact, "{shown}");
            let found = f1(prediction, gold, Normalization::Published);
            assert!((found - row.f1).abs() < 1e-12, "{shown}: {found}");
        }
    }

    #[test]
    fn strict_normalisation_keeps_what_numbers_mean() {
        for (text, normal) in [
            ("5.6", "28/5"),
            ("5.60.", "28/5"),
            ("-3", "-3"),
            ("(-3),", "-3"),
            ("$1,000.00", "1000"),
            ("50%", "50%"),
            ("3/4", "3/4"),
            ("6/8", "3/4"),
            ("The U.S.", "us"),
            ("well-known", "wellknown"),
            ("\\boxed{The Answer}", "answer"),
            ("The", "the"),
            ("a", "a"),
            ("vitamin A", "vitamin"),
            ("", ""),
            (" ... ", ""),
        ] {
            assert_eq!(Normalization::Strict.apply(text), normal, "{text}");
        }
    }

    #[test]
    fn metrics_take_the_best_gold_and_give_nothing_for_nothing() {
        use AnswerMetric::{Auto, Exact, F1, Numeric};
        use Normalization::{Published, Strict};
        let cases: [(AnswerMetric, Normalization, &str, &[&str], f64); 22] = [
            (F1, Published, "the cat sat", &["dog", "cat"], 2.0 / 3.0),
            (F1, Published, "5.6", &["56"], 1.0),
            (F1, Strict, "5.6", &["56"], 0.0),
            (Exact, Published, "-3", &["3"], 1.0),
            (Exact, Strict, "-3", &["3"], 0.0),
            (Exact, Strict, "$1,000", &["1000"], 1.0),
            (Exact, Published, "Paris!", &["Rome", "paris"], 1.0),
            (Numeric, Published, "The answer is $5.60.", &["5.6"], 1.0),
            (Numeric, Published, "56", &["5.6"], 0.0),
            (Numeric, Published, "five", &["five"], 0.0),
            (Numeric, Published, "5 cats", &["cats", "5"], 1.0),
            (Auto, Strict, "it is 1,000", &["1000"], 1.0),
            (Auto, Strict, "it is 1000", &["999"], 0.0),
            (Auto, Strict, "the cat sat", &["cat"], 2.0 / 3.0),
            (Auto, Strict, "\\boxed{50\\%}", &["0.5"], 1.0),
            (F1, Published, "", &[""], 0.0),
            (Exact, Published, "", &[""], 0.0),
            (Exact, Published, " \n", &["the"], 0.0),
            (Exact, Strict, "", &[""], 0.0),
            (Numeric, Strict, "", &[""], 0.0),
            (Auto, Strict, "", &[""], 0.0),
            (F1, Published, "anything", &[], 0.0),
        ];
        for (metric, normalization, prediction, golds, score) in cases {
            let golds: Vec<String> = golds.iter().map(|&gold| gold.to_owned()).collect();
            let found = metric.score(prediction, &golds, normalization);
            assert!((found - score).abs() < 1e-12, "{metric:?} {prediction:?} {golds:?}: {found}");
        }
    }
}
