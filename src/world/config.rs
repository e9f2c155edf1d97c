//! Which world there is, and what is taken from it.

use serde::{Deserialize, Serialize};

use super::{Split, TaskKind};

/// The size and the seed of the world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorldConfig {
    /// Another seed is another world.
    pub seed: u64,
    /// Even, because everybody is married; at least 4.
    pub people: usize,
    /// At least 2.
    pub companies: usize,
    /// At least as many as countries, because each has a capital.
    pub cities: usize,
    /// At least 2.
    pub countries: usize,
}

impl Default for WorldConfig {
    fn default() -> Self {
        Self { seed: 1, people: 480, companies: 100, cities: 110, countries: 24 }
    }
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

/// Questions about the bundled world; data set `world`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldQuestions {
    /// Which world.
    #[serde(default)]
    pub world: WorldConfig,
    /// Which side of the split.
    #[serde(default = "test")]
    pub split: Split,
    /// Kinds, taken in turn: `single`, `{ chain = 2 }`, `comparison`, `check`.
    pub kinds: Vec<TaskKind>,
    /// How many questions.
    pub n: usize,
}

fn test() -> Split {
    Split::Test
}

/// Single facts of the bundled world, by how well the bundled large model should know their
/// wording; data set `world_facts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldFacts {
    /// Which world.
    #[serde(default)]
    pub world: WorldConfig,
    /// Which wordings.
    #[serde(default)]
    pub phrasing: Wording,
    /// How many questions. Default: all.
    #[serde(default)]
    pub n: Option<usize>,
}
