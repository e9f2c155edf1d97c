#![allow(clippy::unwrap_used)]

use serde_json::Value;

use super::*;

fn golden(name: &str) -> Vec<Value> {
    let text = include_str!("../../../tests/golden/stats/stats.json");
    let all: Value = serde_json::from_str(text).unwrap();
    let cases = all[name].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[track_caller]
fn close(found: f64, expected: &Value, tolerance: f64) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= tolerance, "{found} is not {expected} ± {tolerance}");
}

#[test]
fn bootstrap_intervals_are_those_of_scipy() {
    for (seed, case) in (0..).zip(golden("bootstrap")) {
        let values = numbers(&case["values"]);
        let tolerance = case["tolerance"].as_f64().unwrap();
        let interval = difference_interval(&values, seed).unwrap();
        close(interval.low, &case["low"], tolerance);
        close(interval.high, &case["high"], tolerance);
        assert_eq!(difference_interval(&values, seed), Some(interval));
        let is_share = values.iter().all(|value| [0.0, 1.0].contains(value));
        assert_eq!(mean_interval(&values, seed) == Some(interval), !is_share);
    }
}

#[test]
fn intervals_of_shares_are_those_of_statsmodels() {
    for (seed, case) in (0..).zip(golden("wilson")) {
        let [right, n] = ["right", "n"].map(|key| case[key].as_u64().unwrap() as usize);
        let mut scores = vec![1.0; right];
        scores.resize(n, 0.0);
        let interval = mean_interval(&scores, seed).unwrap();
        close(interval.low, &case["low"], 1e-12);
        close(interval.high, &case["high"], 1e-12);
        // Neither the order nor the seed matters.
        scores.reverse();
        assert_eq!(mean_interval(&scores, seed + 1), Some(interval));
    }
}

#[test]
fn intervals_where_nothing_varies() {
    assert_eq!(mean_interval(&[0.5, 0.5], 0), Some(Interval { low: 0.5, high: 0.5 }));
    assert_eq!(difference_interval(&[0.0; 9], 0), Some(Interval { low: 0.0, high: 0.0 }));
    assert_eq!(mean_interval(&[], 0), None);
    assert_eq!(difference_interval(&[], 0), None);
}

#[test]
fn medians() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[3.0]), Some(3.0));
    assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), Some(3.0));
}

#[test]
fn mcnemar_is_that_of_statsmodels() {
    for case in golden("mcnemar") {
        let counts = ["first_only", "second_only"].map(|key| case[key].as_u64().unwrap());
        let found = mcnemar(counts[0], counts[1]);
        close(found.exact, &case["exact"], 1e-11);
        close(found.mid_p, &case["mid_p"], 1e-11);
        assert_eq!(found, mcnemar(counts[1], counts[0]));
    }
    assert_eq!(mcnemar(0, 0), McNemar { exact: 1.0, mid_p: 1.0 });
}

#[test]
fn permutation_tests_are_those_of_scipy() {
    for case in golden("permutation") {
        let differences = numbers(&case["differences"]);
        close(permutation(&differences, 3), &case["p"], case["tolerance"].as_f64().unwrap());
        let turned: Vec<f64> = differences.iter().map(|value| -value).collect();
        assert_eq!(permutation(&differences, 3), permutation(&turned, 3));
    }
    assert_eq!(permutation(&[], 0), 1.0);
    assert_eq!(permutation(&[0.0; 50], 0), 1.0);
    assert_eq!(permutation(&[1.0; 50], 0), 1.0 / (RESAMPLES + 1) as f64);
}

#[test]
fn corrections_and_effect_sizes() {
    for case in golden("holm") {
        let found = holm(&numbers(&case["p"]));
        for (found, expected) in found.iter().zip(case["corrected"].as_array().unwrap()) {
            close(*found, expected, 1e-12);
        }
    }
    for case in golden("cohens_d") {
        close(cohens_d(&numbers(&case["differences"])).unwrap(), &case["d"], 1e-12);
    }
    assert_eq!(cohens_d(&[]), None);
    assert_eq!(cohens_d(&[0.5]), None);
    assert_eq!(cohens_d(&[0.5, 0.5]), None);
    for (value, count) in [(0.1, 7), (-0.3, 10), (1.0 / 3.0, 1000)] {
        assert_eq!(cohens_d(&vec![value; count]), None, "all are equal: {value}, {count}");
    }
    assert!(cohens_d(&[0.1, 0.1 + 1e-9]).is_some());
}

#[test]
fn numbers_of_questions() {
    for case in golden("needed_mcnemar") {
        let shares = ["first_only", "second_only"].map(|key| case[key].as_f64().unwrap());
        assert_eq!(questions_needed_mcnemar(shares[0], shares[1], 1), case["questions"].as_u64());
        assert_eq!(questions_needed_mcnemar(shares[1], shares[0], 1), case["questions"].as_u64());
    }
    for case in golden("needed_mean") {
        let found = questions_needed_mean(case["d"].as_f64().unwrap(), 1);
        assert_eq!(found, case["questions"].as_u64());
    }
    // More comparisons need more questions.
    assert!(questions_needed_mcnemar(0.1, 0.05, 20) > questions_needed_mcnemar(0.1, 0.05, 2));
    assert!(questions_needed_mean(0.2, 20) > questions_needed_mean(0.2, 2));
    for case in golden("normal_quantile") {
        let found = super::sample_size::normal_quantile(case["p"].as_f64().unwrap());
        close(found, &case["z"], 1e-9);
    }
    assert_eq!(questions_needed_mcnemar(0.1, 0.1, 1), None);
    assert_eq!(questions_needed_mcnemar(0.0, 0.0, 1), None);
    assert_eq!(questions_needed_mean(0.0, 1), None);
}
