//! The questions of an evaluation, from files and from the bundled world.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::dataset::{ReadOptions, duplicates, overlap, read_tasks};
use crate::task::Task;
use crate::world::{Familiarity, SingleFact, Split, TaskKind, World, WorldConfig};

use super::EvalError;
use super::metrics::{Metric, MetricConfig};

/// Where questions come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum DataConfig {
    /// Questions about the bundled world; data set `world`.
    World {
        /// Which world.
        #[serde(default)]
        world: WorldConfig,
        /// Which side of the split.
        #[serde(default = "test")]
        split: Split,
        /// Kinds that take turns: `single`, `{ chain = 2 }`, `comparison`, `check`.
        kinds: Vec<TaskKind>,
        /// How many questions.
        n: usize,
    },
    /// Single facts of the bundled world by how well the bundled large model is to understand
    /// their wording; data set `world_facts`.
    WorldFacts {
        /// Which world.
        #[serde(default)]
        world: WorldConfig,
        /// Which wordings.
        #[serde(default)]
        phrasing: Wording,
        /// How many questions. Default: all.
        #[serde(default)]
        n: Option<usize>,
    },
    /// A file of JSON Lines or Parquet.
    File {
        /// The file.
        path: PathBuf,
        /// The data set's name, for rows that do not say it. Default: the file's stem.
        #[serde(default)]
        source: Option<String>,
        /// Only tasks of these data sets. Default: all.
        #[serde(default)]
        sources: Vec<String>,
        /// Only tasks of these kinds. Default: all.
        #[serde(default)]
        kinds: Vec<String>,
        /// Shuffle with this seed before the limit is applied. Default: file order.
        #[serde(default)]
        shuffle_seed: Option<u64>,
        /// At most this many tasks. Default: all.
        #[serde(default)]
        limit: Option<usize>,
        /// What a policy was trained on: questions that occur there too are warned of.
        #[serde(default)]
        train: Option<PathBuf>,
    },
}

fn test() -> Split {
    Split::Test
}

/// Wordings of single facts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wording {
    /// Those that the bundled large model is trained on.
    Known,
    /// Those of which it saw a tenth.
    Rare,
    /// Those it never saw.
    Unknown,
    /// Every wording.
    #[default]
    All,
}

/// A task and how answers to it are scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The task.
    pub task: Task,
    /// Its data set's metric.
    pub metric: Metric,
}

/// What was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Questions {
    /// The questions, in order.
    pub questions: Vec<Question>,
    /// What a reader of the report should know about them.
    pub warnings: Vec<String>,
}

/// Reads all data sets. `limit` bounds each of them; `seed` draws from the world.
pub fn load(
    data: &[DataConfig],
    metrics: &MetricConfig,
    limit: Option<usize>,
    seed: u64,
) -> Result<Questions, EvalError> {
    let mut warnings = Vec::new();
    let mut tasks: Vec<Task> = Vec::new();
    for config in data {
        let mut read = config.read(seed, &mut warnings)?;
        read.truncate(limit.unwrap_or(usize::MAX));
        tasks.append(&mut read);
    }
    let repeated = duplicates(&tasks).len();
    if repeated > 0 {
        warnings.push(format!(
            "{repeated} of {} questions are asked more than once: intervals and p-values take them for independent",
            tasks.len()
        ));
    }
    // A row is known by its data set and id.
    let mut seen = BTreeSet::new();
    let before = tasks.len();
    tasks.retain(|task| seen.insert((task.source.clone(), task.id.clone())));
    if tasks.len() < before {
        let dropped = before - tasks.len();
        warnings
            .push(format!("{dropped} questions were left out: their data set has their id twice"));
    }
    let questions: Vec<Question> =
        tasks.into_iter().map(|task| Question { metric: metrics.of(&task.source), task }).collect();
    if questions.is_empty() {
        return Err(EvalError::Setting(
            "there are no questions\nhint: add a table `[[data]]`".into(),
        ));
    }
    Ok(Questions { questions, warnings })
}

/// What a reader should know about `train`, which a prompt was searched for on, beside the
/// questions asked.
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
    fn read(&self, seed: u64, warnings: &mut Vec<String>) -> Result<Vec<Task>, EvalError> {
        match self {
            Self::World { world, split, kinds, n } => {
                if kinds.is_empty() {
                    return Err(EvalError::Setting(
                        "`kinds` of a data set is empty\nhint: write `kinds = [{ chain = 2 }, { chain = 3 }]`".into(),
                    ));
                }
                let drawn = World::generate(world)?.sample_tasks(*split, kinds, *n, seed)?;
                Ok(drawn.into_iter().map(|drawn| drawn.task).collect())
            }
            Self::WorldFacts { world, phrasing, n } => {
                let world = World::generate(world)?;
                let wanted =
                    world.single_facts().filter(|fact| phrasing.includes(fact.familiarity));
                let mut facts: Vec<SingleFact> = wanted.collect();
                facts.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
                facts.truncate(n.unwrap_or(usize::MAX));
                Ok(facts.into_iter().map(fact_task).collect())
            }
            Self::File { path, source, sources, kinds, shuffle_seed, limit, train } => {
                let options = ReadOptions {
                    source: source.clone(),
                    sources: sources.clone(),
                    kinds: kinds.clone(),
                    shuffle_seed: *shuffle_seed,
                    limit: *limit,
                };
                let outcome = read_tasks(path, &options)?;
                let rejected = outcome.rejected.iter().take(5);
                warnings.extend(rejected.map(|rejected| format!("left out: {rejected}")));
                let unnamed = outcome.rejected.len().saturating_sub(5);
                if unnamed > 0 {
                    warnings.push(format!("left out: {unnamed} more rows of `{}`", path.display()));
                }
                if let Some(train) = train {
                    let trained = read_tasks(train, &ReadOptions::default())?.tasks;
                    let shared = overlap(&trained, &outcome.tasks).len();
                    if shared > 0 {
                        warnings.push(format!(
                            "{shared} of {} questions in `{}` are also in `{}`, which was trained on",
                            outcome.tasks.len(),
                            path.display(),
                            train.display()
                        ));
                    }
                }
                Ok(outcome.tasks)
            }
        }
    }
}

impl Wording {
    fn includes(self, familiarity: Familiarity) -> bool {
        match self {
            Self::Known => familiarity == Familiarity::Known,
            Self::Rare => familiarity == Familiarity::Rare,
            Self::Unknown => familiarity == Familiarity::Unknown,
            Self::All => true,
        }
    }
}

fn fact_task(fact: SingleFact) -> Task {
    let kind = match (fact.familiarity, fact.trained) {
        (Familiarity::Known, _) => "single-known",
        (Familiarity::Rare, true) => "single-rare-trained",
        (Familiarity::Rare, false) => "single-rare",
        (Familiarity::Unknown, _) => "single-unknown",
    };
    Task {
        id: fact.question.clone(),
        question: fact.question,
        golds: vec![fact.answer],
        source: "world_facts".into(),
        kind: Some(kind.into()),
        hops: Some(1),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(toml: &str) -> Vec<DataConfig> {
        #[derive(Deserialize)]
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
                question.task.source == source && question.task.kind.as_deref() == Some(kind)
            };
            found.questions.iter().filter(is).count()
        };
        assert_eq!((of("world", "chain"), of("world_facts", "single-unknown")), (10, 7));
        assert_eq!(found.questions.len(), 17);
        assert!(found.warnings.is_empty(), "{:?}", found.warnings);
    }

    #[test]
    fn a_rare_wording_is_told_apart_by_what_was_trained() {
        let found = read("[[data]]\nkind = \"world_facts\"\nphrasing = \"rare\"\n");
        let trained = found
            .questions
            .iter()
            .filter(|question| question.task.kind.as_deref() == Some("single-rare-trained"));
        let share = trained.count() as f64 / found.questions.len() as f64;
        assert!((0.05..0.15).contains(&share), "{share}");
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
        let found =
            read(&format!("[[data]]\nkind = \"file\"\npath = \"{test}\"\ntrain = \"{train}\"\n"));
        assert_eq!(found.questions.len(), 2);
        let warnings = found.warnings.join("\n");
        for part in ["row 2", "2 of 2 questions in", "1 of 2 questions are asked more than once"] {
            assert!(warnings.contains(part), "{part}: {warnings}");
        }
    }
}
