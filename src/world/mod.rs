//! The bundled world: a seeded atlas of invented people, companies, cities and countries, the
//! single facts about them, and questions that chain those facts.
//!
//! The same configuration gives the same world on every platform.

use std::borrow::Cow;
use std::collections::BTreeSet;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

mod config;
mod demonstration;
mod names;
mod question;
mod relation;
mod sample;
mod single_fact;
mod tasks;
#[cfg(test)]
mod tests;

pub use config::{
    DemonstrationMix, PhrasingChoice, Wording, WorldConfig, WorldFacts, WorldQuestions,
};
pub use relation::{EntityKind, Familiarity, PHRASINGS, Phrasing, Relation, RelationSpec};
pub use sample::{Goal, MAX_HOPS, Sampler, Split, Step, TaskKind, WorldTask};
pub use single_fact::SingleFact;
pub use tasks::{WorldTasks, vocabulary};

use names::{PROFESSIONS, SECTORS, WordMaker};

use crate::hint::Hint;

/// A world or a sample of it that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// A number in the configuration is out of range.
    #[error("`{field}` is {found}, but it must be {expected}")]
    Config {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// There are not enough questions of a kind.
    #[error("the world has too few questions of kind `{kind}`: {found} found, {wanted} wanted")]
    TooSmall {
        /// The kind of question.
        kind: String,
        /// How many questions were found before giving up.
        found: usize,
        /// How many were wanted.
        wanted: usize,
    },
}

impl Hint for WorldError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::TooSmall { .. } => "ask for fewer, or make the world larger".into(),
            Self::Config { .. } => return None,
        })
    }
}

/// A thing in the world; [`World::name`] says what it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entity {
    /// What it is.
    pub kind: EntityKind,
    /// Its index among its kind, from 0.
    pub index: usize,
}

/// A single fact: `object` is the `relation` of `subject`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fact {
    /// The relation.
    pub relation: Relation,
    /// The subject.
    pub subject: Entity,
    /// The answer.
    pub object: Entity,
}

/// An invented atlas.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    /// Names by kind, then by index.
    names: Vec<Vec<String>>,
    /// Indices of objects by relation, then by the subject's index.
    objects: Vec<Vec<usize>>,
}

impl World {
    /// Makes the world of `config`.
    ///
    /// # Errors
    /// Names the number that is out of range.
    pub fn generate(config: &WorldConfig) -> Result<Self, WorldError> {
        check(config)?;
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        let names = make_names(config, &mut rng);
        let objects = Relation::ALL
            .into_iter()
            .map(|relation| make_objects(relation, config, &names, &mut rng))
            .collect::<Vec<_>>();
        let mut world = Self { names, objects };
        world.seat_capitals();
        Ok(world)
    }

    /// A capital lies in its own country: the first cities are the capitals, one for each.
    fn seat_capitals(&mut self) {
        for country in 0..self.count(EntityKind::Country) {
            self.objects[Relation::Capital as usize][country] = country;
            self.objects[Relation::Country as usize][country] = country;
        }
    }

    /// How many things of `kind` there are.
    pub fn count(&self, kind: EntityKind) -> usize {
        self.names[kind as usize].len()
    }

    /// Everything of `kind`.
    pub fn entities(&self, kind: EntityKind) -> impl Iterator<Item = Entity> + use<> {
        (0..self.count(kind)).map(move |index| Entity { kind, index })
    }

    /// What `entity` of this world is called; empty for an entity that is not of this world.
    pub fn name(&self, entity: Entity) -> &str {
        self.names[entity.kind as usize].get(entity.index).map_or("", String::as_str)
    }

    /// The `relation` of `subject`; `None` when things of its kind have no such relation.
    pub fn object(&self, relation: Relation, subject: Entity) -> Option<Entity> {
        let spec = relation.spec();
        if spec.subject != subject.kind {
            return None;
        }
        let index = *self.objects[relation as usize].get(subject.index)?;
        Some(Entity { kind: spec.object, index })
    }

    /// Every fact, in a fixed order.
    pub fn facts(&self) -> impl Iterator<Item = Fact> + '_ {
        Relation::ALL.into_iter().flat_map(move |relation| {
            self.entities(relation.spec().subject).filter_map(move |subject| {
                Some(Fact { relation, subject, object: self.object(relation, subject)? })
            })
        })
    }
}

fn check(config: &WorldConfig) -> Result<(), WorldError> {
    let wrong = |field, found: usize, expected: String| {
        Err(WorldError::Config { field, found: found.to_string(), expected })
    };
    if config.people < 4 || config.people % 2 == 1 {
        return wrong("people", config.people, "an even number of at least 4".into());
    }
    if config.companies < 2 {
        return wrong("companies", config.companies, "at least 2".into());
    }
    if config.countries < 2 {
        return wrong("countries", config.countries, "at least 2".into());
    }
    if config.cities < config.countries {
        let expected = format!("at least the number of countries, {}", config.countries);
        return wrong("cities", config.cities, expected);
    }
    Ok(())
}

/// Names by kind, in the order of [`EntityKind`].
fn make_names(config: &WorldConfig, rng: &mut ChaCha8Rng) -> Vec<Vec<String>> {
    let fixed = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    let (professions, sectors) = (fixed(&PROFESSIONS), fixed(&SECTORS));
    let reserved = question::words().chain(professions.iter().cloned()).chain(sectors.clone());
    let mut maker = WordMaker::new(reserved, rng);
    // About one in eleven combinations is a person, so that first and last names recur: 480 people
    // share 60 first and 90 last names.
    let firsts = maker.words(&names::FIRST_NAME, (config.people * 15 / 2).isqrt());
    let lasts = maker.words(&names::LAST_NAME, (config.people * 135 / 8).isqrt());
    let companies = maker.words(&names::COMPANY, config.companies);
    let cities = maker.words(&names::CITY, config.cities);
    let countries = maker.words(&names::COUNTRY, config.countries);
    let currencies = maker.words(&names::CURRENCY, config.countries);
    let languages = maker.words(&names::LANGUAGE, config.countries);
    let mut seen = BTreeSet::new();
    let mut people = Vec::with_capacity(config.people);
    while people.len() < config.people {
        let first = &firsts[rng.random_range(0..firsts.len())];
        let last = &lasts[rng.random_range(0..lasts.len())];
        if seen.insert((first, last)) {
            people.push(format!("{first} {last}"));
        }
    }
    vec![people, companies, cities, countries, currencies, languages, professions, sectors]
}

/// The objects of one relation, by the subject's index.
fn make_objects(
    relation: Relation,
    config: &WorldConfig,
    names: &[Vec<String>],
    rng: &mut ChaCha8Rng,
) -> Vec<usize> {
    let spec = relation.spec();
    let subjects = names[spec.subject as usize].len();
    let objects = names[spec.object as usize].len();
    match relation {
        Relation::Spouse => {
            let mut order: Vec<usize> = (0..config.people).collect();
            order.shuffle(rng);
            let mut spouses = vec![0; config.people];
            for pair in order.chunks_exact(2) {
                spouses[pair[0]] = pair[1];
                spouses[pair[1]] = pair[0];
            }
            spouses
        }
        // Anyone else.
        Relation::Mentor => {
            (0..subjects).map(|own| (own + rng.random_range(1..objects)) % objects).collect()
        }
        // Each country has its own.
        Relation::Currency | Relation::Language => (0..subjects).collect(),
        _ => (0..subjects).map(|_| rng.random_range(0..objects)).collect(),
    }
}

/// A hash that is the same on every platform and in every version: FNV-1a, then a finalizer so
/// that its low bits are as good as its high ones.
fn stable_hash(text: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}
