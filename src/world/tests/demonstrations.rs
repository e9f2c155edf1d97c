use std::collections::{BTreeMap, BTreeSet};

use super::super::config::{DemonstrationMix, PhrasingChoice};
use super::super::*;
use super::world;
use crate::trajectory::Action;

#[test]
fn each_demonstrated_word_can_be_copied_and_the_plan_shrinks_from_the_right() {
    let world = world();
    let mix = DemonstrationMix::default();
    let shown = world.demonstrations(&mix, Split::Train, 500, 4).unwrap();
    for demonstration in shown {
        let (last, asks) = demonstration.turns.split_last().unwrap();
        assert_eq!(asks.len(), demonstration.task.hops.unwrap() as usize);
        assert_eq!(last.action, Action::Answer(demonstration.task.golds[0].clone()));
        assert_eq!(last.reply, None);
        let mut context = demonstration.task.question.replace('?', "");
        for turn in asks {
            let Action::Prompt(prompt) = &turn.action else { panic!("{turn:?}") };
            let (_, about) = turn.think.rsplit_once(" of ").unwrap();
            let about = about.split(", then").next().unwrap();
            assert!(context.contains(about), "{about} is not in {context}");
            assert!(prompt.contains(about));
            let reply = turn.reply.as_ref().unwrap();
            context = format!("{context} {reply}");
        }
        for name in last.think.split(" and ") {
            assert!(context.contains(name), "{name} is not in {context}");
        }
    }
}

#[test]
fn demonstrations_read_as_documented() {
    let world = world();
    let rendered = |kind, affirmative, seed| {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let task = Sampler::new(&world, Split::Train).draw(kind, affirmative, &mut rng).unwrap();
        let mut lines = vec![task.task.question.clone()];
        let mix = DemonstrationMix::default();
        for turn in world.demonstrate(&task, &mix, &mut rng).turns {
            lines.push(format!("{} | {:?} | {:?}", turn.think, turn.action, turn.reply));
        }
        lines.join("\n")
    };
    insta::assert_snapshot!(rendered(TaskKind::Chain(3), true, 1), @r#"
    What is Thebex's founder's mentor's birthplace?
    founder of Thebex | Prompt("Who started Thebex?") | Some("Pino Nunov")
    mentor of Pino Nunov | Prompt("Who was the teacher of Pino Nunov?") | Some("Breko Stulov")
    birthplace of Breko Stulov | Prompt("Where was Breko Stulov born?") | Some("Silville")
    Silville | Answer("Silville") | None
    "#);
    insta::assert_snapshot!(rendered(TaskKind::Comparison, true, 2), @r#"
    Are Hodex and Losex based in the same country?
    headquarters of Hodex | Prompt("Where is Hodex based?") | Some("Dovton")
    country of Dovton | Prompt("In which nation does Dovton lie?") | Some("Driruna")
    headquarters of Losex | Prompt("In which city is Losex based?") | Some("Tudton")
    country of Tudton | Prompt("In which nation does Tudton lie?") | Some("Driruna")
    Driruna and Driruna | Answer("yes") | None
    "#);
    insta::assert_snapshot!(rendered(TaskKind::Check, false, 3), @r#"
    Was Jinis Finek born in the city Vubford?
    birthplace of Jinis Finek | Prompt("In which city was Jinis Finek born?") | Some("Sorville")
    Sorville and Vubford | Answer("no") | None
    "#);
    insta::assert_snapshot!(rendered(TaskKind::CheckBoth, false, 3), @r#"
    Were Jenel Tisek and Juven Totov born in the city Jivville?
    birthplace of Jenel Tisek | Prompt("Where was Jenel Tisek born?") | Some("Guldam")
    birthplace of Juven Totov | Prompt("In which city was Juven Totov born?") | Some("Thummar")
    Guldam and Thummar and Jivville | Answer("no") | None
    "#);
}

#[test]
fn a_mix_shows_what_its_shares_say() {
    let world = world();
    let mix = DemonstrationMix {
        min_hops: 1,
        max_hops: 3,
        comparison_share: 0.0,
        check_share: 0.25,
        check_both_share: 0.0,
        all_at_once_share: 0.5,
        asked_twice_share: 0.0,
        phrasings: PhrasingChoice::Uniform,
    };
    let shown = world.demonstrations(&mix, Split::Train, 4_000, 4).unwrap();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let mut hops: BTreeMap<u32, usize> = BTreeMap::new();
    let mut wordings = [0_usize; PHRASINGS];
    let phrasing_of: BTreeMap<String, usize> =
        world.single_facts().map(|fact| (fact.question, fact.phrasing)).collect();
    let mut all_at_once = 0;
    for demonstration in &shown {
        let kind = demonstration.task.kind.clone().unwrap();
        if kind != "check" {
            *hops.entry(demonstration.task.hops.unwrap()).or_default() += 1;
        }
        *kinds.entry(kind).or_default() += 1;
        if demonstration.turns[0].think == "the whole question" {
            all_at_once += 1;
            assert_eq!(demonstration.turns.len(), 2);
            let question = demonstration.task.question.clone();
            assert_eq!(demonstration.turns[0].action, Action::Prompt(question));
            let guess = demonstration.turns[0].reply.clone().unwrap();
            assert_eq!(demonstration.turns[1].action, Action::Answer(guess));
            continue;
        }
        for turn in &demonstration.turns {
            let Action::Prompt(prompt) = &turn.action else { continue };
            wordings[phrasing_of[prompt]] += 1;
        }
    }
    assert_eq!(kinds.keys().collect::<Vec<_>>(), ["chain", "check", "single"]);
    assert!((900..1100).contains(&kinds["check"]), "{kinds:?}");
    assert!((1900..2100).contains(&all_at_once), "{all_at_once}");
    assert_eq!(hops.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    assert!(hops.values().all(|count| (900..1100).contains(count)), "{hops:?}");
    let share = wordings.iter().sum::<usize>() / PHRASINGS;
    assert!(wordings.iter().all(|count| count.abs_diff(share) < share / 8), "{wordings:?}");
}

#[test]
fn a_doubted_fact_is_asked_for_again_in_another_wording() {
    let world = world();
    let mix = DemonstrationMix { asked_twice_share: 0.25, ..DemonstrationMix::default() };
    let (mut asked, mut again) = (0, 0);
    for demonstration in world.demonstrations(&mix, Split::Train, 2_000, 4).unwrap() {
        for pair in demonstration.turns.windows(2) {
            if pair[0].think == pair[1].think && pair[1].reply.is_some() {
                assert_ne!(pair[0].action, pair[1].action);
                assert_eq!(pair[0].reply, pair[1].reply);
                again += 1;
            }
        }
        asked += demonstration.task.hops.unwrap();
    }
    let share = f64::from(again) / f64::from(asked);
    assert!((share - 0.25).abs() < 0.03, "{share}");
}

#[test]
fn known_only_prompts_are_ones_that_the_large_model_was_trained_on() {
    let world = world();
    let trained: BTreeSet<String> = world
        .single_facts()
        .filter(|fact| fact.familiarity == Familiarity::Known)
        .map(|fact| fact.question)
        .collect();
    let mix = DemonstrationMix::default();
    for demonstration in world.demonstrations(&mix, Split::Train, 300, 1).unwrap() {
        for turn in demonstration.turns {
            if let Action::Prompt(prompt) = turn.action {
                assert!(trained.contains(&prompt), "{prompt}");
            }
        }
    }
}

#[test]
fn a_mix_out_of_range_is_refused_by_field() {
    let world = world();
    let base = DemonstrationMix::default;
    for (mix, field) in [
        (DemonstrationMix { min_hops: 0, ..base() }, "min_hops..max_hops"),
        (DemonstrationMix { max_hops: 6, ..base() }, "min_hops..max_hops"),
        (DemonstrationMix { all_at_once_share: 1.5, ..base() }, "all_at_once_share"),
        (DemonstrationMix { check_share: -0.1, ..base() }, "check_share"),
        (
            DemonstrationMix { check_share: 0.6, comparison_share: 0.6, ..base() },
            "comparison_share + check_share + check_both_share",
        ),
    ] {
        let error = world.demonstrations(&mix, Split::Train, 1, 0).unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{field}` is ")), "{error}");
    }
}
