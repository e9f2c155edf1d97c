//! Invented names: pronounceable words, no two alike, none a word that the questions use.

use std::collections::BTreeSet;

use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

const ONSETS: [&str; 24] = [
    "b", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr",
    "kr", "tr", "st", "th", "gr", "pl",
];
const VOWELS: [&str; 5] = ["a", "e", "i", "o", "u"];
const CODAS: [&str; 10] = ["b", "d", "l", "m", "n", "r", "s", "t", "v", "k"];

/// How the words of one category end, and whether they are capitalised.
pub(super) struct Style {
    pub endings: &'static [&'static str],
    pub capital: bool,
}

pub(super) const FIRST_NAME: Style =
    Style { endings: &["a", "o", "i", "en", "is", "el"], capital: true };
pub(super) const LAST_NAME: Style =
    Style { endings: &["ov", "ek", "ard", "im", "ur", "az"], capital: true };
pub(super) const COMPANY: Style =
    Style { endings: &["ex", "ix", "co", "tec", "gen"], capital: true };
pub(super) const CITY: Style =
    Style { endings: &["burg", "ton", "mar", "ford", "ville", "dam"], capital: true };
pub(super) const COUNTRY: Style = Style { endings: &["ia", "land", "una", "stan"], capital: true };
pub(super) const CURRENCY: Style = Style { endings: &["ar", "in", "et"], capital: false };
pub(super) const LANGUAGE: Style = Style { endings: &["ish", "ese", "ic"], capital: true };

pub(super) const PROFESSIONS: [&str; 30] = [
    "actor",
    "architect",
    "baker",
    "barber",
    "botanist",
    "butcher",
    "carpenter",
    "chemist",
    "composer",
    "dancer",
    "dentist",
    "engineer",
    "farmer",
    "gardener",
    "geologist",
    "hunter",
    "jeweller",
    "lawyer",
    "librarian",
    "mason",
    "miner",
    "nurse",
    "painter",
    "pilot",
    "plumber",
    "potter",
    "sailor",
    "sculptor",
    "tailor",
    "weaver",
];
pub(super) const SECTORS: [&str; 20] = [
    "aviation",
    "banking",
    "brewing",
    "cement",
    "chemistry",
    "fishing",
    "forestry",
    "glass",
    "insurance",
    "logistics",
    "mining",
    "optics",
    "paper",
    "pharmacy",
    "publishing",
    "robotics",
    "shipping",
    "steel",
    "textiles",
    "tourism",
];

/// Makes words that differ from one another whatever their case.
pub(super) struct WordMaker<'r> {
    taken: BTreeSet<String>,
    rng: &'r mut ChaCha8Rng,
}

impl<'r> WordMaker<'r> {
    /// A maker that never makes one of `reserved`.
    pub fn new(reserved: impl IntoIterator<Item = String>, rng: &'r mut ChaCha8Rng) -> Self {
        let taken = reserved.into_iter().map(|word| word.to_lowercase()).collect();
        Self { taken, rng }
    }

    /// `count` new words of one style.
    pub fn words(&mut self, style: &Style, count: usize) -> Vec<String> {
        (0..count).map(|_| self.word(style)).collect()
    }

    fn word(&mut self, style: &Style) -> String {
        let mut attempts = 0;
        loop {
            // A word grows by a syllable whenever short ones run out, so this ends at any size.
            let mut word = String::new();
            for _ in 0..=attempts / 50 {
                word.push_str(self.pick(&ONSETS));
                word.push_str(self.pick(&VOWELS));
            }
            word.push_str(self.pick(&CODAS));
            word.push_str(self.pick(style.endings));
            if self.taken.insert(word.clone()) {
                return if style.capital { capitalised(&word) } else { word };
            }
            attempts += 1;
        }
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices.choose(self.rng).copied().unwrap_or_default()
    }
}

fn capitalised(word: &str) -> String {
    let (head, tail) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
    head.to_uppercase() + tail
}
