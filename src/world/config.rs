//! Which world there is, and what is taken from it: questions, facts, demonstrations.

use serde::{Deserialize, Serialize};

use super::{MAX_HOPS, Split, TaskKind, WorldError};

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

/// The wordings in which demonstrated prompts ask for single facts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhrasingChoice {
    /// All equally often.
    Uniform,
    /// Only wordings that the large model knows.
    #[default]
    KnownOnly,
}

/// The mix of demonstrations, and their quality. The default is flawless.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DemonstrationMix {
    /// The shortest chain; 1 is a single fact.
    pub min_hops: usize,
    /// The longest chain, at most [`MAX_HOPS`]. Lengths between are equally frequent.
    pub max_hops: usize,
    /// The share of comparisons.
    pub comparison_share: f64,
    /// The share of yes/no checks of one thing.
    pub check_share: f64,
    /// The share of yes/no checks of two things; the rest after the three shares are chains.
    pub check_both_share: f64,
    /// The share in which the whole question is sent to the large model at once, which can only
    /// guess: the reply is any object of the right kind, and it becomes the answer.
    pub all_at_once_share: f64,
    /// The share of facts that are asked for a second time, in another wording, as a check. A
    /// policy that has seen this cannot infer its progress in a chain from the number of turns.
    pub asked_twice_share: f64,
    /// How single facts are asked for.
    pub phrasings: PhrasingChoice,
}

impl Default for DemonstrationMix {
    fn default() -> Self {
        Self {
            min_hops: 1,
            max_hops: MAX_HOPS,
            comparison_share: 0.2,
            check_share: 0.1,
            check_both_share: 0.0,
            all_at_once_share: 0.0,
            asked_twice_share: 0.0,
            phrasings: PhrasingChoice::KnownOnly,
        }
    }
}

impl DemonstrationMix {
    pub(super) fn check(&self) -> Result<(), WorldError> {
        if self.min_hops < 1 || self.min_hops > self.max_hops || self.max_hops > MAX_HOPS {
            return Err(WorldError::Config {
                field: "min_hops..max_hops",
                found: format!("{}..{}", self.min_hops, self.max_hops),
                expected: format!("within 1..{MAX_HOPS} and in order"),
            });
        }
        for (field, share) in [
            ("comparison_share", self.comparison_share),
            ("check_share", self.check_share),
            ("check_both_share", self.check_both_share),
            ("all_at_once_share", self.all_at_once_share),
            ("asked_twice_share", self.asked_twice_share),
            (
                "comparison_share + check_share + check_both_share",
                self.comparison_share + self.check_share + self.check_both_share,
            ),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(WorldError::Config {
                    field,
                    found: share.to_string(),
                    expected: "between 0 and 1".to_owned(),
                });
            }
        }
        Ok(())
    }
}
