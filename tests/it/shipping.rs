//! The shipped configuration files match the server.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use prompt_r1::config::{Config, Overrides};
use prompt_r1::policy::ScriptedPolicy;
use serde_json::Value;

use crate::loopback::Loopback;
use crate::server::Setup;

const PREFIX: &str = "prompt_r1_";

fn docker(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(docker(path)).unwrap()
}

/// The expressions of a dashboard.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| expressions(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

/// The series in a text, with the labels and values that it selects.
fn series(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let starts = text.match_indices(PREFIX).map(|(at, _)| at);
    let of = |at: usize| {
        let text = &text[at..];
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let (name, rest) = text.split_at(end.unwrap_or(text.len()));
        let picked = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let picked = picked.map_or("", |(picked, _)| picked).split("\",");
        let pick = |pick: &str| {
            let (label, value) = pick.split_once(['=', '!'])?;
            let value = value.trim_start_matches(['=', '~', '"']).trim_end_matches('"');
            Some((label.trim().to_owned(), value.to_owned()))
        };
        (name.to_owned(), picked.filter_map(pick).collect())
    };
    starts.map(of).collect()
}

/// The server's series: the labels of each, and their values.
async fn shown() -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let upstream = Loopback::start().await;
    let server = Setup::policy(ScriptedPolicy::turns([])).start(&upstream).await;
    let text = server.get("/metrics").await.text().await.unwrap();
    let mut shown: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    for (name, labels) in lines.flat_map(series) {
        let known = shown.entry(name).or_default();
        for (label, value) in labels {
            known.entry(label).or_default().insert(value);
        }
    }
    shown
}

#[tokio::test]
async fn every_series_that_is_watched_is_there() {
    let shown = shown().await;
    let dashboard: Value = serde_json::from_str(&read("grafana/prompt-r1.json")).unwrap();
    let mut asked = Vec::new();
    expressions(&dashboard, &mut asked);
    assert!(asked.len() > 10, "{asked:?}");
    let files = [
        "prometheus/alerts.yml",
        "prometheus/alerts.test.yml",
        "helm/prompt-r1/templates/hpa.yaml",
    ];
    asked.extend(files.map(read));
    for (name, picked) in asked.iter().flat_map(|text| series(text)) {
        let labels = shown.get(&name).unwrap_or_else(|| panic!("there is no `{name}`"));
        for (label, value) in picked {
            let values = labels.get(&label).unwrap_or_else(|| panic!("{name} has no `{label}`"));
            // Patterns consist of whole values, or of the first digit of a status.
            for value in value.split('|') {
                let head = value.trim_end_matches('.');
                let is_known = values.iter().any(|known| match head.len() == value.len() {
                    true => known == value,
                    false => known.starts_with(head),
                });
                assert!(is_known || label == "le", "{name} has no {label}=\"{value}\"");
            }
        }
    }
}

/// The server refuses non-loopback addresses while there are no keys.
#[test]
fn shipped_configurations_allow_no_keys() {
    let chart = read("helm/prompt-r1/values.yaml");
    let lines = chart.lines().skip_while(|line| *line != "config: |").skip(1);
    let lines = lines.take_while(|line| line.is_empty() || line.starts_with("  "));
    let chart: String = lines.map(|line| format!("{}\n", line.trim_start())).collect();
    for text in [chart, read("compose.toml")] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, &text).unwrap();
        let config = Config::load(Some(file.path()), &Overrides::default()).unwrap();
        assert!(config.access.allow_no_keys, "{text}");
    }
}

#[test]
fn every_configuration_is_valid() {
    let files = std::fs::read_dir(docker("")).unwrap().map(|file| file.unwrap().path());
    let files: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|kind| kind == "toml")).collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        Config::load(Some(&file), &Overrides::default()).unwrap();
    }
}
