//! Questions that are asked more than once.

use std::collections::BTreeMap;

use crate::task::Task;

/// Two tasks with the same question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SameQuestion<'a> {
    /// The one that came first.
    pub first: &'a Task,
    /// The other.
    pub duplicate: &'a Task,
}

/// Every task whose question was asked before in `tasks`, but for case, punctuation and spaces.
pub fn duplicates(tasks: &[Task]) -> Vec<SameQuestion<'_>> {
    let mut seen = BTreeMap::new();
    let mut found = Vec::new();
    for duplicate in tasks {
        match seen.entry(normalised(&duplicate.question)) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(duplicate);
            }
            std::collections::btree_map::Entry::Occupied(entry) => {
                found.push(SameQuestion { first: entry.get(), duplicate });
            }
        }
    }
    found
}

/// Every task of `test` whose question is asked in `train` too, but for case, punctuation and
/// spaces.
pub fn overlap<'a>(train: &'a [Task], test: &'a [Task]) -> Vec<SameQuestion<'a>> {
    let asked: BTreeMap<String, &Task> =
        train.iter().rev().map(|task| (normalised(&task.question), task)).collect();
    test.iter()
        .filter_map(|duplicate| {
            let first = asked.get(&normalised(&duplicate.question))?;
            Some(SameQuestion { first, duplicate })
        })
        .collect()
}

fn normalised(question: &str) -> String {
    let lower = question.to_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    // A question without letters or digits is compared by its own characters.
    if words.is_empty() { lower } else { words.join(" ") }
}
