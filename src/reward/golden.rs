//! Answers and golds from real data, with Math-Verify's verdict on each:
//! `tests/golden/answers/make.py`.

#![allow(clippy::unwrap_used)]

use serde::Deserialize;

use super::{AnswerMetric, Normalization};

#[derive(Deserialize)]
struct Pair {
    answer: String,
    gold: String,
    right: bool,
    math_verify: bool,
    #[serde(default)]
    why: String,
}

#[test]
fn answers_of_mathematics_are_judged_as_by_math_verify_or_for_a_reason() {
    let pairs = include_str!("../../tests/golden/answers/pairs.json");
    let pairs: Vec<Pair> = serde_json::from_str(pairs).unwrap();
    assert!(pairs.len() >= 300);
    let mut wrong = Vec::new();
    for Pair { answer, gold, right, math_verify, why } in pairs {
        assert_eq!(right == math_verify, why.is_empty(), "{answer} -> {gold}");
        let golds = [gold];
        let found = AnswerMetric::Math.score(&answer, &golds, Normalization::default());
        if (found == 1.0) != right {
            wrong.push(format!("{answer} -> {}: {found}", golds[0]));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn gsm8k_and_math_are_scored_as_by_lm_evaluation_harness() {
    let rows = include_str!("../../tests/golden/answers/harness.json");
    let rows: Vec<(AnswerMetric, String, String, bool)> = serde_json::from_str(rows).unwrap();
    assert!(rows.len() >= 1000);
    let mut wrong = Vec::new();
    for (metric, output, gold, right) in rows {
        let golds = [gold];
        let found = metric.score(&output, &golds, Normalization::default());
        if (found == 1.0) != right {
            wrong.push(format!("{metric:?}: {output:?} -> {}: {found}", golds[0]));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
