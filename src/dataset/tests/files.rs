use serde_json::json;

use super::*;

#[test]
fn files_without_tasks_are_errors_that_say_why() {
    let (folder, path) = write("set.parquet", b"version https://git-lfs.github.com/spec/v1");
    let error = |path: &Path| {
        read_tasks(path, &ReadOptions::default())
            .unwrap_err()
            .explained()
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
    `/set.jsonl` holds no row that can be used, of 1
      `/set.jsonl` row 1: it has no answer: its columns are `question` (set `question` and `answer` to the names of yours)
    ");
    std::fs::write(&path, "{}\n{\"question\": \"q\"}\n").unwrap();
    insta::assert_snapshot!(error(&path), @r"
    `/set.jsonl` holds no row that can be used, of 2
      `/set.jsonl` row 1: it has no question: its columns are no column at all (set `question` and `answer` to the names of yours)
      `/set.jsonl` row 2: it has no answer: its columns are `question` (set `question` and `answer` to the names of yours)
    ");
}

const LINES: &str =
    "{\"question\": \"a é\", \"answer\": 1}\n{\"question\": \"b 😀\", \"answer\": 2}\n";

fn questions(path: &Path) -> Vec<String> {
    let outcome = read_tasks(path, &ReadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    outcome.rows.into_iter().map(|task| format!("{} = {}", task.question, task.golds[0])).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut out, bytes).unwrap();
    out.finish().unwrap()
}

fn utf16(text: &str, is_big_endian: bool) -> Vec<u8> {
    let of = |unit: u16| if is_big_endian { unit.to_be_bytes() } else { unit.to_le_bytes() };
    "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(of).collect()
}

#[test]
fn the_same_rows_are_read_from_every_kind_of_file() {
    let array = format!("[{}]", LINES.trim().replace('\n', ",\n  "));
    let pretty = format!("{{\n  \"version\": \"1\",\n  \"data\": {array}\n}}");
    let csv = "question,answer\n\"a é\",1\nb 😀,2\n";
    let two_gzips = [gzip(&LINES.as_bytes()[..34]), gzip(&LINES.as_bytes()[34..])].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("set.jsonl", LINES.into()),
        ("set.json", LINES.into()),
        ("set.txt", LINES.replace('\n', "\r\n").into()),
        ("set.jsonl", format!("\u{feff}{LINES}").into()),
        ("set.jsonl", utf16(LINES, false)),
        ("set.jsonl", utf16(LINES, true)),
        ("set.jsonl.gz", gzip(LINES.as_bytes())),
        ("set.jsonl.gz", two_gzips),
        ("set.jsonl.gz", gzip(&utf16(LINES, false))),
        ("set.jsonl.zst", zstd::encode_all(LINES.as_bytes(), 3).unwrap()),
        ("set.json", array.clone().into()),
        ("set.json", format!("\n\n {array}\n").into()),
        ("set.json", pretty.clone().into()),
        ("set.json.zst", zstd::encode_all(pretty.as_bytes(), 3).unwrap()),
        ("set.csv", csv.into()),
        ("set.csv", csv.replace('\n', "\r\n").into()),
        ("set.csv", csv.replace(',', ";").into()),
        ("set.tsv", csv.replace(',', "\t").into()),
        ("set.csv.gz", gzip(csv.as_bytes())),
        ("set.csv", utf16(csv, false)),
        ("set.csv", format!("\u{feff}{}", csv.replace(",1", ",1.0").replace(",2", ",2.0")).into()),
    ];
    for (name, content) in cases {
        let (_folder, path) = write(name, &content);
        assert_eq!(questions(&path), ["a é = 1", "b 😀 = 2"], "{name} {content:?}");
    }
}

#[test]
fn published_documents_are_taken_apart() {
    let squad = r#"{"version": "v2.0", "data": [{"title": "T", "paragraphs": [
        {"context": "C", "qas": [
            {"id": "1", "question": "Who?", "answers": [{"text": "Ana", "answer_start": 0}], "is_impossible": false},
            {"id": "2", "question": "When?", "answers": [], "is_impossible": true}]},
        {"context": "D", "qas": [{"id": "3", "question": "Why?", "answers": [{"text": "So", "answer_start": 0}]}]}]}]}"#;
    let (_folder, path) = write("train-v2.0.json", squad.as_bytes());
    let outcome = read_tasks(&path, &ReadOptions::default()).unwrap();
    let ids: Vec<&str> = outcome.rows.iter().map(|task| task.id.as_str()).collect();
    assert_eq!(ids, ["1", "3"]);
    assert_eq!(outcome.summary.skipped["it is marked as having no answer"], 1);
    let options = ReadOptions { context: Some("context".into()), ..ReadOptions::default() };
    assert_eq!(read_tasks(&path, &options).unwrap().rows[1].question, "D\n\nWhy?");
    // Paragraphs of another form, and a column that is called like the preview's.
    let musique = r#"[{"question": "Who?", "answer": "Ana", "paragraphs": [{"idx": 0, "paragraph_text": "p"}]},
        {"question": "Why?", "answer": "So", "row": {"question": "x", "answer": "y"}}]"#;
    let (_folder, path) = write("musique.json", musique.as_bytes());
    assert_eq!(questions(&path), ["Who? = Ana", "Why? = So"]);
    let trivia = r#"{"Data": [{"Question": "Who?", "QuestionId": "t", "Answer": {"Value": "Ana", "Aliases": []}}], "Split": "dev"}"#;
    let (_folder, path) = write("web-dev.json", trivia.as_bytes());
    assert_eq!(questions(&path), ["Who? = Ana"]);
    let preview = r#"{"features": [], "rows": [{"row_idx": 0, "row": {"question": "Who?", "answer": "Ana"}}]}"#;
    let (_folder, path) = write("rows.json", preview.as_bytes());
    assert_eq!(questions(&path), ["Who? = Ana"]);
    let cut = r#"{"rows": [{"row_idx": 0, "row": {"question": "Wh", "answer": "A"}, "truncated_cells": ["question"]}]}"#;
    let error = read("rows.json", cut).unwrap_err().to_string();
    assert!(error.contains("it is cut short: the preview has `truncated_cells`"), "{error}");
}

#[test]
fn quotes_never_swallow_rows() {
    let of = |name: &str, text: &str| {
        let (folder, path) = write(name, text.as_bytes());
        read_tasks(&path, &lenient())
            .map(|outcome| {
                let rejected = outcome.summary.first_rejected.iter();
                let rows = outcome
                    .rows
                    .iter()
                    .map(|task| format!("{} = {}", task.question, task.golds[0]));
                rows.chain(rejected.map(|row| format!("{}: {}", row.row, row.reason)))
                    .collect::<Vec<_>>()
            })
            .map_err(|error| error.to_string().replace(&folder.path().display().to_string(), ""))
    };
    let open = "question,answer\nq1,a1\nq2,\"a2\nq3,a3\nq4,a4\n";
    assert_eq!(
        of("a.csv", open).unwrap_err(),
        "cannot read `/a.csv`: the quote that opens in line 3 is never closed"
    );
    let late = "question,answer\nq2,\"a2\nq3,a3\nq4,\"a4\nq5,a5\n";
    assert_eq!(
        of("a.csv", late).unwrap_err(),
        "cannot read `/a.csv`: the quote that opens in line 2 is closed in line 4 before other text"
    );
    let behind = "question,answer\n\"He said \\\"hi\\\" to me\",b\nq2,c\n\"a \"\"b\"\"\r\nc\",d\n";
    assert_eq!(
        of("a.csv", behind).unwrap(),
        [
            "q2 = c",
            "a \"b\"\r\nc = d",
            "2: it has text behind a closing quote (a quote in a field is doubled)"
        ]
    );
    // In files with tabs, a quote that does not enclose a whole field is a character.
    let stray = "question\tanswer\n\"Foo\" is what?\tbar\nwhat is x?\t\"y\" z\n\"a\tb\"\t\"c\nd\"\n5\" of snow\te\n";
    assert_eq!(
        of("a.tsv", stray).unwrap(),
        ["\"Foo\" is what? = bar", "what is x? = \"y\" z", "a\tb = c\nd", "5\" of snow = e"]
    );
    let long = "question\tanswer\nq1\ta1\n\"q2 open\ta2\nq3\ta3\nq4\ta4\nq5 \"\ta5\n\"q6\ta6\n";
    assert_eq!(
        of("a.tsv", long).unwrap(),
        ["q1 = a1", "\"q2 open = a2", "q3 = a3", "q4 = a4", "q5 \" = a5", "\"q6 = a6"]
    );
}

#[test]
fn rows_of_files_that_differ_in_their_ending_have_different_ids() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.csv"), "question,answer\nq1,a\n").unwrap();
    std::fs::write(folder.path().join("a.jsonl"), "\n{\"question\": \"q2\", \"answer\": 1}")
        .unwrap();
    let rows = read_tasks(folder.path(), &ReadOptions::default()).unwrap().rows;
    let ids: Vec<&str> = rows.iter().map(|task| task.id.as_str()).collect();
    assert_eq!(ids, ["a:2", "a.jsonl:2"]);
}

/// AIME is published so, a file for each year.
#[test]
fn files_that_each_number_their_rows_are_read_together() {
    let folder = tempfile::tempdir().unwrap();
    for year in [2024, 2025] {
        let row = |n: usize| json!({"id": n, "problem": format!("{year}, {n}?"), "answer": n});
        let lines: Vec<String> = (0..30).map(|n| row(n).to_string()).collect();
        std::fs::write(folder.path().join(format!("aime{year}.jsonl")), lines.join("\n")).unwrap();
    }
    let ReadOutcome { rows, summary } = read_tasks(folder.path(), &ReadOptions::default()).unwrap();
    assert_eq!((rows.len(), summary.rejected), (60, 0));
    let ids: BTreeSet<&str> = rows.iter().map(|task| task.id.as_str()).collect();
    assert_eq!(ids.len(), 60);
    assert_eq!((rows[7].id.as_str(), rows[37].id.as_str()), ("7", "7#2"));
    assert_eq!(rows[37].question, "2025, 7?");
}

#[test]
fn other_questions_of_one_id_are_numbered_past_the_ids_that_are_there() {
    let rows = [("1", "a"), ("1#2", "b"), ("1", "c"), ("1", "d"), ("1", "c"), ("1#2", "e")];
    let lines = rows.map(|(id, q)| json!({"id": id, "question": q, "answer": "x"}).to_string());
    let outcome = read("set.jsonl", &lines.join("\n")).unwrap();
    let ids: Vec<&str> = outcome.rows.iter().map(|task| task.id.as_str()).collect();
    assert_eq!(ids, ["1", "1#2", "1#3", "1#4", "1#2#2"]);
    let [twice] = &outcome.summary.first_rejected[..] else { panic!("{outcome:?}") };
    assert_eq!((twice.row, &*twice.reason), (5, "its id `1` and its question are those of row 3"));
}

#[test]
fn bad_records_of_csv_are_rejected_by_line() {
    let csv = "question,answer\n\"two\nlines\",1\nonly one\nc,\nd,NaN\ne,5\n";
    let (_folder, path) = write("set.csv", csv.as_bytes());
    let outcome = read_tasks(&path, &lenient()).unwrap();
    assert_eq!(outcome.rows.len(), 2);
    assert_eq!(outcome.rows[0].question, "two\nlines");
    let rejected: Vec<(usize, &str)> = outcome
        .summary
        .first_rejected
        .iter()
        .map(|rejected| (rejected.row, rejected.reason.as_str()))
        .collect();
    assert_eq!(rejected[0].0, 4);
    assert!(rejected[1].1.starts_with("it has no answer"), "{rejected:?}");
    assert_eq!(rejected[2], (6, "its `answer` is NaN"));
    let (_folder, path) = write("set.csv", b"question,answer,answer\nq,1,2\n");
    let error = read_tasks(&path, &lenient()).unwrap_err().to_string();
    assert!(error.contains("has the column `answer` twice"), "{error}");
}

#[test]
fn folders_and_globs_are_read_in_order_and_splits_are_not_mixed() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("gsm8k");
    std::fs::create_dir_all(root.join("main")).unwrap();
    let row = |text: &str| format!("{{\"question\": \"{text}\", \"answer\": 1}}\n");
    std::fs::write(root.join("main/train-1.jsonl"), row("b")).unwrap();
    std::fs::write(root.join("main/train-0.jsonl.gz"), gzip(row("a").as_bytes())).unwrap();
    std::fs::write(root.join("README.md"), "no data").unwrap();
    std::fs::write(root.join("dataset_infos.json"), "{}").unwrap();
    let outcome = read_tasks(&root, &ReadOptions::default()).unwrap();
    let found: Vec<(&str, &str, &str)> = outcome
        .rows
        .iter()
        .map(|task| (task.question.as_str(), task.id.as_str(), &*task.source))
        .collect();
    assert_eq!(found[0].0, "a");
    assert_eq!(found[1], ("b", "main/train-1:1", "gsm8k"));
    std::fs::write(root.join("main/test-0.jsonl"), row("c")).unwrap();
    let error = read_tasks(&root, &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("holds more than one split: test, train"), "{error}");
    assert_eq!(questions(&root.join("main/train*")), ["a = 1", "b = 1"]);
    for missing in [root.join("main/none*"), folder.path().join("empty")] {
        std::fs::create_dir_all(folder.path().join("empty")).unwrap();
        let error = read_tasks(&missing, &ReadOptions::default()).unwrap_err().to_string();
        assert!(error.contains("there is no data file at"), "{error}");
    }
}

#[test]
fn files_of_other_kinds_are_refused_by_name() {
    for (name, content, reason) in [
        ("set.xlsx", &b"PK\x03\x04rest"[..], "is a ZIP or Excel file"),
        ("set.jsonl.xz", b"\xfd7zXZ\x00rest", "is compressed with xz"),
        ("set.arrow", b"ARROW1\x00\x00", "is an Arrow file"),
        (
            "set.jsonl",
            b"version https://git-lfs.github.com/spec/v1",
            "is a pointer left by Git LFS",
        ),
        ("set.json", b"<!DOCTYPE html>", "is a web page"),
        ("set.jsonl.gz", b"\x1f\x8b\x08truncated", "cannot read"),
        ("set.json", b"[{\"question\": \"q\"", "cannot read"),
        ("set.jsonl", b"\xff\xfe\x00\xd8a\x00", "not well-formed UTF-16"),
    ] {
        let (_folder, path) = write(name, content);
        let error = read_tasks(&path, &lenient()).unwrap_err().to_string();
        assert!(error.contains(reason), "{name}: {error}");
    }
}

#[test]
fn text_beyond_the_bound_is_an_error() {
    let row = |n: usize| format!("{{\"question\": \"{}\", \"answer\": {n}}}", "long ".repeat(100));
    let lines: Vec<String> = (0..50).map(row).collect();
    let (_folder, path) = write("set.jsonl", lines.join("\n").as_bytes());
    let small = ReadOptions { max_bytes: 5000, ..ReadOptions::default() };
    let error = read_tasks(&path, &small).unwrap_err().to_string();
    assert!(error.contains("holds more than 5000 bytes of text up to row 10"), "{error}");
    let limited = ReadOptions { limit: Some(3), ..small };
    let outcome = read_tasks(&path, &limited).unwrap();
    assert_eq!((outcome.rows.len(), outcome.summary.beyond_limit), (3, 47));
}
