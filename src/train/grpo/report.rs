//! The run as one HTML page: curves, the evaluation by class, episodes before and after.

use std::collections::BTreeSet;
use std::path::Path;

use minijinja::value::Value as Rendered;
use minijinja::{Environment, context};
use serde_json::{Map, Value};

use super::config::GrpoConfig;
use super::evaluate::{ClassResult, Evaluation, SampleEpisode};
use crate::atomic_file;
use crate::run_files;
use crate::train::error::TrainError;

const PAGE: &str = include_str!("report.html");

/// The plotted metrics, with their titles.
const CURVES: [(&str, &str); 16] = [
    ("reward", "reward"),
    ("eval_exact", "held-out right answers"),
    ("answer", "answer score"),
    ("format", "format score"),
    ("turns", "turns"),
    ("response_tokens", "sampled tokens per episode"),
    ("entropy", "entropy, nats"),
    ("kl", "KL from the initial policy, nats per token"),
    ("clip_low", "share clipped below"),
    ("clip_high", "share clipped above"),
    ("zero_variance", "share of groups without variance"),
    ("rollout_logprob_diff", "log-probability difference, engine and trainer"),
    ("gradient_norm", "gradient norm"),
    ("failed_episodes", "failed episodes"),
    ("tokens_per_second", "sampled tokens per second"),
    ("cost", "cost per step"),
];

/// Width and height of a curve's plot, SVG units.
const PLOT: (u32, u32) = (300, 110);

/// Writes `report.html` into the run's folder from the data of the first `step` steps.
pub fn write(config: &GrpoConfig, folder: &Path, step: u64) -> Result<(), TrainError> {
    let evaluations = comparable(Evaluation::load_all(folder, step));
    let metrics: Vec<Map<String, Value>> = std::fs::read_to_string(folder.join(run_files::METRICS))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let settings = toml::to_string(config).map_err(std::io::Error::other)?;
    let page = page(&evaluations, &metrics, &settings).map_err(std::io::Error::other)?;
    Ok(atomic_file::write(&folder.join(run_files::REPORT), page)?)
}

/// Those that measured the same as the last: others are no curve with it, and no start of it.
fn comparable(mut evaluations: Vec<Evaluation>) -> Vec<Evaluation> {
    if let Some(last) = evaluations.pop() {
        evaluations.retain(|earlier| earlier.is_comparable(&last));
        evaluations.push(last);
    }
    evaluations
}

fn page(
    evaluations: &[Evaluation],
    metrics: &[Map<String, Value>],
    settings: &str,
) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.add_filter("percent", |share: f64| format!("{:.1}", 100.0 * share));
    environment.add_filter("whole", |share: f64| format!("{:.0}", 100.0 * share));
    environment.add_filter("fixed", |value: f64| format!("{value:.2}"));
    // By the name's ending, everything inserted is escaped.
    environment.add_template("report.html", PAGE)?;
    let ends = evaluations.first().zip(evaluations.last());
    environment.get_template("report.html")?.render(context! {
        steps => metrics.len(),
        last_step => ends.map(|(_, last)| last.step),
        results => ends.map(|(first, last)| results(first, last)),
        prompt_classes => ends.map(|(first, last)| prompt_classes(first, last)),
        curves => curves(evaluations, metrics),
        episodes => ends.map(|(first, last)| episodes(first, last)),
        settings,
    })
}

/// Right answers by class, before and after; the last row is the total.
fn results(first: &Evaluation, last: &Evaluation) -> Vec<Rendered> {
    let row = |name: &str, before: Option<&ClassResult>, after: &ClassResult| {
        context! { name, before => before.map(result), after => result(after) }
    };
    let classes = last.classes.iter();
    let all = row("all", Some(&first.all), &last.all);
    classes.map(|(name, after)| row(name, first.classes.get(name), after)).chain([all]).collect()
}

fn result(of: &ClassResult) -> Rendered {
    let (low, high) = of.interval();
    context! { tasks => of.tasks, turns => of.turns, share => of.share(), low, high }
}

/// The share of each class of prompts.
fn prompt_classes(first: &Evaluation, last: &Evaluation) -> Vec<Rendered> {
    let share = |evaluation: &Evaluation, class: &str| {
        let all: usize = evaluation.prompt_classes.values().sum();
        evaluation.prompt_classes.get(class).copied().unwrap_or(0) as f64 / all.max(1) as f64
    };
    if last.prompt_classes.is_empty() {
        return Vec::new();
    }
    let names: BTreeSet<&String> =
        first.prompt_classes.keys().chain(last.prompt_classes.keys()).collect();
    let row = |name| context! { name, before => share(first, name), after => share(last, name) };
    names.into_iter().map(|name| row(name)).collect()
}

fn curves(evaluations: &[Evaluation], metrics: &[Map<String, Value>]) -> Vec<Rendered> {
    let points = |metric| match metric {
        "eval_exact" => evaluations.iter().map(|e| (e.step as f64, e.all.share())).collect(),
        _ => (metrics.iter())
            .filter_map(|row| Some((row.get("step")?.as_f64()?, row.get(metric)?.as_f64()?)))
            .collect::<Vec<_>>(),
    };
    CURVES.iter().filter_map(|(metric, title)| curve(title, &points(metric))).collect()
}

/// One metric over the steps; `None` if it was not measured.
fn curve(title: &str, points: &[(f64, f64)]) -> Option<Rendered> {
    let finite: Vec<(f64, f64)> =
        points.iter().copied().filter(|(_, value)| value.is_finite()).collect();
    let (first, last) = (finite.first()?, finite.last()?);
    let least = finite.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
    let most = finite.iter().map(|(_, value)| *value).fold(f64::NEG_INFINITY, f64::max);
    let (width, height) = PLOT;
    let span = (last.0 - first.0).max(1.0);
    let range = if most > least { most - least } else { 1.0 };
    let line: Vec<String> = finite
        .iter()
        .map(|(step, value)| {
            let x = (step - first.0) / span * f64::from(width);
            format!("{x:.1},{:.1}", f64::from(height) * (1.0 - (value - least) / range))
        })
        .collect();
    Some(context! {
        title, width, height,
        points => line.join(" "),
        last => short(last.1),
        least => short(least),
        most => short(most),
        first_step => first.0 as u64,
        last_step => last.0 as u64,
    })
}

fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

/// The episodes of the last evaluation, each next to that of the first.
fn episodes(first: &Evaluation, last: &Evaluation) -> Vec<Rendered> {
    let before =
        |after: &SampleEpisode| first.shown.iter().find(|shown| shown.task.id == after.task.id);
    let pair =
        |after: &SampleEpisode| context! { task => after.task, before => before(after), after };
    last.shown.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::task::Task;
    use crate::trajectory::{TokenUsage, Trajectory, Turn};

    #[test]
    fn a_page_shows_results_curves_and_episodes_and_escapes_text() {
        let task = Task { question: "1 < 2?".into(), golds: vec!["yes".into()], ..Task::default() };
        let turn = |action: serde_json::Value, reply: Option<&str>| {
            let usage = serde_json::json!(TokenUsage::default());
            let observation = reply.map(|reply| {
                serde_json::json!({
                    "reply": reply, "truncated": false, "repeated": false, "usage": usage, "millis": 0
                })
            });
            let turn = serde_json::json!({
                "text": "as <written>", "think": "let me <see>", "action": action,
                "finish": "stop", "tokens": 1, "millis": 1, "observation": observation
            });
            serde_json::from_value::<Turn>(turn).unwrap()
        };
        let turns = vec![
            turn(serde_json::json!({ "kind": "final_prompt", "text": "ask <it>" }), Some("<no>")),
            turn(serde_json::json!({ "kind": "nothing" }), None),
        ];
        let trajectory = Trajectory { turns, ..Trajectory::default() };
        let result = |exact| ClassResult { tasks: 4, exact, reward: 0.5, turns: 2.0 };
        let evaluation = |step, exact| Evaluation {
            step,
            basis: None,
            all: result(exact),
            classes: [("2 hops".to_owned(), result(exact))].into(),
            prompt_classes: [("known".to_owned(), 3), ("unknown".to_owned(), 1)].into(),
            failed: 0,
            shown: vec![SampleEpisode {
                task: task.clone(),
                trajectory: trajectory.clone(),
                reward: 1.0,
                advantage: None,
            }],
        };
        let metrics: Vec<Map<String, Value>> = (1..=3)
            .map(|step| {
                let row = serde_json::json!({ "step": step, "reward": 0.25 * f64::from(step) });
                row.as_object().unwrap().clone()
            })
            .collect();
        let page = page(&[evaluation(0, 1), evaluation(3, 4)], &metrics, "steps = 3").unwrap();
        for expected in [
            "25.0 %",
            "100.0 %",
            "75.0 %",
            "1 &lt; 2?",
            "points=\"0.0,110.0 150.0,55.0 300.0,0.0\"",
            "steps = 3",
            "<p class=\"think\">let me &lt;see&gt;</p>",
            "<p class=\"prompt\">ask &lt;it&gt;</p>",
            "<p class=\"reply\">&lt;no&gt;</p>",
            "<p class=\"nothing\">as &lt;written&gt;</p>",
        ] {
            assert!(page.contains(expected), "{expected} is not in {page}");
        }
        let other = Evaluation { basis: Some(1), ..evaluation(0, 0) };
        let last = Evaluation { basis: Some(2), ..evaluation(3, 4) };
        let steps =
            |all: Vec<Evaluation>| comparable(all).iter().map(|e| e.step).collect::<Vec<_>>();
        assert_eq!(steps(vec![evaluation(0, 1), other, evaluation(2, 2), last]), [0, 2, 3]);
        assert!(steps(Vec::new()).is_empty());
        assert!(!page.contains("entropy"), "what was not measured is not drawn");
        assert!(!page.contains("src=") && !page.contains("href="), "the page stands alone");
    }
}
