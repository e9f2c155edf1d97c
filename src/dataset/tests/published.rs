use std::fmt::Write;

use super::*;

/// What is made of a file: the counts, or the error.
fn read_as<T>(
    read: Result<ReadOutcome<T>, DatasetError>,
    show: impl Fn(&[T]) -> String,
) -> (String, String) {
    match read {
        Ok(ReadOutcome { rows, summary }) => {
            let form = summary.forms.values().flatten().next();
            let form = form.map_or(String::new(), |(form, _)| form.to_string());
            (form, format!("{} of {}: {}", summary.used, summary.rows, show(&rows)))
        }
        Err(
            DatasetError::NoTask { summary, .. } | DatasetError::TooManyRejected { summary, .. },
        ) => {
            let reason = match summary.first_rejected.first() {
                Some(rejected) => rejected.reason.clone(),
                None => summary.skipped.keys().map(|why| (*why).to_owned()).collect(),
            };
            (String::new(), format!("refused: {reason}"))
        }
        Err(error) => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            let reason = line.rsplit('`').next().unwrap_or_default().trim_start_matches(':');
            (String::new(), format!("refused:{reason}"))
        }
    }
}

fn golds(tasks: &[Task]) -> String {
    let all: Vec<String> = tasks
        .iter()
        .map(|task| {
            task.golds.iter().map(|gold| format!("`{gold}`")).collect::<Vec<_>>().join(", ")
        })
        .collect();
    all.join("; ")
}

fn turns(examples: &[Example]) -> String {
    let one = |example: &Example| match example {
        Example::Chat(turns) => {
            turns.iter().map(|turn| turn.role.to_string()).collect::<Vec<_>>().join(", ")
        }
        Example::Episode(shown) => format!("an episode of {} turns", shown.turns.len()),
    };
    examples.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// `UPDATE=1 cargo test --lib dataset::tests::published` writes the table anew.
#[test]
fn the_table_of_published_files_is_true() {
    let folder = Path::new("tests/golden/files");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder.join("data"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() > 35);
    let mut table = String::from(
        "| file | form | as tasks: rows used, golds | as conversations: rows used, messages |\n|---|---|---|---|\n",
    );
    // A third of the rows of some of these small files is no task.
    let options = ReadOptions { max_rejected: 0.34, max_bytes: 32 << 20, ..ReadOptions::default() };
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let (form, tasks) = read_as(read_tasks(&file, &options), golds);
        let (other, examples) = read_as(read_examples(&file, &options), turns);
        let form = if form.is_empty() { other } else { form };
        writeln!(table, "| `{name}` | {form} | {tasks} | {examples} |").unwrap();
    }
    let page = folder.join("README.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (head, _) = text.split_once("| file |").unwrap();
    let wanted = format!("{head}{table}");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&page, &wanted).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&page).unwrap(), wanted);
}
