#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;

use serde_json::json;

use super::*;

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn runs_and_evaluations_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join("runs").join(path);
    write(&at("train/metrics.jsonl"), "");
    write(&at("train/report.html"), "<p>");
    write(&at("eval/report.html"), "<p>");
    write(&at("done/metrics.jsonl"), "");
    write(&at("done/summary.json"), "{\"ended\": \"finished\"}");
    write(&at("other/notes.txt"), "");
    write(&at(".hidden/metrics.jsonl"), "");
    write(&folder.path().join("outside/metrics.jsonl"), "");
    let runs = Runs::open(&at("")).unwrap();
    let mut listed = runs.list().unwrap();
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<_> =
        listed.iter().map(|run| (run.name.as_str(), run.kind, run.has_report)).collect();
    let expected = [
        ("done", RunKind::Training, false),
        ("eval", RunKind::Evaluation, true),
        ("train", RunKind::Training, true),
    ];
    assert_eq!(names, expected);
    assert_eq!(listed[0].summary, Some(json!({"ended": "finished"})));
    for name in ["", ".", "..", "../outside", "/", ".hidden", "none", "train/../../outside", "a\0b"]
    {
        assert_eq!(runs.metrics(name, 0).unwrap(), None, "{name}");
        assert_eq!(runs.report(name).unwrap(), None, "{name}");
        assert_eq!(runs.step(name, PerStep::Samples, 1).unwrap(), None, "{name}");
    }
    assert!(Runs::open(&at("train/report.html")).is_err());
}

#[test]
fn metrics_are_read_on_as_they_grow() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/metrics.jsonl");
    write(&path, "{\"step\":1,\"loss\":2.0}\n{\"step\":2,\"lo");
    let runs = Runs::open(folder.path()).unwrap();
    let first = runs.metrics("run", 0).unwrap().unwrap();
    assert_eq!((first.rows.len(), first.next, first.has_more), (1, 22, true));
    let again = runs.metrics("run", first.next).unwrap().unwrap();
    assert_eq!((again.rows.len(), again.next, again.has_more), (0, 22, false));
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"ss\":1.0}\nno row\n{\"step\":3}\n").unwrap();
    let more = runs.metrics("run", first.next).unwrap().unwrap();
    let steps: Vec<_> = more.rows.iter().map(|row| row["step"].as_u64().unwrap()).collect();
    assert_eq!((steps, more.has_more), (vec![2, 3], false));
    // A run that was started again.
    write(&path, "{\"step\":1}\n");
    assert_eq!(runs.metrics("run", more.next).unwrap().unwrap().rows.len(), 1);
}

#[test]
fn long_metrics_come_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/metrics.jsonl");
    let lines: String =
        (0..100_000).map(|step| format!("{{\"step\":{step},\"x\":0.5}}\n")).collect();
    write(&path, &lines);
    let runs = Runs::open(folder.path()).unwrap();
    let (mut rows, mut from, mut parts) = (0, 0, 0);
    loop {
        let part = runs.metrics("run", from).unwrap().unwrap();
        rows += part.rows.len();
        (from, parts) = (part.next, parts + 1);
        if !part.has_more {
            break;
        }
    }
    assert_eq!(rows, 100_000);
    assert!(parts > 1);
}

#[test]
fn what_is_written_of_steps_is_listed_and_read() {
    let folder = tempfile::tempdir().unwrap();
    for (of, name) in [(PerStep::Evaluations, "evaluations"), (PerStep::Samples, "samples")] {
        let runs = Runs::open(folder.path()).unwrap();
        let at = |file: &str| folder.path().join("run").join(name).join(file);
        write(&folder.path().join("run/metrics.jsonl"), "");
        assert_eq!(runs.steps("run", of).unwrap(), Some(Vec::new()));
        write(&at("step-00000010.json"), "{\"step\": 10}");
        write(&at("step-00000002.json"), "{\"ste");
        write(&at("partial"), "{\"ste");
        assert_eq!(runs.steps("run", of).unwrap(), Some(vec![2, 10]));
        assert_eq!(runs.step("run", of, 10).unwrap(), Some(json!({"step": 10})));
        assert_eq!(runs.step("run", of, 3).unwrap(), None);
        assert!(runs.step("run", of, 2).is_err(), "it is being written");
        assert_eq!(runs.steps("none", of).unwrap(), None);
    }
}
