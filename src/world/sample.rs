//! Drawing questions: what they ask, their gold plan, and which side of the split they are on.

use std::collections::BTreeSet;

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::question::{COMPARISONS, Comparison, paths};
use super::{Entity, Fact, PHRASINGS, Relation, World, WorldError};
use crate::task::Task;

/// The longest chain.
pub const MAX_HOPS: usize = 5;

/// How often a draw is repeated before the world counts as too small.
const ATTEMPTS: usize = 10_000;

/// A split of the questions. A fifth of them, chosen by a hash of their subject, are held out for
/// testing and never drawn for training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Four fifths of all questions.
    Train,
    /// The rest.
    Test,
}

impl Split {
    /// The side of the question whose subject matter is `key`.
    fn of(key: &str) -> Self {
        if super::stable_hash(key).is_multiple_of(5) { Self::Test } else { Self::Train }
    }
}

/// A kind of question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// One fact, in one of its wordings or as a chain of one.
    Single,
    /// This many facts, each about the object of the one before; 2 to [`MAX_HOPS`].
    Chain(usize),
    /// Whether two things agree in a property that is one or two facts away.
    Comparison,
    /// Whether a property one or two facts away has a given value.
    Check,
    /// The same for two things at once: whether both have the given value.
    CheckBoth,
}

impl TaskKind {
    /// What [`Task::kind`] says.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Chain(_) => "chain",
            Self::Comparison => "comparison",
            Self::Check => "check",
            Self::CheckBoth => "check_both",
        }
    }
}

/// One hop of a gold plan.
pub type Step = Fact;

/// How the answer follows from the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// It is the last object.
    Object,
    /// Yes when both halves of the plan end at the same object, else no.
    Same,
    /// Yes when the plan ends at this value, else no.
    Equals(Entity),
    /// Yes when both halves of the plan end at this value, else no.
    BothEqual(Entity),
}

/// A question with its gold solution.
#[derive(Debug, Clone, PartialEq)]
pub struct WorldTask {
    /// The question and its answer.
    pub task: Task,
    /// The facts to look up, in order. For a question about two things, the first half is about the
    /// first.
    pub plan: Vec<Step>,
    /// How they give the answer.
    pub goal: Goal,
}

/// Draws questions of one split.
pub struct Sampler<'w> {
    world: &'w World,
    split: Split,
    /// Paths by their number of hops.
    paths: Vec<Vec<Vec<Relation>>>,
}

impl<'w> Sampler<'w> {
    /// A sampler over one side of the split.
    pub fn new(world: &'w World, split: Split) -> Self {
        let paths = (0..=MAX_HOPS).map(|hops| if hops == 0 { vec![] } else { paths(hops) });
        Self { world, split, paths: paths.collect() }
    }

    /// One question, drawn uniformly over paths or templates, then over what it is about.
    /// `affirmative` chooses the answer of yes/no questions.
    ///
    /// # Errors
    /// When the world has no question of that kind.
    pub fn draw(
        &self,
        kind: TaskKind,
        affirmative: bool,
        rng: &mut ChaCha8Rng,
    ) -> Result<WorldTask, WorldError> {
        (0..ATTEMPTS)
            .find_map(|_| match kind {
                TaskKind::Single => self.single(rng),
                TaskKind::Chain(hops) => self.chain(hops, rng),
                TaskKind::Comparison => self.comparison(affirmative, rng),
                TaskKind::Check => self.check(affirmative, rng),
                TaskKind::CheckBoth => self.check_both(affirmative, rng),
            })
            .ok_or(WorldError::TooSmall { kind: kind.name().into(), found: 0, wanted: 1 })
    }

    fn single(&self, rng: &mut ChaCha8Rng) -> Option<WorldTask> {
        let path = self.paths[1].choose(rng)?;
        let plan = self.walk(self.start(path, rng)?, path)?;
        let step = plan[0];
        let key = self.key(&[step.subject], path);
        if Split::of(&key) != self.split {
            return None;
        }
        // The last wording is that of a chain of one.
        let wording = rng.random_range(0..=PHRASINGS);
        let question = match step.relation.spec().phrasings.get(wording) {
            Some(phrasing) => phrasing.question(self.world.name(step.subject)),
            None => self.world.chain_question(step.subject, path),
        };
        let id = format!("single:{key}#{wording}");
        Some(self.object_task(id, "single", question, plan))
    }

    fn chain(&self, hops: usize, rng: &mut ChaCha8Rng) -> Option<WorldTask> {
        let path = self.paths.get(hops)?.choose(rng)?;
        let start = self.start(path, rng)?;
        let plan = self.walk(start, path)?;
        let key = self.key(&[start], path);
        if Split::of(&key) != self.split {
            return None;
        }
        let question = self.world.chain_question(start, path);
        Some(self.object_task(format!("chain:{key}"), "chain", question, plan))
    }

    fn comparison(&self, same: bool, rng: &mut ChaCha8Rng) -> Option<WorldTask> {
        let Comparison { path, compare, .. } = COMPARISONS.choose(rng)?;
        let (key, question, plan) = self.two(path, compare, rng)?;
        if (plan.last()?.object == plan[plan.len() / 2 - 1].object) != same {
            return None;
        }
        Some(yes_no_task(format!("comparison:{key}"), "comparison", question, plan, Goal::Same))
    }

    fn check_both(&self, equal: bool, rng: &mut ChaCha8Rng) -> Option<WorldTask> {
        let comparison = COMPARISONS.choose(rng)?;
        let (key, question, plan) = self.two(comparison.path, &comparison.check_both(), rng)?;
        let ends = [plan[plan.len() / 2 - 1].object, plan.last()?.object];
        let any = rng.random_range(0..self.world.count(ends[0].kind));
        let value = *[ends[0], ends[1], Entity { index: any, ..ends[0] }].choose(rng)?;
        if (ends == [value; 2]) != equal {
            return None;
        }
        let question = question.replace("{v}", self.world.name(value));
        let id = format!("check_both:{key}:{}", self.world.name(value));
        Some(yes_no_task(id, "check_both", question, plan, Goal::BothEqual(value)))
    }

    /// Two different things, in `template`, and what `path` leads to from each.
    fn two(
        &self,
        path: &[Relation],
        template: &str,
        rng: &mut ChaCha8Rng,
    ) -> Option<(String, String, Vec<Step>)> {
        let (a, b) = (self.start(path, rng)?, self.start(path, rng)?);
        let plan = [self.walk(a, path)?, self.walk(b, path)?].concat();
        // The same two things in the other order are the same question.
        let key = self.key(&[a.min(b), a.max(b)], path);
        if a == b || Split::of(&key) != self.split {
            return None;
        }
        let question =
            template.replace("{a}", self.world.name(a)).replace("{b}", self.world.name(b));
        Some((key, question, plan))
    }

    fn check(&self, equal: bool, rng: &mut ChaCha8Rng) -> Option<WorldTask> {
        let Comparison { path, check, .. } = COMPARISONS.choose(rng)?;
        let start = self.start(path, rng)?;
        let plan = self.walk(start, path)?;
        let truth = plan.last()?.object;
        let index =
            if equal { truth.index } else { rng.random_range(0..self.world.count(truth.kind)) };
        let value = Entity { index, ..truth };
        if (value == truth) != equal {
            return None;
        }
        let key = self.key(&[start, value], path);
        if Split::of(&key) != self.split {
            return None;
        }
        let question =
            check.replace("{a}", self.world.name(start)).replace("{v}", self.world.name(value));
        Some(yes_no_task(format!("check:{key}"), "check", question, plan, Goal::Equals(value)))
    }

    fn start(&self, path: &[Relation], rng: &mut ChaCha8Rng) -> Option<Entity> {
        let kind = path.first()?.spec().subject;
        Some(Entity { kind, index: rng.random_range(0..self.world.count(kind)) })
    }

    /// The facts along `path`; `None` when it would visit a thing twice.
    fn walk(&self, start: Entity, path: &[Relation]) -> Option<Vec<Step>> {
        let mut visited = vec![start];
        let mut plan = Vec::with_capacity(path.len());
        for &relation in path {
            let subject = *visited.last()?;
            let object = self.world.object(relation, subject)?;
            if visited.contains(&object) {
                return None;
            }
            visited.push(object);
            plan.push(Step { relation, subject, object });
        }
        Some(plan)
    }

    /// What a question is about, whatever its wording: "Ana Vel:birthplace.country".
    fn key(&self, about: &[Entity], path: &[Relation]) -> String {
        let names: Vec<&str> = about.iter().map(|&entity| self.world.name(entity)).collect();
        let nouns: Vec<&str> = path.iter().map(|relation| relation.spec().noun).collect();
        format!("{}:{}", names.join("+"), nouns.join("."))
    }

    fn object_task(&self, id: String, kind: &str, question: String, plan: Vec<Step>) -> WorldTask {
        let gold = plan.last().map_or("", |step| self.world.name(step.object)).to_owned();
        WorldTask { task: task(id, kind, question, gold, plan.len()), plan, goal: Goal::Object }
    }
}

fn yes_no_task(id: String, kind: &str, question: String, plan: Vec<Step>, goal: Goal) -> WorldTask {
    let ends = |range: &[Step]| range.last().map(|step| step.object);
    let yes = match goal {
        Goal::Equals(value) => ends(&plan) == Some(value),
        Goal::BothEqual(value) => {
            ends(&plan) == Some(value) && ends(&plan[..plan.len() / 2]) == Some(value)
        }
        Goal::Same | Goal::Object => ends(&plan) == ends(&plan[..plan.len() / 2]),
    };
    let gold = if yes { "yes" } else { "no" }.to_owned();
    WorldTask { task: task(id, kind, question, gold, plan.len()), plan, goal }
}

fn task(id: String, kind: &str, question: String, gold: String, hops: usize) -> Task {
    Task {
        id,
        question,
        golds: vec![gold],
        source: "world".into(),
        kind: Some(kind.to_owned()),
        hops: u32::try_from(hops).ok(),
    }
}

impl World {
    /// `n` questions with distinct ids, `kinds` taking turns. Of the yes/no questions of a kind
    /// every other one is answered with yes.
    ///
    /// # Errors
    /// When the world has too few questions of a kind.
    pub fn sample_tasks(
        &self,
        split: Split,
        kinds: &[TaskKind],
        n: usize,
        seed: u64,
    ) -> Result<Vec<WorldTask>, WorldError> {
        let sampler = Sampler::new(self, split);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut ids = BTreeSet::new();
        let mut tasks = Vec::with_capacity(n);
        for (index, &kind) in kinds.iter().cycle().take(n).enumerate() {
            let affirmative = (index / kinds.len()).is_multiple_of(2);
            let mut attempts = 0;
            let fresh = loop {
                let drawn = sampler.draw(kind, affirmative, &mut rng)?;
                if ids.insert(drawn.task.id.clone()) {
                    break drawn;
                }
                attempts += 1;
                if attempts == ATTEMPTS {
                    let kind = kind.name().into();
                    return Err(WorldError::TooSmall { kind, found: index, wanted: n });
                }
            };
            tasks.push(fresh);
        }
        Ok(tasks)
    }
}
