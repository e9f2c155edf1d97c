#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use super::*;
use crate::hint::Hint;
use crate::task::Task;

mod choices;
mod examples;
mod files;
mod forms;
mod parquet;
mod published;

/// What the instruction around a question looks like, in words of our own.
const INSTRUCTION: &str = "First, say what is asked.\n1. Write:\n   <think>(short)</think>\n   \
    <interaction_prompt>(a prompt)</interaction_prompt>\n2. Then:\n   <answer>(it)</answer>";

/// Takes any share of rejected rows.
fn lenient() -> ReadOptions {
    ReadOptions { max_rejected: 1.0, ..ReadOptions::default() }
}

fn write(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

fn read(name: &str, content: &str) -> Result<ReadOutcome<Task>, DatasetError> {
    let (_folder, path) = write(name, content.as_bytes());
    read_tasks(&path, &lenient())
}

/// The golds of the only row, or why it is rejected.
fn golds_of(row: &str) -> Result<Vec<String>, String> {
    match read("set.jsonl", row) {
        Ok(mut outcome) => Ok(outcome.rows.remove(0).golds),
        Err(DatasetError::NoTask { summary, .. }) => {
            let rejected = summary.first_rejected.first().map(|rejected| rejected.reason.clone());
            Err(rejected.unwrap_or_else(|| (*summary.skipped.keys().next().unwrap()).to_owned()))
        }
        Err(error) => panic!("{error}"),
    }
}

fn task(id: &str, question: &str, golds: &[&str], source: &str) -> Task {
    Task {
        id: id.into(),
        question: question.into(),
        golds: golds.iter().map(|&gold| gold.into()).collect(),
        source: source.into(),
        ..Task::default()
    }
}

#[test]
fn json_lines_of_every_form_are_read() {
    let wrapped = format!("Question: How far?\nAnd how long?\n{INSTRUCTION}");
    let message = serde_json::json!({
        "data_source": "roads",
        "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": wrapped}],
        "reward_model": {"style": "rule", "ground_truth": ["9 km", "nine km"]},
        "extra_info": {"index": 3},
    });
    let lines = [
        r#"{"question": "Why?", "answer": "because"}"#,
        "",
        r#"{"id": 7, "question": "How many?", "answer": 5.5, "source": "sums", "kind": "one", "hops": 2}"#,
        r#"{"question": "Which?", "answers": ["a", null, " ", "b"], "answer": "c"}"#,
        r#"{"question": "Is it?", "answer": true}"#,
        r#"{"prompt": "Just a text", "reward_model": {"ground_truth": "plain"}}"#,
        &message.to_string(),
    ];
    let outcome = read("set.jsonl", &format!("\u{feff}{}\r\n", lines.join("\r\n"))).unwrap();
    assert_eq!(outcome.summary.rejected, 0);
    let full = Task {
        kind: Some("one".into()),
        hops: Some(2),
        ..task("7", "How many?", &["5.5"], "sums")
    };
    assert_eq!(
        outcome.rows,
        [
            task("set:1", "Why?", &["because"], "set"),
            full,
            task("set:4", "Which?", &["a", "b"], "set"),
            task("set:5", "Is it?", &["yes", "true"], "set"),
            task("set:6", "Just a text", &["plain"], "set"),
            task("set:7", "How far?\nAnd how long?", &["9 km", "nine km"], "roads"),
        ]
    );
}

#[test]
fn a_row_that_is_no_task_is_rejected_by_line_and_reason() {
    let good = r#"{"id": "x", "question": "Why?", "answer": "because"}"#;
    for (line, reason) in [
        ("{\"question\": \"Wh", "it is not JSON: EOF"),
        ("\"text\"", "it is not a JSON object"),
        ("{}", "it has no question: its columns are no column at all"),
        (r#"{"q": "Why?", "answer": "b"}"#, "it has no question: its columns are `q`, `answer`"),
        (r#"{"question": "Why?"}"#, "it has no answer: its columns are `question`"),
        (
            r#"{"question": "Why?", "answer": null}"#,
            "it has no answer: its columns are `question`, `answer` (null)",
        ),
        (r#"{"question": " ", "answer": "b"}"#, "its question is empty"),
        (r#"{"question": 5, "answer": "b"}"#, "its `question` is a number, not text"),
        (r#"{"question": "Why?", "answer": ""}"#, "its `answer` is empty"),
        (r#"{"question": "Why?", "answers": []}"#, "its `answers` is empty"),
        (
            r#"{"question": "Why?", "answers": [{"words": "b"}]}"#,
            "its `answers` is an object of no known form",
        ),
        (r#"{"prompt": 4, "answer": "b"}"#, "its `prompt` is not a list of messages"),
        (
            r#"{"prompt": [{"role": "system", "content": "x"}], "answer": "b"}"#,
            "its `prompt` has no message of role `user`",
        ),
        (
            r#"{"prompt": [{"role": "user"}], "answer": "b"}"#,
            "message 1 of its `prompt` has no `content`",
        ),
        (
            r#"{"prompt": "x", "reward_model": {"ground_truth": []}}"#,
            "its `reward_model.ground_truth` is empty",
        ),
        (
            r#"{"question": "Why?", "answer": "b", "hops": "two"}"#,
            "its `hops` is `two`, not a whole number",
        ),
        (good, "its id `x` and its question are those of row 1"),
    ] {
        let outcome = read("set.jsonl", &format!("{good}\n\n{line}\n")).unwrap();
        assert_eq!(outcome.rows.len(), 1, "{line}");
        let [rejected] = outcome.summary.first_rejected.as_slice() else {
            panic!("{line}: {outcome:?}")
        };
        assert_eq!(rejected.row, 3);
        assert!(rejected.reason.starts_with(reason), "{line}: {}", rejected.reason);
        assert!(rejected.to_string().contains("set.jsonl` row 3: "), "{rejected}");
    }
}

#[test]
fn broken_text_in_one_line_spares_the_others() {
    let (_folder, path) = write(
        "set.jsonl",
        b"{\"question\": \"\xff\", \"answer\": \"b\"}\n{\"question\": \"q\", \"answer\": \"b\"}",
    );
    let outcome = read_tasks(&path, &lenient()).unwrap();
    assert_eq!((outcome.rows.len(), outcome.summary.rejected), (1, 1));
    assert_eq!(outcome.rows[0].id, "set:2");
}

#[test]
fn a_message_without_the_wrapper_is_kept_whole() {
    for (message, question) in [
        (format!("Question: Why?\n{INSTRUCTION}"), "Why?"),
        // A line of the question that looks like the instruction's first.
        (
            format!("Question: Order these.\nFirst, the cat.\n{INSTRUCTION}"),
            "Order these.\nFirst, the cat.",
        ),
        ("Question: Why?".to_owned(), "Question: Why?"),
        ("Question: Why?\nFirst, think.".to_owned(), "Question: Why?\nFirst, think."),
        ("Question: What does <think> mean?".to_owned(), "Question: What does <think> mean?"),
        (format!("Why?\n{INSTRUCTION}"), &format!("Why?\n{INSTRUCTION}")),
    ] {
        let line = serde_json::json!({"prompt": message, "answer": "x"}).to_string();
        assert_eq!(read("set.jsonl", &line).unwrap().rows[0].question, question);
    }
}

#[test]
fn options_filter_then_shuffle_then_limit() {
    let lines: Vec<String> = (0..20)
        .map(|n| {
            let (source, kind) = (["a", "b"][n % 2], ["x", "y"][n / 10]);
            serde_json::json!({"question": format!("q{n}"), "answer": n, "source": source, "kind": kind}).to_string()
        })
        .collect();
    let (_folder, path) = write("set.jsonl", lines.join("\n").as_bytes());
    let read = |options: &ReadOptions| -> Vec<String> {
        read_tasks(&path, options).unwrap().rows.into_iter().map(|task| task.question).collect()
    };
    let of_a = ReadOptions {
        sources: vec!["a".into()],
        kinds: vec!["y".into()],
        ..ReadOptions::default()
    };
    assert_eq!(read(&of_a), ["q10", "q12", "q14", "q16", "q18"]);
    let first = ReadOptions { limit: Some(2), ..of_a.clone() };
    assert_eq!(read(&first), ["q10", "q12"]);
    let shuffled = ReadOptions { shuffle_seed: Some(1), limit: Some(12), ..ReadOptions::default() };
    assert_eq!(read(&shuffled), read(&shuffled));
    assert_eq!(read(&shuffled).len(), 12);
    assert_ne!(read(&shuffled), read(&ReadOptions { shuffle_seed: Some(2), ..shuffled.clone() }));
    let renamed = ReadOptions { source: Some("mine".into()), ..ReadOptions::default() };
    let rows = read_tasks(&path, &renamed).unwrap().rows;
    assert!(rows.len() == 20 && rows.iter().all(|task| &*task.source == "mine"), "{rows:?}");
    let of_b = ReadOptions { sources: vec!["b".into()], limit: Some(1), ..renamed };
    let rows = read_tasks(&path, &of_b).unwrap().rows;
    assert_eq!((&*rows[0].source, rows[0].question.as_str()), ("mine", "q1"));
    let none = ReadOptions { kinds: vec!["z".into()], ..ReadOptions::default() };
    let error = read_tasks(&path, &none).unwrap_err().to_string();
    assert!(error.ends_with("it has `a/x`, `a/y`, `b/x`, `b/y`"), "{error}");
}

#[test]
fn an_answer_of_ten_megabytes_is_read() {
    let long = "word ".repeat(2_000_000);
    let line = serde_json::json!({"question": "q", "answer": long}).to_string();
    assert_eq!(read("set.jsonl", &line).unwrap().rows[0].golds, [long]);
}

#[test]
fn the_same_question_is_found_within_and_between_sets() {
    let tasks = |questions: &[&str]| -> Vec<Task> {
        questions.iter().enumerate().map(|(n, q)| task(&n.to_string(), q, &["x"], "s")).collect()
    };
    let train = tasks(&["Who was Ana?", "Why?", "who  was “Ana”", "WHO WAS ANA", "?", "!"]);
    let ids = |pairs: Vec<SameQuestion<'_>>| -> Vec<(String, String)> {
        pairs.iter().map(|pair| (pair.first.id.clone(), pair.duplicate.id.clone())).collect()
    };
    let same = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect()
    };
    assert_eq!(ids(duplicates(&train)), same(&[("0", "2"), ("0", "3")]));
    let test = tasks(&["When?", "Why", "who was ana"]);
    assert_eq!(ids(overlap(&train, &test)), same(&[("1", "1"), ("0", "2")]));
    assert_eq!(ids(overlap(&test, &[])), same(&[]));
}
