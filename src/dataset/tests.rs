#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use ::parquet::basic::Compression;
use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;

use super::*;

/// What the instruction around a question looks like, in words of our own.
const INSTRUCTION: &str = "First, say what is asked.\n1. Write:\n   <think>(short)</think>\n   \
    <interaction_prompt>(a prompt)</interaction_prompt>\n2. Then:\n   <answer>(it)</answer>";

const REFERENCE: &str = "message schema {
    optional binary data_source (string);
    optional group prompt (list) { repeated group list { optional group element {
        optional binary content (string);
        optional binary role (string);
    } } }
    optional binary ability (string);
    optional group reward_model {
        optional group ground_truth (list) {
            repeated group list { optional binary element (string); }
        }
        optional binary style (string);
    }
}";

/// The values of one column with their definition and repetition levels.
enum Column {
    Text(Vec<(Option<&'static str>, i16, i16)>),
    Number(Vec<i64>),
}

fn write_parquet(path: &Path, schema: &str, columns: Vec<Column>) {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for column in columns {
        let mut out = group.next_column().unwrap().unwrap();
        match column {
            Column::Text(cells) => {
                let values: Vec<ByteArray> =
                    cells.iter().filter_map(|(text, ..)| text.map(ByteArray::from)).collect();
                let definition: Vec<i16> = cells.iter().map(|cell| cell.1).collect();
                let repetition: Vec<i16> = cells.iter().map(|cell| cell.2).collect();
                out.typed::<ByteArrayType>()
                    .write_batch(&values, Some(&definition), Some(&repetition))
                    .unwrap();
            }
            Column::Number(values) => {
                out.typed::<Int64Type>().write_batch(&values, None, None).unwrap();
            }
        }
        out.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

fn cell(text: &'static str, definition: i16) -> (Option<&'static str>, i16, i16) {
    (Some(text), definition, 0)
}

fn write(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

fn read(name: &str, content: &str) -> Result<ReadOutcome, DatasetError> {
    let (_folder, path) = write(name, content.as_bytes());
    read_tasks(&path, &ReadOptions::default())
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
    assert_eq!(outcome.rejected, []);
    let full = Task {
        kind: Some("one".into()),
        hops: Some(2),
        ..task("7", "How many?", &["5.5"], "sums")
    };
    assert_eq!(
        outcome.tasks,
        [
            task("set:1", "Why?", &["because"], "set"),
            full,
            task("set:4", "Which?", &["a", "b"], "set"),
            task("set:5", "Is it?", &["true"], "set"),
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
        ("{}", "it has neither `question` nor `prompt`, but no field at all"),
        (
            r#"{"q": "Why?", "answer": "b"}"#,
            "it has neither `question` nor `prompt`, but `q`, `answer`",
        ),
        (
            r#"{"question": "Why?"}"#,
            "it has no `answer`, `answers` or `reward_model.ground_truth`, but `question`",
        ),
        (r#"{"question": "Why?", "answer": null}"#, "it has no `answer`"),
        (r#"{"question": " ", "answer": "b"}"#, "its question is empty"),
        (r#"{"question": 5, "answer": "b"}"#, "its `question` is not text"),
        (r#"{"question": "Why?", "answer": ""}"#, "its `answer` is empty"),
        (r#"{"question": "Why?", "answers": []}"#, "its `answers` is empty"),
        (
            r#"{"question": "Why?", "answers": [{"text": "b"}]}"#,
            "its `answers` holds more than plain values",
        ),
        (r#"{"prompt": 4, "answer": "b"}"#, "its `prompt` is not a list of messages"),
        (
            r#"{"prompt": [{"role": "system", "content": "x"}], "answer": "b"}"#,
            "its `prompt` has no message of role `user`",
        ),
        (
            r#"{"prompt": [{"role": "user"}], "answer": "b"}"#,
            "the user message of its `prompt` has no text",
        ),
        (
            r#"{"prompt": "x", "reward_model": {"ground_truth": []}}"#,
            "its `reward_model.ground_truth` is empty",
        ),
        (
            r#"{"question": "Why?", "answer": "b", "hops": "two"}"#,
            "its `hops` is `\"two\"`, not a whole number",
        ),
        (good, "its id `x` is that of row 1"),
    ] {
        let outcome = read("set.jsonl", &format!("{good}\n\n{line}\n")).unwrap();
        assert_eq!(outcome.tasks.len(), 1, "{line}");
        let [rejected] = outcome.rejected.as_slice() else { panic!("{line}: {outcome:?}") };
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
    let outcome = read_tasks(&path, &ReadOptions::default()).unwrap();
    assert_eq!((outcome.tasks.len(), outcome.rejected.len()), (1, 1));
    assert_eq!(outcome.tasks[0].id, "set:2");
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
        assert_eq!(read("set.jsonl", &line).unwrap().tasks[0].question, question);
    }
}

#[test]
fn files_without_tasks_are_errors_that_say_why() {
    let (folder, path) = write("set.parquet", b"version https://git-lfs.github.com/spec/v1");
    let error = |path: &Path| {
        read_tasks(path, &ReadOptions::default())
            .unwrap_err()
            .to_string()
            .replace(&folder.path().display().to_string(), "")
    };
    insta::assert_snapshot!(error(&path), @r"
    `/set.parquet` is not a Parquet file: it does not start with `PAR1`
    hint: it may be truncated, or a pointer left by Git LFS; JSON Lines files end in `.jsonl`
    ");
    std::fs::write(&path, b"PAR1 and then nothing of the kind").unwrap();
    insta::assert_snapshot!(error(&path), @r"
    `/set.parquet` is not a Parquet file: Parquet error: Invalid Parquet file. Corrupt footer
    hint: it may be truncated, or a pointer left by Git LFS; JSON Lines files end in `.jsonl`
    ");
    insta::assert_snapshot!(error(&folder.path().join("none.jsonl")), @"cannot read `/none.jsonl`: No such file or directory (os error 2)");
    let path = folder.path().join("set.jsonl");
    for (content, message) in [("", "`/set.jsonl` is empty"), ("\n \n", "`/set.jsonl` is empty")] {
        std::fs::write(&path, content).unwrap();
        assert_eq!(error(&path), message);
    }
    std::fs::write(&path, "[{\"question\": \"q\"}]").unwrap();
    insta::assert_snapshot!(error(&path), @r"
    `/set.jsonl` is a JSON array, not JSON Lines
    hint: write one object per line, as `jq -c '.[]'` does
    ");
    std::fs::write(&path, "{}\n{\"question\": \"q\"}\n").unwrap();
    insta::assert_snapshot!(error(&path), @r"
    `/set.jsonl` holds no task: all of its rows (2) were rejected
    hint: `/set.jsonl` row 1: it has neither `question` nor `prompt`, but no field at all
    ");
}

#[test]
fn the_reference_schema_is_read_from_parquet() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hotpot.parquet");
    let wrapped: &'static str = format!("Question: Who?\n{INSTRUCTION}").leak();
    write_parquet(
        &path,
        REFERENCE,
        vec![
            Column::Text(vec![cell("hotpot", 1), (None, 0, 0), cell("hotpot", 1)]),
            Column::Text(vec![
                cell(wrapped, 4),
                cell("be brief", 4),
                (Some("What?"), 4, 1),
                cell("Why?", 4),
            ]),
            Column::Text(vec![
                cell("user", 4),
                cell("system", 4),
                (Some("user"), 4, 1),
                cell("user", 4),
            ]),
            Column::Text(vec![cell("qa", 1), cell("qa", 1), cell("qa", 1)]),
            // The third list is there, but empty.
            Column::Text(vec![
                cell("Ana", 4),
                (Some("Ana Vel"), 4, 1),
                cell("42", 4),
                (None, 2, 0),
            ]),
            Column::Text(vec![cell("rule", 2), cell("rule", 2), cell("rule", 2)]),
        ],
    );
    let outcome = read_tasks(&path, &ReadOptions::default()).unwrap();
    assert_eq!(
        outcome.tasks,
        [
            task("hotpot:1", "Who?", &["Ana", "Ana Vel"], "hotpot"),
            task("hotpot:2", "What?", &["42"], "hotpot"),
        ]
    );
    let [rejected] = outcome.rejected.as_slice() else { panic!("{outcome:?}") };
    assert_eq!(
        (rejected.row, rejected.reason.as_str()),
        (3, "its `reward_model.ground_truth` is empty")
    );
}

#[test]
fn a_gold_that_is_a_plain_string_and_flat_columns_are_read_from_parquet() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.bin");
    write_parquet(
        &path,
        "message schema { required binary prompt (string); required int64 hops;
            required group reward_model { required binary ground_truth (string); } }",
        vec![
            Column::Text(vec![cell("Why?", 0)]),
            Column::Number(vec![3]),
            Column::Text(vec![cell("because", 0)]),
        ],
    );
    let tasks = read_tasks(&path, &ReadOptions::default()).unwrap().tasks;
    assert_eq!(tasks, [Task { hops: Some(3), ..task("set:1", "Why?", &["because"], "set") }]);
    write_parquet(
        &path,
        "message schema { required binary question (string); required int64 answer; }",
        vec![Column::Text(vec![cell("Why?", 0)]), Column::Number(vec![-8])],
    );
    let tasks = read_tasks(&path, &ReadOptions::default()).unwrap().tasks;
    assert_eq!(tasks, [task("set:1", "Why?", &["-8"], "set")]);
}

#[test]
fn a_missing_column_is_named_beside_those_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.parquet");
    for (schema, missing) in [
        (
            "message schema { required binary text (string); required binary label (string); }",
            "`question` or `prompt`",
        ),
        (
            "message schema { required binary text (string); required binary prompt (string); }",
            "`answer`, `answers` or `reward_model`",
        ),
    ] {
        let text = || Column::Text(vec![cell("x", 0)]);
        write_parquet(&path, schema, vec![text(), text()]);
        let error = read_tasks(&path, &ReadOptions::default()).unwrap_err().to_string();
        assert!(error.contains(&format!("has no column {missing}; it has `text`, `")), "{error}");
        assert!(error.contains("hint: "), "{error}");
    }
}

#[test]
fn a_damaged_parquet_file_is_an_error_wherever_the_damage_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.parquet");
    let text = || Column::Text((0..200).map(|_| cell("some text", 0)).collect());
    let schema =
        "message schema { required binary question (string); required binary answer (string); }";
    write_parquet(&path, schema, vec![text(), text()]);
    let whole = std::fs::read(&path).unwrap();
    for cut in [5, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let error = read_tasks(&path, &ReadOptions::default()).unwrap_err();
        assert!(matches!(error, DatasetError::NotParquet { .. }), "{error}");
    }
    for at in (4..whole.len() - 8).step_by(3) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        std::fs::write(&path, &damaged).unwrap();
        // Damage inside a value cannot be seen; any other is an error, never a crash or a gap.
        if let Ok(outcome) = read_tasks(&path, &ReadOptions::default()) {
            assert_eq!(outcome.tasks.len() + outcome.rejected.len(), 200, "byte {at}");
        }
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
        read_tasks(&path, options).unwrap().tasks.into_iter().map(|task| task.question).collect()
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
    assert_eq!(read_tasks(&path, &renamed).unwrap().tasks[0].source, "a");
    let none = ReadOptions { kinds: vec!["z".into()], ..ReadOptions::default() };
    let error = read_tasks(&path, &none).unwrap_err().to_string();
    assert!(error.ends_with("it has `a/x`, `a/y`, `b/x`, `b/y`"), "{error}");
}

#[test]
fn an_answer_of_ten_megabytes_is_read() {
    let long = "word ".repeat(2_000_000);
    let line = serde_json::json!({"question": "q", "answer": long}).to_string();
    assert_eq!(read("set.jsonl", &line).unwrap().tasks[0].golds, [long]);
}

#[test]
fn the_same_question_is_found_within_and_between_sets() {
    let tasks = |questions: &[&str]| -> Vec<Task> {
        questions.iter().enumerate().map(|(n, q)| task(&n.to_string(), q, &["x"], "s")).collect()
    };
    let train = tasks(&["Who was Ana?", "Why?", "who  was “Ana”", "WHO WAS ANA", "?", "!"]);
    let ids = |pairs: Vec<SameQuestion<'_>>| -> Vec<(String, String)> {
        pairs.iter().map(|pair| (pair.first.id.clone(), pair.again.id.clone())).collect()
    };
    let same = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect()
    };
    assert_eq!(ids(duplicates(&train)), same(&[("0", "2"), ("0", "3")]));
    let test = tasks(&["When?", "Why", "who was ana"]);
    assert_eq!(ids(overlap(&train, &test)), same(&[("1", "1"), ("0", "2")]));
    assert_eq!(ids(overlap(&test, &[])), same(&[]));
}
