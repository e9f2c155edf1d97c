//! Imports run downwards only: the order of the modules, and what each may import from below.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The modules from the bottom up, each with those that it may import. A row may name only rows
/// above it in this list, so cycles are impossible. `cli` is the top and may import anything;
/// `hint` is the bottom, which all may import.
const LAYERS: [(&str, &[&str]); 43] = [
    ("hint", &[]),
    ("access", &[]),
    ("atomic_file", &[]),
    ("compute", &[]),
    ("fair_share", &[]),
    ("gguf", &[]),
    ("chat", &[]),
    ("journal", &[]),
    ("json_size", &[]),
    ("outbound", &[]),
    ("playground", &[]),
    ("program", &[]),
    ("prompt_template", &[]),
    ("run_files", &[]),
    ("run_lock", &[]),
    ("runs", &["run_files"]),
    ("sampling", &[]),
    ("seed", &[]),
    ("spelling", &[]),
    ("surrogates", &[]),
    ("task", &[]),
    ("token_estimate", &[]),
    ("trajectory", &[]),
    ("protocol", &["atomic_file", "sampling", "trajectory"]),
    ("reward", &["outbound", "program", "task", "trajectory", "protocol"]),
    ("dataset", &["task", "trajectory", "protocol", "reward"]),
    ("world", &["dataset", "task", "trajectory"]),
    ("tokenization", &["compute", "gguf", "protocol"]),
    ("model", &["atomic_file", "gguf", "sampling", "trajectory"]),
    ("engine", &["compute", "gguf", "model", "outbound", "sampling", "tokenization", "trajectory"]),
    (
        "large_model",
        &[
            "chat",
            "compute",
            "fair_share",
            "journal",
            "json_size",
            "outbound",
            "spelling",
            "surrogates",
            "token_estimate",
            "trajectory",
            "engine",
            "gguf",
            "tokenization",
        ],
    ),
    (
        "policy",
        &[
            "chat",
            "engine",
            "large_model",
            "program",
            "protocol",
            "sampling",
            "seed",
            "token_estimate",
            "tokenization",
            "trajectory",
        ],
    ),
    (
        "episode",
        &[
            "chat",
            "compute",
            "engine",
            "large_model",
            "policy",
            "protocol",
            "token_estimate",
            "trajectory",
        ],
    ),
    ("record", &["chat", "compute", "engine", "episode"]),
    ("judge", &["chat", "large_model", "prompt_template", "task"]),
    (
        "train",
        &[
            "atomic_file",
            "dataset",
            "engine",
            "episode",
            "gguf",
            "judge",
            "large_model",
            "model",
            "outbound",
            "policy",
            "program",
            "protocol",
            "reward",
            "run_files",
            "run_lock",
            "seed",
            "task",
            "tokenization",
            "trajectory",
            "world",
        ],
    ),
    (
        "environment",
        &[
            "engine",
            "episode",
            "large_model",
            "policy",
            "protocol",
            "reward",
            "task",
            "tokenization",
            "trajectory",
        ],
    ),
    (
        "eval",
        &[
            "atomic_file",
            "chat",
            "dataset",
            "engine",
            "episode",
            "judge",
            "journal",
            "large_model",
            "policy",
            "prompt_template",
            "protocol",
            "reward",
            "run_files",
            "seed",
            "task",
            "trajectory",
            "world",
        ],
    ),
    (
        "http",
        &[
            "access",
            "chat",
            "compute",
            "engine",
            "environment",
            "episode",
            "fair_share",
            "json_size",
            "large_model",
            "playground",
            "policy",
            "protocol",
            "record",
            "reward",
            "runs",
            "seed",
            "spelling",
            "surrogates",
            "task",
            "trajectory",
        ],
    ),
    (
        "config",
        &[
            "access",
            "engine",
            "environment",
            "episode",
            "eval",
            "http",
            "large_model",
            "model",
            "policy",
            "record",
            "reward",
            "sampling",
            "spelling",
        ],
    ),
    ("lib", &[]),
    ("cli", &[]),
    ("main", &[]),
];

/// Crates that only these modules may use.
const CONFINED: [(&str, &[&str]); 11] = [
    ("opentelemetry", &["http", "cli"]),
    ("hyper", &["http", "large_model"]),
    ("rustls", &["http", "access"]),
    ("sqlx", &["access", "record"]),
    ("prost", &["train"]),
    ("redis", &["access"]),
    ("axum", &["http"]),
    ("utoipa", &["http"]),
    ("mistralrs", &["engine"]),
    ("candle_core", &["model", "engine", "train", "cli"]),
    ("clap", &["cli", "config", "main"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The module a source file belongs to: the first part of its path below `src`.
fn module(path: &Path) -> String {
    let below = path.strip_prefix("src").unwrap();
    let first = below.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// What follows each occurrence of `start`, up to the end of the identifier.
fn names_after<'t>(text: &'t str, start: &str) -> Vec<&'t str> {
    text.match_indices(start)
        .map(|(at, _)| {
            let rest = &text[at + start.len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            &rest[..end]
        })
        .collect()
}

#[test]
fn a_row_names_only_rows_above_it() {
    for (index, (module, may)) in LAYERS.iter().enumerate() {
        for name in *may {
            let is_below = LAYERS[..index].iter().any(|(below, _)| below == name);
            assert!(is_below, "`{module}` may not import `{name}`, which is not listed above it");
        }
    }
}

#[test]
fn imports_run_downwards_only() {
    let allowed: BTreeMap<&str, &[&str]> = LAYERS.into_iter().collect();
    let mut found = Vec::new();
    sources(Path::new("src"), &mut found);
    assert!(found.len() > 50, "the sources were not found");
    let mut wrong = Vec::new();
    let mut unused: Vec<(&str, &str)> =
        LAYERS.iter().flat_map(|(module, may)| may.iter().map(|name| (*module, *name))).collect();
    for path in found {
        let module = module(&path);
        let is_test = path.file_stem().is_some_and(|stem| stem.to_string_lossy().contains("tests"))
            || path.components().any(|part| part.as_os_str() == "tests");
        if module == "cli" || is_test {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        // Tests at the end of a file may reach further.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let may = allowed
            .get(module.as_str())
            .unwrap_or_else(|| panic!("`{module}` is not in the table"));
        if code.contains("crate::{") {
            wrong.push(format!("{} imports several modules at once", path.display()));
        }
        for name in names_after(code, "crate::") {
            unused.retain(|(importer, imported)| *importer != module || *imported != name);
            let is_open = name == module || name == "hint" || may.contains(&name);
            if allowed.contains_key(name) && !is_open {
                wrong.push(format!("{} imports `{name}`", path.display()));
            }
        }
        for (krate, modules) in CONFINED {
            let used =
                code.contains(&format!("use {krate}::")) || code.contains(&format!(" {krate}::"));
            if used && !modules.contains(&module.as_str()) {
                wrong.push(format!("{} uses `{krate}`", path.display()));
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(unused.is_empty(), "the table permits imports that nothing needs: {unused:?}");
}
