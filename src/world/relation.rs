//! The kinds of things in the world, what relates them, and how a single fact is asked for.

use serde::{Deserialize, Serialize};

/// What a thing is. Values of the last four kinds are plain words without relations of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntityKind {
    /// Has a first and a last name.
    Person,
    /// One word.
    Company,
    /// One word.
    City,
    /// One word.
    Country,
    /// One word, lower case.
    Currency,
    /// One word.
    Language,
    /// One word, lower case.
    Profession,
    /// One word, lower case.
    Sector,
}

/// A functional relation: each subject has exactly one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// Person → city.
    Birthplace,
    /// Person → company.
    Employer,
    /// Person → person; symmetric.
    Spouse,
    /// Person → person.
    Mentor,
    /// Person → profession.
    Profession,
    /// Company → city.
    Headquarters,
    /// Company → person.
    Founder,
    /// Company → sector.
    Sector,
    /// City → country.
    Country,
    /// City → person.
    Mayor,
    /// Country → city, which lies in that country.
    Capital,
    /// Country → currency.
    Currency,
    /// Country → language.
    Language,
    /// Country → person.
    President,
}

/// How well the bundled large model understands a wording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Familiarity {
    /// It is trained on this wording of every fact.
    Known,
    /// It is trained on this wording of about a tenth of the facts.
    Rare,
    /// It never sees this wording.
    Unknown,
}

/// One wording of the question for a single fact; `{x}` stands for the subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phrasing {
    /// How well the large model understands it.
    pub familiarity: Familiarity,
    /// The question, with `{x}`.
    pub template: &'static str,
}

impl Phrasing {
    /// The question about `subject`.
    pub fn question(&self, subject: &str) -> String {
        self.template.replace("{x}", subject)
    }
}

/// Wordings of each relation's question.
pub const PHRASINGS: usize = 5;

/// What is fixed about a relation.
#[derive(Debug)]
pub struct RelationSpec {
    /// One word for it, as in "the mayor of …".
    pub noun: &'static str,
    /// The kind of its subjects.
    pub subject: EntityKind,
    /// The kind of its objects.
    pub object: EntityKind,
    /// Its question in five wordings: two known, one rare, two unknown, in no fixed order. An
    /// unknown wording shares no content word with a known one, so that nothing but training on it
    /// could teach it.
    pub phrasings: [Phrasing; PHRASINGS],
}

impl Relation {
    /// Every relation, in a fixed order.
    pub const ALL: [Self; 14] = [
        Self::Birthplace,
        Self::Employer,
        Self::Spouse,
        Self::Mentor,
        Self::Profession,
        Self::Headquarters,
        Self::Founder,
        Self::Sector,
        Self::Country,
        Self::Mayor,
        Self::Capital,
        Self::Currency,
        Self::Language,
        Self::President,
    ];

    /// What is fixed about it.
    pub fn spec(self) -> &'static RelationSpec {
        &SPECS[self as usize]
    }
}

const fn known(template: &'static str) -> Phrasing {
    Phrasing { familiarity: Familiarity::Known, template }
}

const fn rare(template: &'static str) -> Phrasing {
    Phrasing { familiarity: Familiarity::Rare, template }
}

const fn unknown(template: &'static str) -> Phrasing {
    Phrasing { familiarity: Familiarity::Unknown, template }
}

const fn spec(
    noun: &'static str,
    subject: EntityKind,
    object: EntityKind,
    phrasings: [Phrasing; PHRASINGS],
) -> RelationSpec {
    RelationSpec { noun, subject, object, phrasings }
}

use EntityKind as Kind;

/// In the order of [`Relation::ALL`].
static SPECS: [RelationSpec; 14] = [
    spec(
        "birthplace",
        Kind::Person,
        Kind::City,
        [
            known("Where was {x} born?"),
            unknown("{x} first saw light in what place?"),
            known("In which city was {x} born?"),
            rare("Which town did {x} come from?"),
            unknown("Where did the cradle of {x} stand?"),
        ],
    ),
    spec(
        "employer",
        Kind::Person,
        Kind::Company,
        [
            unknown("Whose payroll lists {x}?"),
            known("Which company employs {x}?"),
            rare("Who pays the wages of {x}?"),
            unknown("What firm has {x} on staff?"),
            known("For which company does {x} work?"),
        ],
    ),
    spec(
        "spouse",
        Kind::Person,
        Kind::Person,
        [
            rare("With whom did {x} exchange rings?"),
            unknown("Whose hand did {x} win?"),
            unknown("Who shares a home with {x}?"),
            known("Who is married to {x}?"),
            known("Whom did {x} marry?"),
        ],
    ),
    spec(
        "mentor",
        Kind::Person,
        Kind::Person,
        [
            unknown("Under whose wing did {x} grow?"),
            unknown("Who showed {x} the ropes?"),
            known("Who taught {x}?"),
            rare("Whose pupil was {x}?"),
            known("Who was the teacher of {x}?"),
        ],
    ),
    spec(
        "profession",
        Kind::Person,
        Kind::Profession,
        [
            known("What does {x} do for a living?"),
            unknown("By what craft is {x} called?"),
            rare("What trade does {x} follow?"),
            known("What is the job of {x}?"),
            unknown("How does {x} earn bread?"),
        ],
    ),
    spec(
        "headquarters",
        Kind::Company,
        Kind::City,
        [
            unknown("Where do the directors of {x} gather?"),
            known("Where is {x} based?"),
            unknown("Where does {x} hang its sign?"),
            rare("Which city houses the offices of {x}?"),
            known("In which city is {x} based?"),
        ],
    ),
    spec(
        "founder",
        Kind::Company,
        Kind::Person,
        [
            unknown("Whose dream was {x}?"),
            known("Who started {x}?"),
            known("Who created {x}?"),
            unknown("Who laid the first stone of {x}?"),
            rare("Whose idea became {x}?"),
        ],
    ),
    spec(
        "sector",
        Kind::Company,
        Kind::Sector,
        [
            rare("What business is {x} in?"),
            unknown("What fills the books of {x}?"),
            known("In which industry is {x} active?"),
            unknown("What line does {x} pursue?"),
            known("Which industry does {x} serve?"),
        ],
    ),
    spec(
        "country",
        Kind::City,
        Kind::Country,
        [
            known("In which nation does {x} lie?"),
            known("Which nation does {x} belong to?"),
            rare("Which land holds {x}?"),
            unknown("Under what flag does {x} sleep?"),
            unknown("Whose soil carries {x}?"),
        ],
    ),
    spec(
        "mayor",
        Kind::City,
        Kind::Person,
        [
            unknown("Who keeps the keys to {x}?"),
            rare("Who heads the council of {x}?"),
            known("Who governs {x}?"),
            unknown("Whose portrait hangs in the hall of {x}?"),
            known("Who runs the city of {x}?"),
        ],
    ),
    spec(
        "capital",
        Kind::Country,
        Kind::City,
        [
            known("From which city is {x} ruled?"),
            unknown("Where do all roads of {x} meet?"),
            known("Which city is the seat of {x}?"),
            unknown("Where does the parliament of {x} gather?"),
            rare("Which is the first city of {x}?"),
        ],
    ),
    spec(
        "currency",
        Kind::Country,
        Kind::Currency,
        [
            unknown("What jingles in the pockets of {x}?"),
            known("What money is used in {x}?"),
            unknown("In what are debts settled across {x}?"),
            known("With which money do people pay in {x}?"),
            rare("Which coin do the banks of {x} issue?"),
        ],
    ),
    spec(
        "language",
        Kind::Country,
        Kind::Language,
        [
            known("What do people speak in {x}?"),
            rare("Which tongue is heard in {x}?"),
            known("Which speech is spoken in {x}?"),
            unknown("How do poets write across {x}?"),
            unknown("What are lullabies of {x} sung in?"),
        ],
    ),
    spec(
        "president",
        Kind::Country,
        Kind::Person,
        [
            known("Who leads the state of {x}?"),
            unknown("Whose face is on the stamps of {x}?"),
            rare("Who commands the army of {x}?"),
            unknown("Who signs the laws of {x}?"),
            known("Who is the leader of {x}?"),
        ],
    ),
];
