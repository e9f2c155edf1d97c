//! Tasks about the world, for training and evaluation, and a classifier of prompts.

use std::collections::HashMap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{
    Familiarity, SingleFact, Split, TaskKind, Wording, World, WorldConfig, WorldError, WorldFacts,
    WorldQuestions,
};
use crate::task::Task;

/// Draws tasks of some kinds, and classifies prompts by their wording.
pub struct WorldTasks {
    world: World,
    kinds: Vec<TaskKind>,
    familiarity: HashMap<String, Familiarity>,
}

impl WorldTasks {
    /// Tasks about the world of `config`. A kind that is listed twice is drawn twice as often.
    ///
    /// # Errors
    /// When there can be no such world.
    pub fn new(config: &WorldConfig, kinds: &[TaskKind]) -> Result<Self, WorldError> {
        let world = World::generate(config)?;
        let familiarity =
            world.single_facts().map(|fact| (fact.question, fact.familiarity)).collect();
        Ok(Self { world, kinds: kinds.to_vec(), familiarity })
    }

    /// `n` held-out tasks, each kind equally often.
    ///
    /// # Errors
    /// When the world has too few.
    pub fn held_out(&self, n: usize, seed: u64) -> Result<Vec<Task>, WorldError> {
        let mut kinds: Vec<TaskKind> = Vec::new();
        for kind in &self.kinds {
            if !kinds.contains(kind) {
                kinds.push(*kind);
            }
        }
        sample(&self.world, Split::Test, &kinds, n, seed)
    }

    /// `n` training tasks. Kinds are taken in turn, beginning with number `first`.
    ///
    /// # Errors
    /// When the world has too few.
    pub fn draw(&self, first: u64, n: usize, seed: u64) -> Result<Vec<Task>, WorldError> {
        let mut kinds = self.kinds.clone();
        let first = (first % kinds.len().max(1) as u64) as usize;
        kinds.rotate_left(first);
        sample(&self.world, Split::Train, &kinds, n, seed)
    }

    /// How well the bundled large model knows the wording of a prompt.
    pub fn classify(&self, prompt: &str) -> &'static str {
        match self.familiarity.get(prompt.trim()) {
            Some(Familiarity::Known) => "known",
            Some(Familiarity::Rare) => "rare",
            Some(Familiarity::Unknown) => "unknown",
            None => "no single fact",
        }
    }
}

impl WorldQuestions {
    /// The questions that `seed` draws.
    ///
    /// # Errors
    /// When the world has too few, or no kind is named.
    pub fn read(&self, seed: u64) -> Result<Vec<Task>, WorldError> {
        if self.kinds.is_empty() {
            return Err(WorldError::Config {
                field: "kinds",
                found: "[]".into(),
                expected: "a list of kinds, such as `[{ chain = 2 }, { chain = 3 }]`".into(),
            });
        }
        sample(&World::generate(&self.world)?, self.split, &self.kinds, self.n, seed)
    }
}

impl WorldFacts {
    /// The facts that `seed` draws.
    ///
    /// # Errors
    /// When there can be no such world.
    pub fn read(&self, seed: u64) -> Result<Vec<Task>, WorldError> {
        let world = World::generate(&self.world)?;
        let mut facts: Vec<SingleFact> =
            world.single_facts().filter(|fact| self.phrasing.includes(fact.familiarity)).collect();
        facts.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        facts.truncate(self.n.unwrap_or(usize::MAX));
        Ok(facts.into_iter().map(fact_task).collect())
    }
}

/// Text in which every word of the world occurs, to make the vocabulary of a new model from.
///
/// # Errors
/// When there can be no such world.
pub fn vocabulary(config: &WorldConfig) -> Result<Vec<String>, WorldError> {
    World::generate(config)?.vocabulary_corpus(200, 0)
}

fn sample(
    world: &World,
    split: Split,
    kinds: &[TaskKind],
    n: usize,
    seed: u64,
) -> Result<Vec<Task>, WorldError> {
    let drawn = world.sample_tasks(split, kinds, n, seed)?;
    Ok(drawn.into_iter().map(|drawn| drawn.task).collect())
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
