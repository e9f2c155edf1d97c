#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::eval::data::{Question, Questions};
use crate::eval::metric_choice::Metric;
use crate::eval::rows::{ArmAnswer, CutTexts, Outcome};
use crate::eval::run::Outcomes;
use crate::eval::score::{Scorer, Scores};
use crate::eval::search::Tried;
use crate::reward::{AnswerMetric, Normalization};
use crate::task::Task;

fn question(index: usize, source: &str, metric: Metric) -> Question {
    let task = Task {
        id: index.to_string(),
        question: format!("<b>{index}</b> & \"so\"?"),
        golds: vec!["right".into()],
        source: source.into(),
        kind: Some("chain".into()),
        hops: Some(2 + (index % 2) as u32),
    };
    Question { task, metric }
}

fn answered(answer: &str, calls: u64) -> Outcome {
    let mut attempt =
        ArmAnswer { answer: answer.into(), finish: "answered".into(), ..ArmAnswer::default() };
    attempt.usage.large_model.calls = calls;
    attempt.cut_off = Some(CutTexts::default());
    attempt.steps = vec![AnswerStep::Reply("</script><script>alert(1)</script>".into())];
    Outcome::Answered(attempt)
}

fn failed() -> Outcome {
    Outcome::Failed { error: "it is | down\nfor good".into(), usage: EpisodeUsage::default() }
}

/// Of 40 questions the first arm answers the first 10 right, the second the first 30; on the last
/// four the second fails.
fn report() -> Report {
    let questions: Vec<Question> =
        (0..40).map(|index| question(index, "world", Metric::Text(AnswerMetric::Exact))).collect();
    let outcomes = (0..40)
        .map(|index| {
            let word = |right| if right { "right" } else { "wrong" };
            let second = if index < 36 { answered(word(index < 30), 3) } else { failed() };
            vec![answered(word(index < 10), 1), second]
        })
        .collect();
    built(questions, outcomes)
}

fn built(questions: Vec<Question>, outcomes: Vec<Vec<Outcome>>) -> Report {
    let scores = scored(&questions, &outcomes);
    let questions = Questions { questions, warnings: vec!["<careful>".into()], notes: Vec::new() };
    build(&input(&questions, &outcomes, &scores))
}

fn scored(questions: &[Question], outcomes: &Outcomes) -> Scores {
    let (scorer, stop) = (Scorer::new(Normalization::default()), CancellationToken::new());
    let scoring = scorer.score_all(questions, outcomes, 1, &stop, || {});
    tokio::runtime::Runtime::new().unwrap().block_on(scoring).unwrap()
}

fn arms() -> &'static [(String, String)] {
    static ARMS: LazyLock<[(String, String); 2]> = LazyLock::new(|| {
        [("a|b".into(), "prompt-search".into()), ("policy".into(), "policy:x".into())]
    });
    &*ARMS
}

fn input<'a>(
    questions: &'a Questions,
    outcomes: &'a Outcomes,
    scores: &'a Scores,
) -> ReportInput<'a> {
    ReportInput {
        title: "T <1>",
        large_model: "m",
        arms: arms(),
        questions,
        outcomes,
        normalization: Normalization::Strict,
        scores,
        judge: None,
        search: None,
        seed: 1,
        episodes: 5,
    }
}

#[test]
fn failures_count_in_no_score() {
    let report = report();
    let second = &report.arms[1];
    assert_eq!((second.answered, second.failed), (36, 4));
    let cell = second.score.unwrap();
    assert_eq!((cell.n, cell.mean), (36, 30.0 / 36.0));
    assert!(cell.interval.low < cell.mean && cell.mean < cell.interval.high);
    assert_eq!(second.calls, 3.0);
    assert_eq!(report.warnings.len(), 2);
    assert!(report.warnings[1].contains("`policy` has no score on 4 of 40"), "{report:?}");
    assert_eq!(report.failures.len(), 1);
    assert_eq!((report.failures[0].count, report.failures[0].example.as_str()), (4, "36"));
}

#[test]
fn pairs_are_compared_on_what_both_answered() {
    let report = report();
    let [found] = &report.comparisons[..] else { unreachable!("{:?}", report.comparisons) };
    assert_eq!((found.n, found.discordant), (36, Some((0, 20))));
    assert!((found.difference - 20.0 / 36.0).abs() < 1e-12);
    // Two tails of 2^-20.
    assert!((found.p - 2.0_f64.powi(-19)).abs() < 1e-18);
    assert_eq!(found.p, found.p_holm);
    assert!(found.is_settled());
    assert_eq!(found.questions_needed, None);
}

#[test]
fn an_open_difference_says_how_many_questions_it_needs() {
    let questions: Vec<Question> =
        (0..20).map(|index| question(index, "own", Metric::Text(AnswerMetric::F1))).collect();
    let outcomes = (0..20)
        .map(|index| {
            let first = if index < 5 { "right" } else { "no" };
            let second = if (3..10).contains(&index) { "right or so" } else { "no" };
            vec![answered(first, 1), answered(second, 1)]
        })
        .collect();
    let report = built(questions, outcomes);
    let found = &report.comparisons[0];
    assert_eq!(found.test, "permutation");
    assert!(!found.is_settled());
    assert!(found.questions_needed.unwrap() > 20);
    assert_eq!(found.discordant, None);
}

#[test]
fn several_data_sets_are_compared_each_and_together() {
    let sources = ["x", "y"];
    let questions: Vec<Question> = (0..40)
        .map(|index| question(index, sources[index % 2], Metric::Text(AnswerMetric::Exact)))
        .collect();
    let outcomes = (0..40).map(|_| vec![answered("right", 1), answered("no", 1)]).collect();
    let report = built(questions, outcomes);
    let scopes: Vec<&str> = report.comparisons.iter().map(|found| found.scope.as_str()).collect();
    assert_eq!(scopes, ["x", "y", "all questions"]);
    for found in &report.comparisons {
        assert!(found.p_holm >= found.p);
    }
    let smallest = report.comparisons.iter().map(|found| found.p).fold(1.0, f64::min);
    assert!(report.comparisons.iter().any(|found| found.p_holm == 3.0 * smallest));
    assert_eq!(
        report.tables.iter().map(|table| table.by.as_str()).collect::<Vec<_>>(),
        ["data set", "kind", "hops"]
    );
    let text = markdown(&report);
    assert!(text.contains("after Holm's correction for all 3 comparisons"), "{text}");
    assert!(text.contains("| p, uncorrected | p, Holm for 3 |"), "{text}");
}

#[test]
fn an_arm_that_failed_throughout_has_no_score() {
    let questions = vec![question(0, "world", Metric::Text(AnswerMetric::Exact))];
    let report = built(questions, vec![vec![answered("right", 1), failed()]]);
    assert_eq!(report.arms[1].score, None);
    assert!(report.comparisons.is_empty());
    assert!(markdown(&report).contains("| policy | – | 0 | 1 |"));
    assert!(html(&report).unwrap().contains("it is | down"));
}

#[test]
fn the_page_escapes_what_models_and_users_say() {
    let page = html(&report()).unwrap();
    assert!(!page.contains("alert(1)</script>"));
    assert!(!page.contains("<b>0</b>"));
    assert!(page.contains("<title>T &lt;1&gt;</title>"));
    // It fetches nothing.
    for outside in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(page.matches("<details").count(), 5);
    assert_eq!(page.matches("<figure").count(), 2);
}

#[test]
fn tables_hold_together_whatever_a_name_contains() {
    let text = markdown(&report());
    assert!(text.contains("| a\\|b |"), "{text}");
    assert!(text.contains("| 4 | it is \\| down for good | 36 |"), "{text}");
    assert!(text.contains("+55.6 ["), "{text}");
}

#[test]
fn the_report_is_written_in_three_forms() {
    let (report, folder) = (report(), tempfile::tempdir().unwrap());
    let page = write(&report, folder.path()).unwrap();
    assert_eq!(std::fs::read_to_string(page).unwrap(), html(&report).unwrap());
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read("report.md"), markdown(&report));
    assert_eq!(serde_json::from_str::<Report>(&read("report.json")).unwrap(), report);
}

#[test]
fn long_texts_are_cut_in_the_report_alone() {
    let long = format!("right {}", "ä".repeat(10_000_000));
    let questions = vec![question(0, "own", Metric::Text(AnswerMetric::F1))];
    let report = built(questions, vec![vec![answered(&long, 1), answered("right", 1)]]);
    assert_eq!(report.arms[0].score.unwrap().mean, 2.0 / 3.0);
    assert!(report.episodes[0].attempts[0].answer.len() < 9_000);
}

#[test]
fn a_search_is_paid_for_by_its_arm_and_a_judge_by_none() {
    let questions: Vec<Question> =
        (0..10).map(|index| question(index, "own", Metric::Judge)).collect();
    let outcomes: Vec<Vec<Outcome>> = (0..10)
        .map(|index| {
            vec![answered("right", 1), if index < 8 { answered("no", 2) } else { failed() }]
        })
        .collect();
    let mut scores = Scores {
        by_question: vec![vec![Some(Ok(0.5)), Some(Ok(1.0))]; 10],
        judge: CallUsage { calls: 18, cost: 3.0, ..CallUsage::default() },
    };
    scores.by_question[0][0] = Some(Err("no verdict".into()));
    (scores.by_question[8][1], scores.by_question[9][1]) = (None, None);
    let usage = CallUsage { calls: 90, cost: 20.0, ..CallUsage::default() };
    let tried = vec![Tried { prompt: "<p>".into(), round: 0, score: None, answered: 1 }];
    let found = SearchResult { prompt: "<p>".into(), tried, usage };
    let questions = Questions { questions, warnings: Vec::new(), notes: Vec::new() };
    let input = ReportInput {
        judge: Some("<judge>"),
        search: Some(&found),
        ..input(&questions, &outcomes, &scores)
    };
    let report = build(&input);
    let [first, second] = &report.arms[..] else { unreachable!() };
    assert_eq!((first.calls, first.cost, first.total.large_model.calls), (10.0, 2.0, 100));
    assert_eq!((second.calls, second.cost, second.total.large_model.calls), (2.0, 0.0, 16));
    assert_eq!((first.answered, first.failed, first.unscored), (10, 0, 1));
    assert_eq!((first.score.unwrap().n, first.score.unwrap().mean), (9, 0.5));
    assert_eq!(report.failures[0].error, "it is | down\nfor good");
    assert_eq!(
        (report.failures[1].error.as_str(), report.failures[1].count),
        ("not judged: no verdict", 1)
    );
    assert_eq!(report.comparisons[0].n, 7);
    assert_eq!(report.judge.as_ref().unwrap().usage.calls, 18);
    let text = markdown(&report);
    for part in ["90 calls of the prompt search", "\\<judge> in 18 calls", "as `strict`"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let page = html(&report).unwrap();
    assert!(
        page.contains("&lt;p&gt;") && page.contains("&lt;judge&gt;") && !page.contains("<p></div>")
    );
}

#[test]
fn what_the_large_model_writes_as_a_policy_is_its_use() {
    let questions: Vec<Question> =
        (0..2).map(|index| question(index, "own", Metric::Text(AnswerMetric::F1))).collect();
    let outcome = |turns: u64| {
        let Outcome::Answered(mut attempt) = answered("right", 1) else { unreachable!() };
        attempt.usage.policy.calls = turns;
        attempt.usage.policy.tokens.prompt_tokens = 100;
        attempt.usage.policy.tokens.completion_tokens = 10;
        attempt.usage.policy.cost = 0.5;
        vec![Outcome::Answered(attempt)]
    };
    let outcomes = vec![outcome(2), outcome(3)];
    let scores = scored(&questions, &outcomes);
    let questions = Questions { questions, warnings: Vec::new(), notes: Vec::new() };
    let of = |method: &str| {
        let arms = [("arm".to_owned(), method.to_owned())];
        build(&ReportInput { arms: &arms, ..input(&questions, &outcomes, &scores) })
    };
    let used = |report: &Report| {
        let arm = &report.arms[0];
        (arm.calls, arm.large_model_tokens, arm.policy_tokens, arm.cost)
    };
    let report = of("policy:x");
    assert_eq!(used(&report), (1.0, 0.0, 10.0, 0.5));
    assert_eq!(report.arms[0].policy_tokens_read, 100.0);
    // Both are counted where they are shown.
    assert!(markdown(&report).contains("| 1.00 | 0.0 | 110.0 | 0.500000 |"));
    assert!(html(&report).unwrap().contains("<td class=\"n\">110.0</td>"));
    let report = of("self-policy");
    assert_eq!(used(&report), (3.5, 110.0, 0.0, 0.5));
    let table = report.tables.iter().find(|table| table.by == "calls").unwrap();
    let rows: Vec<&str> = table.rows.iter().map(|row| row.label.as_str()).collect();
    assert_eq!(rows, ["3 calls", "4 calls"]);
}

#[test]
fn texts_that_were_cut_off_are_counted_and_warned_of() {
    let questions: Vec<Question> =
        (0..4).map(|index| question(index, "own", Metric::Text(AnswerMetric::Exact))).collect();
    let outcome = |cut_off: Option<CutTexts>, micros: Option<u64>| {
        let Outcome::Answered(attempt) = answered("right", 1) else { unreachable!() };
        Outcome::Answered(ArmAnswer { cut_off, micros, ..attempt })
    };
    let cut = |replies, turns| Some(CutTexts { replies, turns });
    let outcomes = vec![
        vec![outcome(cut(1, 0), Some(1_000_000)), outcome(cut(0, 1), None)],
        vec![outcome(cut(2, 0), Some(9_000_000)), outcome(cut(2, 0), None)],
        vec![outcome(cut(0, 0), Some(2_000_000)), outcome(None, None)],
        vec![outcome(cut(0, 0), Some(2_500_000)), failed()],
    ];
    let report = built(questions, outcomes);
    let [first, second] = &report.arms[..] else { unreachable!() };
    let counts =
        |arm: &ArmSummary| (arm.cut_replies, arm.cut_turns, arm.cut_answers, arm.cut_unknown);
    assert_eq!((counts(first), counts(second)), ((3, 0, 2, 0), (2, 1, 2, 1)));
    assert_eq!((first.median_seconds, second.median_seconds), (Some(2.25), None));
    let expected = [
        "`a|b`: 3 replies of the large model cut off in 2 of 4 answers, which are scored like complete ones: raise `params.max_tokens` of the large model `m`; the questions are then asked again",
        "`policy`: 2 replies of the large model and 1 turn of the policy cut off in 2 of 3 answers, which are scored like complete ones: raise `params.max_tokens` of the large model `m` and `episode.max_turn_tokens`; the questions are then asked again",
        "`policy`: 1 of 3 answers are of an earlier version, which did not count what was cut off",
    ];
    // After the one about the questions, and that of the failure.
    assert_eq!(report.warnings[2..], expected);
    let text = markdown(&report);
    assert!(text.contains("| 4 | 0 | 3 | 1.00 | 0.0 | 0.0 | 0 | 2.250 |"), "{text}");
    assert!(text.contains("| 3 | 1 | 2 and 1 turn or more | 1.00 | 0.0 | 0.0 | 0 | – |"), "{text}");
    let page = html(&report).unwrap();
    assert!(page.contains("<td class=\"n bad\">2 and 1 turn or more</td>"), "{page}");
    for (text, warnings, arms) in
        [(&text, "## Warnings", "## Arms"), (&page, "<h2>Warnings", "<h2>Arms")]
    {
        let at = |what: &str| text.find(what).unwrap();
        assert!(at(warnings) < at("in 2 of 4 answers") && at("in 2 of 4 answers") < at(arms));
    }
}

#[test]
fn a_figure_has_one_interval_in_every_table() {
    let report = report();
    let in_tables = report.tables.iter().flat_map(|table| &table.rows);
    let in_tables = in_tables.flat_map(|row| row.cells.iter().flatten());
    let of_arms = report.arms.iter().filter_map(|arm| arm.score.as_ref());
    let cells: Vec<&Cell> = in_tables.chain(of_arms).collect();
    for cell in &cells {
        let alike = cells.iter().filter(|other| (other.n, other.mean) == (cell.n, cell.mean));
        assert!(alike.map(|other| other.interval).all(|other| other == cell.interval), "{cell:?}");
    }
    // Of 30 in 36, after Wilson.
    let Interval { low, high } = report.arms[1].score.unwrap().interval;
    assert!((low - 0.681_092_057).abs() < 1e-8 && (high - 0.921_295_524).abs() < 1e-8);
    for text in [markdown(&report), html(&report).unwrap()] {
        assert!(text.contains(&report.interval_method), "{text}");
        assert!(text.contains("95 % bootstrap intervals"), "{text}");
    }
}

#[test]
fn attempts_are_distinguished_by_their_calls() {
    let questions: Vec<Question> =
        (0..12).map(|index| question(index, "world", Metric::Text(AnswerMetric::Exact))).collect();
    let outcomes = (0..12)
        .map(|index| {
            let word = if index % 3 == 0 { "wrong" } else { "right" };
            vec![answered("right", 1), answered(word, 1 + index as u64 % 3)]
        })
        .collect();
    let report = built(questions, outcomes);
    let table = report.tables.iter().find(|table| table.by == "calls").unwrap();
    let rows: Vec<_> = table.rows.iter().map(|row| row.label.as_str()).collect();
    assert_eq!(rows, ["1 call", "2 calls", "3 calls"]);
    let cell = |row: usize, arm: usize| table.rows[row].cells[arm].map(|cell| (cell.n, cell.mean));
    assert_eq!((cell(0, 0), cell(0, 1)), (Some((12, 1.0)), Some((4, 0.0))));
    assert_eq!((cell(1, 0), cell(1, 1)), (None, Some((4, 1.0))));
    assert!(markdown(&report).contains("0.0 [0.0, 49.0] (n = 4)"), "{}", markdown(&report));
    let page = html(&report).unwrap();
    assert!(page.contains("Score by calls") && page.contains("n = 4"));
}

#[test]
fn a_report_is_replaced_whole() {
    let folder = tempfile::tempdir().unwrap();
    let report = |answer: &str| {
        let questions = vec![question(0, "own", Metric::Text(AnswerMetric::F1))];
        built(questions, vec![vec![answered(answer, 1), answered("right", 1)]])
    };
    write(&report("right"), folder.path()).unwrap();
    for name in ["report.json", "report.md", "report.html"] {
        let file = folder.path().join(name);
        let before = std::fs::read(&file).unwrap();
        // Whoever opened it before reads it to its end.
        let opened = folder.path().join("opened");
        std::fs::hard_link(&file, &opened).unwrap();
        write(&report("wrong"), folder.path()).unwrap();
        assert!(std::fs::read(&opened).unwrap() == before, "{name} was written in place");
        assert!(std::fs::read(&file).unwrap() != before, "{name} is the old one");
        std::fs::remove_file(&opened).unwrap();
        write(&report("right"), folder.path()).unwrap();
    }
}

#[test]
fn labels_of_many_classes_do_not_overlap() {
    let questions: Vec<Question> = (0..30)
        .map(|index| {
            let mut question = question(index, "world", Metric::Text(AnswerMetric::Exact));
            question.task.kind = Some(format!("a kind {index:02}"));
            question
        })
        .collect();
    let outcomes = (0..30).map(|_| vec![answered("right", 1), answered("wrong", 1)]).collect();
    let report = built(questions, outcomes);
    let table = report.tables.iter().find(|table| table.by == "kind").unwrap();
    let plot = plot::by_class(&report, table, false);
    let labels: Vec<f64> = plot
        .split("<text x=\"")
        .filter(|text| text.contains("…</text>"))
        .map(|text| text.split('"').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(labels.len(), 10);
    assert!(labels.windows(2).all(|pair| pair[1] - pair[0] >= 38.0), "{labels:?}");
}
