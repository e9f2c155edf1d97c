//! The questions of an evaluation, from files and from the bundled world.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::dataset::{Form, ReadOptions, ReadOutcome, duplicates, overlap, read_tasks};
use crate::reward::{AnswerMetric, Number};
use crate::task::Task;

use super::EvalError;
use super::config::{DataConfig, FileData, MetricConfig};
use super::metric_choice::{Metric, MetricChoice};

/// A task and how answers to it are scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The task.
    pub task: Task,
    /// Its data set's metric.
    pub metric: Metric,
}

/// All questions of an evaluation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Questions {
    /// The questions, in order.
    pub questions: Vec<Question>,
    /// Warnings for readers of the report.
    pub warnings: Vec<String>,
    /// The rows read from each file, and which metric scores each data set and why.
    pub notes: Vec<String>,
}

/// The results of reading besides tasks.
#[derive(Default)]
struct Found {
    warnings: Vec<String>,
    notes: Vec<String>,
    /// The form of most tasks of each data set that comes from files.
    forms: BTreeMap<String, Form>,
}

/// Reads all tables of `data`. `limit` bounds each of them; `seed` draws from the world.
///
/// # Errors
/// When a file cannot be read or is mostly rejected, or no question is left.
pub fn load(
    data: &[DataConfig],
    metrics: &MetricConfig,
    limit: Option<usize>,
    seed: u64,
) -> Result<Questions, EvalError> {
    let mut found = Found::default();
    let mut tasks: Vec<Task> = Vec::new();
    for config in data {
        let mut read = config.read(limit, seed, &mut found)?;
        read.truncate(limit.unwrap_or(usize::MAX));
        tasks.append(&mut read);
    }
    let Found { mut warnings, mut notes, forms } = found;
    let repeated = duplicates(&tasks).len();
    if repeated > 0 {
        warnings.push(format!(
            "{repeated} of {} questions are asked more than once: intervals and p-values take them for independent",
            tasks.len()
        ));
    }
    warnings.extend(identify(&mut tasks));
    if tasks.is_empty() {
        return Err(EvalError::Setting(
            reason!("there are no questions"; hint: "add a table `[[data]]`"),
        ));
    }
    let chosen: BTreeMap<String, MetricChoice> =
        majorities(tasks.iter().map(|task| (&*task.source, has_number(task))))
            .into_iter()
            .map(|(source, has_numbers)| {
                let form = forms.get(source).copied();
                (source.to_owned(), metrics.of(source, form, has_numbers))
            })
            .collect();
    for (source, MetricChoice { metric, reason }) in &chosen {
        notes.push(format!("`{source}` is scored by {}: {reason}", metric.name()));
        if *metric == Metric::Text(AnswerMetric::Exact) {
            warnings.extend(long_golds(source, &tasks));
        }
    }
    let questions = tasks
        .into_iter()
        .map(|task| Question { metric: chosen[&*task.source].metric, task })
        .collect();
    Ok(Questions { questions, warnings, notes })
}

/// Whether a gold is a number.
pub fn has_number(task: &Task) -> bool {
    task.golds.iter().any(|gold| Number::parse_with_unit(gold).is_some())
}

/// Of each data set, whether a property holds for more than half of its questions. `questions` are
/// their data sets, and whether it holds.
pub fn majorities<'a>(questions: impl Iterator<Item = (&'a str, bool)>) -> BTreeMap<&'a str, bool> {
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (source, holds) in questions {
        let (held, all) = counts.entry(source).or_default();
        *held += usize::from(holds);
        *all += 1;
    }
    counts.into_iter().map(|(source, (held, all))| (source, 2 * held > all)).collect()
}

/// Makes the ids of each data set unique, as rows are identified by the two: files of one name in
/// several folders have the same. A question that is there twice with its id is left out.
fn identify(tasks: &mut Vec<Task>) -> Option<String> {
    let mut seen: BTreeMap<_, String> = BTreeMap::new();
    let before = tasks.len();
    tasks.retain_mut(|task| {
        let plain = task.id.clone();
        for again in 2.. {
            match seen.entry((task.source.clone(), task.id.clone())) {
                Entry::Vacant(free) => {
                    free.insert(task.question.clone());
                    break;
                }
                Entry::Occupied(first) if *first.get() == task.question => return false,
                Entry::Occupied(_) => task.id = format!("{plain}#{again}"),
            }
        }
        true
    });
    let dropped = before - tasks.len();
    (dropped > 0).then(|| {
        format!("{dropped} questions were left out: their data set has them twice with one id")
    })
}

/// A warning if most golds of a data set are too long for exact match.
fn long_golds(source: &str, tasks: &[Task]) -> Option<String> {
    const LONG: usize = 20;
    let own = tasks.iter().filter(|task| *task.source == *source);
    let (all, long) = own.fold((0, 0), |(all, long), task| {
        let is_long = task.golds.iter().all(|gold| gold.split_whitespace().count() > LONG);
        (all + 1, long + usize::from(is_long))
    });
    (2 * long > all).then(|| {
        format!("{long} of {all} golds of `{source}` have more than {LONG} words: hardly any answer will match exactly")
    })
}

/// Warnings about `train`, the training questions of a prompt search, compared with the questions
/// asked.
pub fn overlap_warning(train: &[Question], asked: &[Question]) -> Option<String> {
    let tasks = |questions: &[Question]| -> Vec<Task> {
        questions.iter().map(|question| question.task.clone()).collect()
    };
    let shared = overlap(&tasks(train), &tasks(asked)).len();
    (shared > 0).then(|| {
        format!("{shared} of {} questions are also among those of the prompt search", asked.len())
    })
}

impl DataConfig {
    fn read(
        &self,
        limit: Option<usize>,
        seed: u64,
        found: &mut Found,
    ) -> Result<Vec<Task>, EvalError> {
        match self {
            Self::World(questions) => Ok(questions.read(seed)?),
            Self::WorldFacts(facts) => Ok(facts.read(seed)?),
            Self::File(file) => file.read(limit, found),
        }
    }
}

impl FileData {
    fn read(&self, limit: Option<usize>, found: &mut Found) -> Result<Vec<Task>, EvalError> {
        let defaults = ReadOptions::default();
        let own_limit = self.limit.unwrap_or(usize::MAX);
        let columns = ReadOptions {
            question: self.question.clone(),
            answer: self.answer.clone(),
            context: self.context.clone(),
            max_rejected: self.max_rejected.unwrap_or(defaults.max_rejected),
            ..defaults
        };
        let options = ReadOptions {
            source: self.source.clone(),
            sources: self.sources.clone(),
            kinds: self.kinds.clone(),
            shuffle_seed: self.shuffle_seed,
            limit: limit.map(|limit| limit.min(own_limit)).or(self.limit),
            ..columns.clone()
        };
        let ReadOutcome { rows, summary } = read_tasks(&self.path, &options)?;
        found.warnings.extend(summary.warnings());
        if let Some(train) = &self.train {
            let trained = read_tasks(train, &columns)?.rows;
            let shared = overlap(&trained, &rows).len();
            if shared > 0 {
                found.warnings.push(format!(
                    "{shared} of {} questions in `{}` are also in `{}`, which was trained on",
                    rows.len(),
                    self.path.display(),
                    train.display()
                ));
            }
        }
        found.notes.push(format!("`{}`: {summary}", self.path.display()));
        for source in summary.forms.keys() {
            if let Some(form) = summary.form(source) {
                found.forms.insert(source.clone(), form);
            }
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn config(toml: &str) -> Vec<DataConfig> {
        #[derive(serde::Deserialize)]
        struct File {
            data: Vec<DataConfig>,
        }
        toml::from_str::<File>(toml).unwrap().data
    }

    fn read(toml: &str) -> Questions {
        load(&config(toml), &MetricConfig::default(), None, 1).unwrap()
    }

    #[test]
    fn the_world_gives_held_out_questions_and_facts_by_wording() {
        let found = read(
            "[[data]]\nkind = \"world\"\nkinds = [{ chain = 2 }, { chain = 3 }]\nn = 10\n\
             [[data]]\nkind = \"world_facts\"\nphrasing = \"unknown\"\nn = 7\n",
        );
        let of = |source: &str, kind: &str| {
            let is = |question: &&Question| {
                *question.task.source == *source && question.task.kind.as_deref() == Some(kind)
            };
            found.questions.iter().filter(is).count()
        };
        assert_eq!((of("world", "chain"), of("world_facts", "single-unknown")), (10, 7));
        assert_eq!(found.questions.len(), 17);
        assert!(found.warnings.is_empty(), "{:?}", found.warnings);
    }

    #[test]
    fn a_rare_wording_is_recognised_by_the_training_data() {
        let found = read("[[data]]\nkind = \"world_facts\"\nphrasing = \"rare\"\n");
        let trained = found
            .questions
            .iter()
            .filter(|question| question.task.kind.as_deref() == Some("single-rare-trained"));
        let share = trained.count() as f64 / found.questions.len() as f64;
        assert!((0.05..0.15).contains(&share), "{share}");
    }

    #[test]
    fn files_of_one_name_keep_all_their_questions() {
        let folder = tempfile::tempdir().unwrap();
        let mut tables = String::new();
        for (part, rows) in [("a", ["q1", "q2"]), ("b", ["q3", "q4"]), ("c", ["q5", "q2"])] {
            std::fs::create_dir(folder.path().join(part)).unwrap();
            let path = folder.path().join(part).join("test.jsonl");
            let row = |question| format!("{{\"question\": \"{question}\", \"answer\": \"x\"}}\n");
            std::fs::write(&path, rows.map(row).concat()).unwrap();
            tables += &format!("[[data]]\nkind = \"file\"\npath = \"{}\"\n", path.display());
        }
        let found = read(&tables);
        let ids: Vec<&str> = found.questions.iter().map(|asked| asked.task.id.as_str()).collect();
        assert_eq!(ids, ["test:1", "test:2", "test:1#2", "test:2#2", "test:1#3"]);
        let warnings = found.warnings.join("\n");
        assert!(warnings.contains("1 questions were left out"), "{warnings}");
    }

    #[test]
    fn worked_solutions_count_where_most_golds_are_numbers() {
        use crate::reward::Normalization;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("svamp.jsonl");
        let row = |n: usize, gold: &str| {
            format!("{{\"question\": \"What is 6 * {n}?\", \"answer\": \"{gold}\"}}\n")
        };
        std::fs::write(&path, row(7, "42") + &row(8, "48") + &row(0, "none")).unwrap();
        let found = read(&format!("[[data]]\nkind = \"file\"\npath = \"{}\"\n", path.display()));
        let notes = found.notes.join("\n");
        let note = "`svamp` is scored by numeric match or F1: most golds are numbers";
        assert!(notes.contains(note), "{notes}");
        let Question { task, metric: Metric::Text(metric) } = &found.questions[0] else {
            panic!("{:?}", found.questions[0])
        };
        let reply = "There are 6 of them with 7 each: 6 * 7 = 42. So the answer is 42.";
        assert_eq!(metric.score(reply, &task.golds, Normalization::Published), 1.0);
    }

    #[test]
    fn rejected_repeated_and_trained_questions_are_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let test = write(
            "test.jsonl",
            "{\"question\": \"Who?\", \"answer\": \"me\"}\n{\"question\": \"What?\"}\n{\"question\": \"who\", \"answer\": \"me\"}\n",
        );
        let train = write("train.jsonl", "{\"question\": \"WHO?\", \"answer\": \"x\"}\n");
        let found = read(&format!(
            "[[data]]\nkind = \"file\"\npath = \"{test}\"\ntrain = \"{train}\"\nmax_rejected = 0.5\n"
        ));
        assert_eq!(found.questions.len(), 2);
        let warnings = found.warnings.join("\n");
        let notes = found.notes.join("\n");
        for part in ["3 rows in 1 file: 2 used, 1 rejected", "`test` is scored by F1: the default"]
        {
            assert!(notes.contains(part), "{part}: {notes}");
        }
        for part in ["row 2", "2 of 2 questions in", "1 of 2 questions are asked more than once"] {
            assert!(warnings.contains(part), "{part}: {warnings}");
        }
    }
}
