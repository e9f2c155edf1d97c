#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};

use super::question::COMPARISONS;
use super::*;

mod demonstrations;

const KINDS: [TaskKind; 8] = [
    TaskKind::Single,
    TaskKind::Chain(2),
    TaskKind::Chain(3),
    TaskKind::Chain(4),
    TaskKind::Chain(5),
    TaskKind::Comparison,
    TaskKind::Check,
    TaskKind::CheckBoth,
];

fn world() -> World {
    World::generate(&WorldConfig::default()).unwrap()
}

fn written(world: &World, fact: &Fact) -> String {
    format!(
        "{} of {} is {}",
        fact.relation.spec().noun,
        world.name(fact.subject),
        world.name(fact.object)
    )
}

#[test]
fn the_default_world_is_large_enough_and_never_changes_unnoticed() {
    let world = world();
    let facts: Vec<String> = world.facts().map(|fact| written(&world, &fact)).collect();
    assert_eq!(facts.len(), 3016);
    // The bundled models know this world: a changed hash needs new models.
    assert_eq!(format!("{:016x}", stable_hash(&facts.join("\n"))), "bf012c55d2473c7b");
    let asked: Vec<String> = world
        .sample_tasks(Split::Test, &KINDS, 70, 5)
        .unwrap()
        .into_iter()
        .map(|drawn| format!("{} {} {:?}", drawn.task.id, drawn.task.question, drawn.task.golds))
        .collect();
    assert_eq!(format!("{:016x}", stable_hash(&asked.join("\n"))), "e4e17d12d6078890");
}

#[test]
fn another_seed_is_another_world_and_any_size_can_be_made() {
    let other = WorldConfig { seed: 2, ..WorldConfig::default() };
    assert_ne!(World::generate(&other).unwrap(), world());
    let small = WorldConfig { people: 4, companies: 2, cities: 2, countries: 2, seed: 3 };
    assert_eq!(World::generate(&small).unwrap().facts().count(), 4 * 5 + 2 * 3 + 2 * 2 + 2 * 4);
    let large = WorldConfig { people: 20_000, companies: 5_000, ..WorldConfig::default() };
    let large = World::generate(&large).unwrap();
    let names: BTreeSet<&str> =
        large.entities(EntityKind::Person).map(|person| large.name(person)).collect();
    assert_eq!(names.len(), 20_000);
}

#[test]
fn impossible_configurations_are_refused_by_field() {
    let base = WorldConfig::default;
    for (config, field) in [
        (WorldConfig { people: 481, ..base() }, "people"),
        (WorldConfig { people: 2, ..base() }, "people"),
        (WorldConfig { companies: 1, ..base() }, "companies"),
        (WorldConfig { countries: 1, ..base() }, "countries"),
        (WorldConfig { cities: 23, ..base() }, "cities"),
    ] {
        let error = World::generate(&config).unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{field}` is ")), "{error}");
    }
}

#[test]
fn words_are_distinct_whatever_their_case_and_few_enough_to_be_tokens() {
    let world = world();
    let mut words: BTreeSet<String> = question::words().collect();
    let template_words = words.len();
    for kind in [
        EntityKind::Company,
        EntityKind::City,
        EntityKind::Country,
        EntityKind::Currency,
        EntityKind::Language,
        EntityKind::Profession,
        EntityKind::Sector,
    ] {
        for entity in world.entities(kind) {
            let name = world.name(entity);
            assert!(name.chars().all(|c| c.is_ascii_alphabetic()), "`{name}` is not one word");
            assert!(words.insert(name.to_lowercase()), "`{name}` occurs twice");
        }
    }
    let mut firsts = BTreeSet::new();
    let mut lasts = BTreeSet::new();
    for person in world.entities(EntityKind::Person) {
        let (first, last) = world.name(person).split_once(' ').unwrap();
        firsts.insert(first.to_lowercase());
        lasts.insert(last.to_lowercase());
    }
    assert!(firsts.len() <= 60 && lasts.len() <= 90);
    for word in firsts.iter().chain(&lasts) {
        assert!(words.insert(word.clone()), "`{word}` occurs twice");
    }
    assert!(words.len() <= 750, "{} words, {template_words} of them in templates", words.len());
}

#[test]
fn facts_respect_their_kinds_and_the_shape_of_an_atlas() {
    let world = world();
    for fact in world.facts() {
        let spec = fact.relation.spec();
        assert_eq!((fact.subject.kind, fact.object.kind), (spec.subject, spec.object));
        assert!(!world.name(fact.object).is_empty());
        assert_ne!(fact.subject, fact.object);
        match fact.relation {
            Relation::Spouse => {
                assert_eq!(world.object(Relation::Spouse, fact.object), Some(fact.subject));
            }
            Relation::Capital => {
                assert_eq!(world.object(Relation::Country, fact.object), Some(fact.subject));
            }
            _ => {}
        }
    }
    let city = world.entities(EntityKind::City).next().unwrap();
    assert_eq!(world.object(Relation::Spouse, city), None);
}

#[test]
fn relations_stand_in_the_order_in_which_they_are_indexed() {
    for (index, relation) in Relation::ALL.into_iter().enumerate() {
        assert_eq!(relation as usize, index);
        let name = serde_json::to_value(relation).unwrap();
        assert_eq!(name, relation.spec().noun);
    }
}

#[test]
fn phrasings_are_two_known_one_rare_two_unknown_in_no_fixed_order() {
    let mut orders = BTreeSet::new();
    let mut templates = BTreeSet::new();
    for relation in Relation::ALL {
        let phrasings = &relation.spec().phrasings;
        let order: Vec<Familiarity> = phrasings.iter().map(|p| p.familiarity).collect();
        let count = |f: Familiarity| order.iter().filter(|&&other| other == f).count();
        assert_eq!(count(Familiarity::Known), 2, "{relation:?}");
        assert_eq!(count(Familiarity::Rare), 1, "{relation:?}");
        orders.insert(order);
        for phrasing in phrasings {
            let template = phrasing.template;
            assert_eq!(template.matches("{x}").count(), 1, "{template}");
            assert!(phrasing.question("Ana Vel").split(' ').count() <= 10, "{template}");
            assert!(templates.insert(template), "`{template}` occurs twice");
        }
    }
    assert!(orders.len() >= 8, "only {} orders", orders.len());
    for index in 0..PHRASINGS {
        let known = Relation::ALL
            .into_iter()
            .filter(|r| r.spec().phrasings[index].familiarity == Familiarity::Known)
            .count();
        assert!((3..=9).contains(&known), "{known} of 14 know the phrasing at {index}");
    }
}

#[test]
fn unknown_phrasings_share_no_content_word_with_known_ones_of_the_same_relation() {
    const FUNCTION_WORDS: &str = "a across all are at by did do does first for from has how in is \
        its of on people the to under was what where which who whom whose with";
    let function_words: BTreeSet<&str> = FUNCTION_WORDS.split(' ').collect();
    for relation in Relation::ALL {
        let content = |familiarity: Familiarity| -> BTreeSet<String> {
            let phrasings = relation.spec().phrasings.iter();
            phrasings
                .filter(|phrasing| phrasing.familiarity == familiarity)
                .flat_map(|phrasing| phrasing.template.split(' '))
                .filter(|word| !word.contains('{'))
                .map(|word| word.trim_end_matches('?').to_lowercase())
                .filter(|word| !function_words.contains(word.as_str()))
                .collect()
        };
        let shared: Vec<_> = content(Familiarity::Known)
            .intersection(&content(Familiarity::Unknown))
            .cloned()
            .collect();
        assert!(shared.is_empty(), "{relation:?} shares {shared:?}");
    }
}

#[test]
fn the_large_model_is_trained_on_all_known_a_tenth_of_rare_and_no_unknown_wordings() {
    let world = world();
    let mut trained: BTreeMap<Familiarity, (usize, usize)> = BTreeMap::new();
    for fact in world.single_facts() {
        let entry = trained.entry(fact.familiarity).or_default();
        entry.0 += usize::from(fact.trained);
        entry.1 += 1;
    }
    assert_eq!(trained[&Familiarity::Known], (6032, 6032));
    assert_eq!(trained[&Familiarity::Unknown], (0, 6032));
    let (rare, all) = trained[&Familiarity::Rare];
    assert_eq!(all, 3016);
    assert!((250..=350).contains(&rare), "{rare} rare ones");
}

/// Follows the nouns of "What is Ana Vel's a's b?" from the left, by the facts alone.
fn answer_by_walking(world: &World, question: &str) -> String {
    let body =
        question.trim_end_matches('?').trim_start_matches("What is ").trim_start_matches("Who is ");
    let (start, nouns) = body.split_once("'s ").unwrap();
    let mut name = start.to_owned();
    for noun in nouns.split("'s ") {
        let fact = world
            .facts()
            .find(|fact| fact.relation.spec().noun == noun && world.name(fact.subject) == name)
            .unwrap_or_else(|| panic!("no {noun} of {name}"));
        name = world.name(fact.object).to_owned();
    }
    name
}

#[test]
fn every_gold_follows_from_the_facts() {
    let world = world();
    for split in [Split::Train, Split::Test] {
        for drawn in world.sample_tasks(split, &KINDS, 800, 11).unwrap() {
            let task = &drawn.task;
            assert_eq!(&*task.source, "world");
            assert_eq!(task.hops, Some(u32::try_from(drawn.plan.len()).unwrap()));
            for step in &drawn.plan {
                assert_eq!(world.object(step.relation, step.subject), Some(step.object));
            }
            match task.kind.as_deref().unwrap() {
                "chain" => {
                    assert_eq!(task.golds, [answer_by_walking(&world, &task.question)]);
                    let mut seen: BTreeSet<Entity> =
                        drawn.plan.iter().map(|step| step.object).collect();
                    seen.insert(drawn.plan[0].subject);
                    assert_eq!(seen.len(), drawn.plan.len() + 1, "{} turns back", task.question);
                }
                "comparison" => {
                    let (a, b) = drawn.plan.split_at(drawn.plan.len() / 2);
                    assert_ne!(a[0].subject, b[0].subject);
                    let same = a.last().unwrap().object == b.last().unwrap().object;
                    assert_eq!(task.golds, [if same { "yes" } else { "no" }]);
                    assert!(task.question.contains(world.name(a[0].subject)));
                    assert!(task.question.contains(world.name(b[0].subject)));
                }
                "check_both" => {
                    let (a, b) = drawn.plan.split_at(drawn.plan.len() / 2);
                    let asked = |half: &[Step]| {
                        let end = world.name(half.last().unwrap().object);
                        task.question.ends_with(&format!(" {end}?"))
                    };
                    assert_eq!(task.golds, [if asked(a) && asked(b) { "yes" } else { "no" }]);
                    let about = [a, b].map(|half| world.name(half[0].subject)).join(" and ");
                    assert!(task.question.contains(&about), "{}", task.question);
                }
                "check" => {
                    let end = world.name(drawn.plan.last().unwrap().object);
                    let asked = task.question.ends_with(&format!(" {end}?"));
                    assert_eq!(task.golds, [if asked { "yes" } else { "no" }]);
                }
                "single" => assert_eq!(task.golds, [world.name(drawn.plan[0].object)]),
                other => panic!("unexpected kind `{other}`"),
            }
        }
    }
}

#[test]
fn chains_of_each_length_cover_every_relation() {
    let world = world();
    for hops in 2..=MAX_HOPS {
        let tasks = world.sample_tasks(Split::Train, &[TaskKind::Chain(hops)], 600, 3).unwrap();
        let used: BTreeSet<Relation> =
            tasks.iter().flat_map(|drawn| drawn.plan.iter().map(|step| step.relation)).collect();
        assert_eq!(used.len(), Relation::ALL.len(), "at {hops} hops");
    }
}

#[test]
fn the_splits_share_nothing_and_test_is_about_a_fifth() {
    let world = world();
    let about = |drawn: WorldTask| drawn.task.id.split('#').next().unwrap().to_owned();
    for kind in KINDS {
        let draw = |split, seed| -> BTreeSet<String> {
            let tasks = world.sample_tasks(split, &[kind], 400, seed).unwrap();
            tasks.into_iter().map(about).collect()
        };
        assert_eq!(draw(Split::Train, 1).intersection(&draw(Split::Test, 2)).count(), 0);
    }
    let sides = world.facts().map(|fact| stable_hash(&written(&world, &fact)).is_multiple_of(5));
    let share = sides.filter(|&test| test).count() as f64 / 3016.0;
    assert!((0.17..0.23).contains(&share), "{share}");
}

#[test]
fn a_pair_is_on_one_side_of_the_split_whichever_is_named_first() {
    let world = world();
    let pair = |drawn: &WorldTask| {
        let half = drawn.plan.len() / 2;
        let (a, b) = (drawn.plan[0].subject, drawn.plan[half].subject);
        (drawn.plan[half - 1].relation, half, a.min(b), a.max(b))
    };
    let kinds = [TaskKind::Comparison];
    let pairs = |split, seed| -> BTreeSet<_> {
        world.sample_tasks(split, &kinds, 800, seed).unwrap().iter().map(pair).collect()
    };
    assert_eq!(pairs(Split::Train, 1).intersection(&pairs(Split::Test, 2)).count(), 0);
}

#[test]
fn samples_are_distinct_repeatable_and_balanced() {
    let world = world();
    for kind in [TaskKind::Comparison, TaskKind::Check] {
        let sample = world.sample_tasks(Split::Test, &[kind], 400, 9).unwrap();
        assert_eq!(sample, world.sample_tasks(Split::Test, &[kind], 400, 9).unwrap());
        assert_ne!(sample, world.sample_tasks(Split::Test, &[kind], 400, 10).unwrap());
        let ids: BTreeSet<_> = sample.iter().map(|drawn| &drawn.task.id).collect();
        assert_eq!(ids.len(), 400);
        let yes = sample.iter().filter(|drawn| drawn.task.golds == ["yes"]).count();
        assert_eq!(yes, 200);
    }
    let templates: BTreeSet<Vec<Relation>> = world
        .sample_tasks(Split::Test, &[TaskKind::Comparison], 400, 9)
        .unwrap()
        .into_iter()
        .map(|drawn| drawn.plan[..drawn.plan.len() / 2].iter().map(|s| s.relation).collect())
        .collect();
    assert_eq!(templates.len(), COMPARISONS.len());
}

#[test]
fn too_many_questions_of_a_small_world_are_an_error_not_a_hang() {
    let config = WorldConfig { people: 4, companies: 2, cities: 2, countries: 2, seed: 3 };
    let world = World::generate(&config).unwrap();
    let error = world.sample_tasks(Split::Test, &[TaskKind::Chain(5)], 5_000, 0).unwrap_err();
    assert!(error.to_string().contains("too few questions of kind `chain`"), "{error}");
    assert!(world.sample_tasks(Split::Test, &[TaskKind::Chain(6)], 1, 0).is_err());
    assert!(world.sample_tasks(Split::Test, &[], 3, 0).unwrap().is_empty());
}

#[test]
fn the_corpus_holds_every_word() {
    let world = world();
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_alphabetic()).map(str::to_lowercase).collect()
    };
    let corpus: BTreeSet<String> =
        world.vocabulary_corpus(300, 1).unwrap().iter().flat_map(|line| words(line)).collect();
    for drawn in world.sample_tasks(Split::Test, &KINDS, 800, 1).unwrap() {
        for word in words(&drawn.task.question) {
            assert!(corpus.contains(&word), "`{word}` is missing");
        }
    }
    for word in question::words().chain(words("the whole question and")) {
        assert!(corpus.contains(&word), "`{word}` is missing");
    }
}
