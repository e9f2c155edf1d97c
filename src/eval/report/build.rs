//! Builds the report from the questions and their outcomes.

use std::collections::BTreeMap;

use crate::episode::EpisodeUsage;
use crate::eval::arms::Method;
use crate::eval::data::{Question, Questions};
use crate::eval::rows::{AnswerStep, ArmAnswer, CutTexts, Outcome};
use crate::eval::run::Outcomes;
use crate::eval::score::Scores;
use crate::eval::search::SearchResult;
use crate::eval::statistics::{
    cohens_d, difference_interval, holm, mcnemar, mean, mean_interval, median, permutation,
    questions_needed_mcnemar, questions_needed_mean,
};
use crate::large_model::CallUsage;
use crate::reward::Normalization;

use super::{
    ArmFailure, ArmSummary, AttemptView, Cell, Comparison, EpisodeView, JudgeSummary, Report,
    Table, TableRow, cut_texts,
};

/// Characters of a text that are shown.
const MAX_SHOWN_CHARS: usize = 4_000;

/// The share of questions without a score that causes a warning.
const MANY_FAILURES: f64 = 0.05;

/// The method of [`mean_interval`].
const INTERVAL_METHOD: &str = "Wilson where every score is 0 or 1, else percentile bootstrap";

/// The input of a report.
#[derive(Debug, Clone, Copy)]
pub struct ReportInput<'a> {
    /// Its title.
    pub title: &'a str,
    /// The large model's name.
    pub large_model: &'a str,
    /// Names and methods of the arms.
    pub arms: &'a [(String, String)],
    /// The questions.
    pub questions: &'a Questions,
    /// The outcomes.
    pub outcomes: &'a Outcomes,
    /// How text was normalised.
    pub normalization: Normalization,
    /// The scores of the answers.
    pub scores: &'a Scores,
    /// The name of the large model that judged.
    pub judge: Option<&'a str>,
    /// The result of the prompt search.
    pub search: Option<&'a SearchResult>,
    /// Seeds the resampling.
    pub seed: u64,
    /// How many questions are shown with what every arm did.
    pub episodes: usize,
}

/// Scores by arm, then by question; `None` for failures.
type ByArm = Vec<Vec<Option<f64>>>;

/// The report of `input`.
pub fn build(input: &ReportInput<'_>) -> Report {
    let questions = &input.questions.questions;
    let of = |arm: usize, row: &Vec<Option<Result<f64, String>>>| {
        row[arm].as_ref()?.as_ref().ok().copied()
    };
    let scores: ByArm = (0..input.arms.len())
        .map(|arm| input.scores.by_question.iter().map(|row| of(arm, row)).collect())
        .collect();
    let all: Vec<usize> = (0..questions.len()).collect();
    let by_source = classes(questions, |question| Some(question.task.source.to_string()));
    let by_kind = classes(questions, |question| {
        question.task.kind.as_ref().map(|kind| format!("{} / {kind}", question.task.source))
    });
    let by_hops: Vec<(String, Vec<usize>)> = classes(questions, |question| question.task.hops)
        .into_iter()
        .map(|(hops, of)| (format!("{hops} hop{}", if hops == 1 { "" } else { "s" }), of))
        .collect();
    let mut tables = Vec::new();
    for (by, classes) in [("data set", &by_source), ("kind", &by_kind), ("hops", &by_hops)] {
        // A single kind adds nothing to its data set.
        if by == "data set" || classes.len() > 1 {
            let rows = classes.iter().map(|(label, members)| TableRow {
                label: label.clone(),
                metric: metric_name(questions, members),
                cells: scores.iter().map(|scores| cell(scores, members, input.seed)).collect(),
            });
            tables.push(Table { by: by.to_owned(), rows: rows.collect() });
        }
    }
    tables.extend(by_calls(input, &scores));
    let mut comparisons = Vec::new();
    for (label, members) in &by_source {
        comparisons.extend(compare(input, &scores, label, members));
    }
    if by_source.len() > 1 {
        comparisons.extend(compare(input, &scores, "all questions", &all));
    }
    let count = comparisons.len();
    let corrected = holm(&comparisons.iter().map(|found| found.p).collect::<Vec<_>>());
    for (comparison, p) in comparisons.iter_mut().zip(corrected) {
        comparison.p_holm = p;
        if !comparison.is_settled() {
            comparison.questions_needed = questions_needed(comparison, count);
        }
    }
    let arms: Vec<ArmSummary> =
        (0..input.arms.len()).map(|arm| summary(input, arm, &scores[arm], &all)).collect();
    let warnings = warnings(input, &scores, &arms);
    Report {
        schema_version: 1,
        title: input.title.to_owned(),
        seed: input.seed,
        questions: questions.len(),
        large_model: input.large_model.to_owned(),
        normalization: input.normalization,
        arms,
        judge: input
            .judge
            .map(|model| JudgeSummary { model: model.to_owned(), usage: input.scores.judge }),
        search: input.search.cloned(),
        interval_method: INTERVAL_METHOD.to_owned(),
        tables,
        comparisons,
        failures: failures(input),
        warnings,
        episodes: episodes(input, &scores),
    }
}

/// Scores by the number of calls of an attempt, if that varies in any arm.
fn by_calls(input: &ReportInput<'_>, scores: &ByArm) -> Option<Table> {
    // By number of calls, then by arm: the questions.
    let mut classes: BTreeMap<u64, Vec<Vec<usize>>> = BTreeMap::new();
    for (index, row) in input.outcomes.iter().enumerate() {
        for (arm, outcome) in row.iter().enumerate() {
            if let Outcome::Answered(attempt) = outcome {
                let calls = by_role(input, arm, attempt.usage).large_model.calls;
                let class = classes.entry(calls).or_insert_with(|| vec![Vec::new(); row.len()]);
                class[arm].push(index);
            }
        }
    }
    let differs = |arm: usize| classes.values().filter(|class| !class[arm].is_empty()).count() > 1;
    (0..input.arms.len()).any(differs).then(|| {
        let rows = classes.iter().map(|(calls, class)| TableRow {
            label: format!("{calls} call{}", if *calls == 1 { "" } else { "s" }),
            metric: metric_name(&input.questions.questions, &class.concat()),
            cells: scores
                .iter()
                .zip(class)
                .map(|(scores, members)| cell(scores, members, input.seed))
                .collect(),
        });
        Table { by: "calls".into(), rows: rows.collect() }
    })
}

/// The questions of each class, the classes in order.
fn classes<L: Ord>(
    questions: &[Question],
    label: impl Fn(&Question) -> Option<L>,
) -> Vec<(L, Vec<usize>)> {
    let mut members: BTreeMap<L, Vec<usize>> = BTreeMap::new();
    for (index, question) in questions.iter().enumerate() {
        if let Some(label) = label(question) {
            members.entry(label).or_default().push(index);
        }
    }
    members.into_iter().collect()
}

fn metric_name(questions: &[Question], members: &[usize]) -> String {
    let mut names: Vec<&str> =
        members.iter().map(|&index| questions[index].metric.name()).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

fn cell(scores: &[Option<f64>], members: &[usize], seed: u64) -> Option<Cell> {
    let values: Vec<f64> = members.iter().filter_map(|&index| scores[index]).collect();
    Some(Cell { mean: mean(&values)?, interval: mean_interval(&values, seed)?, n: values.len() })
}

/// Every pair of arms on these questions; `p_holm` is filled in later.
fn compare<'a>(
    input: &'a ReportInput<'_>,
    scores: &'a ByArm,
    scope: &'a str,
    members: &'a [usize],
) -> impl Iterator<Item = Comparison> + 'a {
    let pairs = (0..scores.len()).flat_map(move |a| (a + 1..scores.len()).map(move |b| (a, b)));
    pairs.filter_map(move |(a, b)| {
        let both: Vec<(f64, f64)> = members
            .iter()
            .filter_map(|&index| Some((scores[a][index]?, scores[b][index]?)))
            .collect();
        let differences: Vec<f64> = both.iter().map(|(first, second)| second - first).collect();
        let is_binary =
            members.iter().all(|&index| input.questions.questions[index].metric.is_binary());
        let mut found = Comparison {
            scope: scope.to_owned(),
            first: input.arms[a].0.clone(),
            second: input.arms[b].0.clone(),
            n: both.len(),
            difference: mean(&differences)?,
            interval: difference_interval(&differences, input.seed)?,
            test: String::new(),
            p: 1.0,
            mid_p: None,
            p_holm: 1.0,
            cohens_d: cohens_d(&differences),
            discordant: None,
            questions_needed: None,
        };
        if is_binary {
            let only = |sign: f64| differences.iter().filter(|&&d| d * sign > 0.0).count() as u64;
            let (first_only, second_only) = (only(-1.0), only(1.0));
            let tested = mcnemar(first_only, second_only);
            found.test = "McNemar".into();
            (found.p, found.mid_p) = (tested.exact, Some(tested.mid_p));
            found.discordant = Some((first_only, second_only));
        } else {
            found.test = "permutation".into();
            found.p = permutation(&differences, input.seed);
        }
        Some(found)
    })
}

/// Warnings about the questions, then about arms with many failures or texts that were cut off.
fn warnings(input: &ReportInput<'_>, scores: &ByArm, arms: &[ArmSummary]) -> Vec<String> {
    let mut warnings = input.questions.warnings.clone();
    for ((arm, _), scores) in input.arms.iter().zip(scores) {
        let missing = scores.iter().filter(|score| score.is_none()).count();
        if missing as f64 > MANY_FAILURES * scores.len() as f64 {
            warnings.push(format!(
                "`{arm}` has no score on {missing} of {} questions: if they are the hard ones, the others flatter it",
                scores.len()
            ));
        }
    }
    warnings.extend(arms.iter().flat_map(|arm| cut_texts::warnings(arm, input.large_model)));
    warnings
}

/// The number of questions that would settle a difference of this size among `count` comparisons;
/// more than were asked, because those did not.
fn questions_needed(found: &Comparison, count: usize) -> Option<u64> {
    let needed = match found.discordant {
        Some((first_only, second_only)) => {
            let share = |questions: u64| questions as f64 / found.n as f64;
            questions_needed_mcnemar(share(first_only), share(second_only), count)
        }
        None => questions_needed_mean(found.cohens_d?, count),
    };
    needed.map(|needed| needed.max(found.n as u64 + 1))
}

/// What an arm used, by role. With `self-policy` the policy is the large model.
fn by_role(input: &ReportInput<'_>, arm: usize, usage: EpisodeUsage) -> EpisodeUsage {
    if input.arms[arm].1 != Method::SelfPolicy.to_string() {
        return usage;
    }
    let EpisodeUsage { policy, mut large_model } = usage;
    large_model += policy;
    EpisodeUsage { policy: CallUsage::default(), large_model }
}

fn summary(
    input: &ReportInput<'_>,
    arm: usize,
    scores: &[Option<f64>],
    all: &[usize],
) -> ArmSummary {
    let attempts: Vec<&ArmAnswer> = input
        .outcomes
        .iter()
        .filter_map(|row| match &row[arm] {
            Outcome::Answered(attempt) => Some(attempt),
            Outcome::Failed { .. } => None,
        })
        .collect();
    let (name, method) = input.arms[arm].clone();
    let searched = input.search.filter(|_| method == Method::PromptSearch.to_string());
    let mut used = EpisodeUsage::default();
    used.large_model += searched.map(|found| found.usage).unwrap_or_default();
    let mut total = used;
    for row in input.outcomes {
        match &row[arm] {
            Outcome::Answered(ArmAnswer { usage, .. }) => {
                used += *usage;
                total += *usage;
            }
            Outcome::Failed { usage, .. } => total += *usage,
        }
    }
    let per_question = |value: f64| value / attempts.len().max(1) as f64;
    let mut finishes: BTreeMap<&str, usize> = BTreeMap::new();
    for attempt in &attempts {
        *finishes.entry(&attempt.finish).or_default() += 1;
    }
    let share = |count: usize| count as f64 / attempts.len() as f64;
    let mut finishes: Vec<(String, f64)> =
        finishes.into_iter().map(|(why, count)| (why.to_owned(), share(count))).collect();
    finishes.sort_by(|a, b| b.1.total_cmp(&a.1));
    let scored = scores.iter().flatten().count();
    let used = by_role(input, arm, used);
    let tokens = used.large_model.tokens;
    let cut_off: Vec<CutTexts> = attempts.iter().filter_map(|attempt| attempt.cut_off).collect();
    let seconds: Vec<f64> = attempts
        .iter()
        .filter_map(|attempt| attempt.micros)
        .map(|micros| micros as f64 / 1e6)
        .collect();
    ArmSummary {
        name,
        method,
        answered: attempts.len(),
        failed: input.outcomes.len() - attempts.len(),
        unscored: attempts.len() - scored,
        cut_replies: cut_off.iter().map(|cut| cut.replies).sum(),
        cut_turns: cut_off.iter().map(|cut| cut.turns).sum(),
        cut_answers: cut_off.iter().filter(|cut| **cut != CutTexts::default()).count(),
        cut_unknown: attempts.len() - cut_off.len(),
        score: cell(scores, all, input.seed),
        calls: per_question(used.large_model.calls as f64),
        large_model_tokens: per_question((tokens.prompt_tokens + tokens.completion_tokens) as f64),
        policy_tokens: per_question(used.policy.tokens.completion_tokens as f64),
        policy_tokens_read: per_question(used.policy.tokens.prompt_tokens as f64),
        median_seconds: median(&seconds),
        cost: per_question(used.large_model.cost + used.policy.cost),
        total,
        finishes,
    }
}

/// Failures by arm and message, the most frequent first.
fn failures(input: &ReportInput<'_>) -> Vec<ArmFailure> {
    let mut found: Vec<ArmFailure> = Vec::new();
    for (index, question) in input.questions.questions.iter().enumerate() {
        for (at, (arm, _)) in input.arms.iter().enumerate() {
            let Some(error) = failure(input, index, at) else { continue };
            match found.iter_mut().find(|known| known.arm == *arm && known.error == error) {
                Some(known) => known.count += 1,
                None => found.push(ArmFailure {
                    arm: arm.clone(),
                    error,
                    count: 1,
                    example: question.task.id.clone(),
                }),
            }
        }
    }
    found.sort_by_key(|failure| std::cmp::Reverse(failure.count));
    found
}

/// Why an attempt has no score.
fn failure(input: &ReportInput<'_>, question: usize, arm: usize) -> Option<String> {
    match (&input.outcomes[question][arm], &input.scores.by_question[question][arm]) {
        (Outcome::Failed { error, .. }, _) => Some(cut(error)),
        (_, Some(Err(error))) => Some(format!("not judged: {}", cut(error))),
        _ => None,
    }
}

fn episodes(input: &ReportInput<'_>, scores: &ByArm) -> Vec<EpisodeView> {
    let rows = input.questions.questions.iter().zip(input.outcomes).enumerate();
    rows.take(input.episodes)
        .map(|(index, (question, row))| EpisodeView {
            id: question.task.id.clone(),
            source: question.task.source.to_string(),
            kind: question.task.kind.clone(),
            hops: question.task.hops,
            question: cut(&question.task.question),
            golds: question.task.golds.clone(),
            attempts: row
                .iter()
                .enumerate()
                .map(|(arm, outcome)| AttemptView {
                    error: failure(input, index, arm),
                    ..view(scores[arm][index], outcome)
                })
                .collect(),
        })
        .collect()
}

fn view(score: Option<f64>, outcome: &Outcome) -> AttemptView {
    match outcome {
        Outcome::Answered(attempt) => AttemptView {
            score,
            answer: cut(&attempt.answer),
            error: None,
            finish: attempt.finish.clone(),
            usage: attempt.usage,
            steps: attempt.steps.iter().map(shorten).collect(),
        },
        Outcome::Failed { usage, .. } => AttemptView {
            score,
            answer: String::new(),
            error: None,
            finish: "failed".into(),
            usage: *usage,
            steps: Vec::new(),
        },
    }
}

fn shorten(step: &AnswerStep) -> AnswerStep {
    match step {
        AnswerStep::Think(text) => AnswerStep::Think(cut(text)),
        AnswerStep::Prompt(text) => AnswerStep::Prompt(cut(text)),
        AnswerStep::Reply(text) => AnswerStep::Reply(cut(text)),
        AnswerStep::Other(text) => AnswerStep::Other(cut(text)),
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}… ({} bytes more)", &text[..end], text.len() - end),
    }
}
