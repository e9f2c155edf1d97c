//! The wording of questions: chains by one uniform grammar, comparisons and checks by templates.

use std::collections::BTreeSet;

use super::relation::{EntityKind, Relation};
use super::{Entity, World};

/// A path that two things are compared along, in words. `{a}` and `{b}` are the things compared,
/// `{v}` the value that a check asks about.
pub(super) struct Comparison {
    pub path: &'static [Relation],
    pub compare: &'static str,
    pub check: &'static str,
}

impl Comparison {
    /// Whether two things both have the value `{v}`: "Were {a} and {b} born in the city {v}?"
    pub fn check_both(&self) -> String {
        self.compare.replace("the same ", "the ").replace('?', " {v}?")
    }
}

pub(super) const COMPARISONS: [Comparison; 9] = [
    Comparison {
        path: &[Relation::Birthplace],
        compare: "Were {a} and {b} born in the same city?",
        check: "Was {a} born in the city {v}?",
    },
    Comparison {
        path: &[Relation::Birthplace, Relation::Country],
        compare: "Were {a} and {b} born in the same country?",
        check: "Was {a} born in the country {v}?",
    },
    Comparison {
        path: &[Relation::Employer],
        compare: "Do {a} and {b} work for the same company?",
        check: "Does {a} work for the company {v}?",
    },
    Comparison {
        path: &[Relation::Employer, Relation::Headquarters],
        compare: "Do {a} and {b} work in the same city?",
        check: "Does {a} work in the city {v}?",
    },
    Comparison {
        path: &[Relation::Employer, Relation::Sector],
        compare: "Do {a} and {b} work in the same sector?",
        check: "Does {a} work in the sector {v}?",
    },
    Comparison {
        path: &[Relation::Profession],
        compare: "Do {a} and {b} have the same profession?",
        check: "Does {a} have the profession {v}?",
    },
    Comparison {
        path: &[Relation::Sector],
        compare: "Are {a} and {b} active in the same sector?",
        check: "Is {a} active in the sector {v}?",
    },
    Comparison {
        path: &[Relation::Headquarters, Relation::Country],
        compare: "Are {a} and {b} based in the same country?",
        check: "Is {a} based in the country {v}?",
    },
    Comparison {
        path: &[Relation::Country],
        compare: "Do the cities {a} and {b} lie in the same country?",
        check: "Does the city {a} lie in the country {v}?",
    },
];

/// Every chain of `hops` different relations whose kinds fit and that never reverses a step.
pub(super) fn paths(hops: usize) -> Vec<Vec<Relation>> {
    let mut paths: Vec<Vec<Relation>> = Relation::ALL.into_iter().map(|r| vec![r]).collect();
    for _ in 1..hops {
        paths = paths.iter().flat_map(|path| extensions(path)).collect();
    }
    paths
}

fn extensions(path: &[Relation]) -> impl Iterator<Item = Vec<Relation>> {
    let follows = move |next: &Relation| {
        path.last().is_some_and(|last| {
            last.spec().object == next.spec().subject
                && !path.contains(next)
                // The country of a capital is where one came from.
                && (*last, *next) != (Relation::Capital, Relation::Country)
        })
    };
    Relation::ALL.into_iter().filter(follows).map(move |next| [path, &[next]].concat())
}

impl World {
    /// "What is Ana Vel's birthplace's country's currency?" for the path birthplace, country,
    /// currency: the nouns stand in the order in which they are looked up.
    pub(super) fn chain_question(&self, start: Entity, path: &[Relation]) -> String {
        let asks_for_person =
            path.last().is_some_and(|last| last.spec().object == EntityKind::Person);
        let mut question = if asks_for_person { "Who is " } else { "What is " }.to_owned();
        question.push_str(self.name(start));
        for relation in path {
            question.push_str("'s ");
            question.push_str(relation.spec().noun);
        }
        question.push('?');
        question
    }
}

/// The words of all templates, which no name may be.
pub(super) fn words() -> impl Iterator<Item = String> {
    let singles = Relation::ALL.into_iter().flat_map(|relation| {
        let spec = relation.spec();
        spec.phrasings.iter().map(|phrasing| phrasing.template).chain([spec.noun])
    });
    let comparisons = COMPARISONS.iter().flat_map(|c| [c.compare, c.check]);
    let words: BTreeSet<String> = singles
        .chain(comparisons)
        .chain(["yes no"])
        .flat_map(|template| template.split(' '))
        .filter(|word| !word.contains('{'))
        .map(|word| word.trim_end_matches('?'))
        .map(str::to_lowercase)
        .collect();
    words.into_iter()
}
