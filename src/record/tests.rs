#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::Receiver;

use super::*;
use crate::episode::{AnswerSource, EpisodeUsage, FinishReason};
use crate::hint::Hint;
use crate::trajectory::{TokenTrace, Trajectory};

fn record(id: usize) -> Record {
    let mut trace = TokenTrace::default();
    trace.push_context(&[1, 2, 3]);
    Record {
        id: id.to_string(),
        created: 1,
        caller: None,
        policy: "p".into(),
        large_model: "m".into(),
        question: "a?".into(),
        attachments: Vec::new(),
        message: None,
        conversation: Vec::new(),
        is_continued: false,
        large_model_sampling: Map::new(),
        sampling: Sampling::GREEDY,
        episode: Episode {
            answer: "b".into(),
            answer_source: AnswerSource::Policy,
            finish_reason: FinishReason::Answered,
            trajectory: Trajectory { turns: Vec::new(), trace },
            usage: EpisodeUsage::default(),
            model_micros: 5,
            reply: None,
        },
    }
}

fn config(folder: &Path) -> RecordConfig {
    RecordConfig {
        folder: Some(folder.join("deep/er")),
        sqlite: None,
        url_env: None,
        readers: Vec::new(),
        max_bytes: 2000,
        max_files: 3,
        queue: 64,
        queue_bytes: usize::MAX,
    }
}

fn begin(config: &RecordConfig) -> Recorder {
    Recorder::start(config, &|_| None).unwrap()
}

/// The ids in each file, the oldest first.
fn ids(config: &RecordConfig) -> Vec<Vec<usize>> {
    let entries = std::fs::read_dir(config.folder.as_ref().unwrap()).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.len() as u64 <= config.max_bytes);
        let records = text.lines().map(|line| serde_json::from_str::<Record>(line).unwrap());
        records
            .map(|read| {
                let id = read.id.parse().unwrap();
                assert_eq!(read, record(id));
                id
            })
            .collect()
    };
    paths.iter().map(read).collect()
}

#[test]
fn files_rotate_at_their_size_and_the_newest_remain() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    for start in [0, 20] {
        let recorder = begin(&config);
        (start..start + 20).for_each(|id| recorder.offer(record(id)));
        drop(recorder);
    }
    let files = ids(&config);
    assert_eq!(files.len(), 3, "{files:?}");
    let kept: Vec<usize> = files.concat();
    let first = kept[0];
    assert!(first > 0, "{files:?}");
    assert_eq!(kept, (first..40).collect::<Vec<_>>());
}

#[test]
fn what_is_too_much_is_dropped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let config = RecordConfig { queue: 1, max_bytes: u64::MAX, ..config(folder.path()) };
    let recorder = begin(&config);
    (0..5000).for_each(|id| recorder.offer(record(id)));
    let shared = Arc::clone(&recorder.shared);
    drop(recorder);
    let (written, dropped) =
        (shared.written.load(Ordering::Relaxed), shared.dropped.load(Ordering::Relaxed));
    assert!(dropped > 0 && written > 0, "{written} {dropped}");
    assert_eq!(written + dropped, 5000);
}

#[test]
fn what_waits_is_bounded_in_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let config = RecordConfig { queue_bytes: 100, max_bytes: u64::MAX, ..config(folder.path()) };
    let recorder = begin(&config);
    (0..64).for_each(|id| recorder.offer(record(id)));
    let shared = Arc::clone(&recorder.shared);
    drop(recorder);
    assert!(shared.dropped.load(Ordering::Relaxed) > 0);
    assert!(shared.written.load(Ordering::Relaxed) > 0);
    assert_eq!(shared.waiting.load(Ordering::Relaxed), 0);
}

#[test]
fn half_a_line_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let recorder = begin(&config);
    (0..2).for_each(|id| recorder.offer(record(id)));
    drop(recorder);
    let path = config.folder.as_ref().unwrap().join("episodes-000001.jsonl");
    let whole = std::fs::read(&path).unwrap();
    for cut in [1, 10, whole.len() / 2 - 1] {
        std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
        let recorder = begin(&config);
        recorder.offer(record(1));
        drop(recorder);
        assert_eq!(ids(&config), [[0, 1]], "{cut}");
    }
}

#[test]
fn a_folder_that_cannot_be_made() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("deep"), "a file").unwrap();
    let error = Recorder::start(&config(folder.path()), &|_| None).unwrap_err();
    assert!(error.to_string().contains("deep/er"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("`record.folder`")), "{error}");
}

#[test]
fn there_is_one_place_to_write_to() {
    let config = config(Path::new("x"));
    let nowhere = RecordConfig { folder: None, ..config.clone() };
    let twice = RecordConfig { url_env: Some("URL".into()), ..config };
    for config in [nowhere, twice] {
        assert!(matches!(config.check(), Err(RecordError::Destination)), "{config:?}");
    }
}

#[test]
fn what_is_wrong_with_the_url_of_a_database_is_said_without_it() {
    let config = config(Path::new("x"));
    let config = RecordConfig { folder: None, url_env: Some("RECORDS".into()), ..config };
    config.check().unwrap();
    for url in [None, Some("mysql://u:planted@h/d"), Some("postgres://u:planted@h:port/d")] {
        let urls = |name: &str| url.filter(|_| name == "RECORDS").map(SecretString::from);
        let error = Recorder::start(&config, &urls).unwrap_err().to_string();
        assert!(error.contains("`RECORDS`") && !error.contains("planted"), "{error}");
    }
}

/// Counts the records of each write. The first, which has none, waits for a sign.
struct Batches {
    go_on: Receiver<()>,
    counts: Arc<Mutex<Vec<usize>>>,
}

impl Sink for Batches {
    fn write(&mut self, records: &[Box<Record>]) -> usize {
        if records.is_empty() {
            self.go_on.recv().unwrap();
        } else {
            self.counts.lock().unwrap().push(records.len());
        }
        records.len()
    }
}

#[test]
fn long_records_are_not_written_together() {
    let folder = tempfile::tempdir().unwrap();
    let long = || Record { question: "a".repeat(BATCH_BYTES), ..record(0) };
    let (sign, go_on) = std::sync::mpsc::channel();
    let counts = Arc::<Mutex<Vec<usize>>>::default();
    let sink = Batches { go_on, counts: Arc::clone(&counts) };
    let recorder = Recorder::spawn(&config(folder.path()), |_| Ok(Box::new(sink))).unwrap();
    for record in [record(1), record(2), long(), long(), record(3)] {
        recorder.offer(record);
    }
    sign.send(()).unwrap();
    drop(recorder);
    assert_eq!(*counts.lock().unwrap(), [3, 1, 1]);
}
