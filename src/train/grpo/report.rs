//! The run as one HTML page: curves, the evaluation by class, episodes before and after.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use serde_json::{Map, Value};

use super::config::GrpoConfig;
use super::evaluate::{ClassResult, Evaluation, Shown};
use crate::train::error::TrainError;
use crate::trajectory::Action;

const STYLE: &str = include_str!("report.css");

/// What is drawn: the metric, and what it is called.
const CURVES: [(&str, &str); 16] = [
    ("reward", "reward"),
    ("eval_exact", "held-out exact match"),
    ("answer", "answer score"),
    ("format", "form score"),
    ("turns", "turns"),
    ("response_tokens", "sampled tokens an episode"),
    ("entropy", "entropy, nats"),
    ("kl", "divergence from the start, nats a token"),
    ("clip_low", "share clipped low"),
    ("clip_high", "share clipped high"),
    ("zero_variance", "share of groups without variance"),
    ("rollout_logprob_diff", "engine to trainer log-probability gap"),
    ("gradient_norm", "gradient norm"),
    ("failed_episodes", "failed episodes"),
    ("tokens_per_second", "sampled tokens a second"),
    ("cost", "cost a step"),
];

/// Width and height of a curve's plot, SVG units.
const PLOT: (f64, f64) = (300.0, 110.0);

/// Writes `report.html` into the run's folder from what is there of the first `step` steps.
pub fn write(config: &GrpoConfig, folder: &Path, step: u64) -> Result<(), TrainError> {
    let evaluations = Evaluation::load_all(folder, step);
    let metrics: Vec<Map<String, Value>> = std::fs::read_to_string(folder.join("metrics.jsonl"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let settings = toml::to_string(config).map_err(std::io::Error::other)?;
    let page = page(&evaluations, &metrics, &settings);
    Ok(std::fs::write(folder.join("report.html"), page)?)
}

fn page(evaluations: &[Evaluation], metrics: &[Map<String, Value>], settings: &str) -> String {
    let mut body = String::new();
    if let (Some(first), Some(last)) = (evaluations.first(), evaluations.last()) {
        body += &results(first, last);
    }
    body += "<h2>Curves</h2>\n<div class=\"curves\">\n";
    for (metric, title) in CURVES {
        let points: Vec<(f64, f64)> = match metric {
            "eval_exact" => evaluations.iter().map(|e| (e.step as f64, e.all.share())).collect(),
            _ => metrics
                .iter()
                .filter_map(|row| Some((row.get("step")?.as_f64()?, row.get(metric)?.as_f64()?)))
                .collect(),
        };
        body += &curve(title, &points);
    }
    body += "</div>\n";
    if let (Some(first), Some(last)) = (evaluations.first(), evaluations.last()) {
        body += &episodes(first, last);
    }
    let settings = escape(settings);
    body += &format!("<h2>Settings</h2>\n<pre>{settings}</pre>\n");
    let steps = metrics.len();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>GRPO run</title>\n<style>{STYLE}</style></head>\n<body><main>\n<h1>GRPO run <small>{steps} steps</small></h1>\n{body}</main></body></html>\n"
    )
}

/// Exact match by class, before and after.
fn results(first: &Evaluation, last: &Evaluation) -> String {
    let row = |name: &str, before: Option<&ClassResult>, after: &ClassResult| {
        let before = before.map_or("–".to_owned(), cell);
        format!(
            "<tr><th>{}</th><td>{}</td><td>{before}</td><td>{}</td><td>{:.2}</td></tr>\n",
            escape(name),
            after.tasks,
            cell(after),
            after.turns
        )
    };
    let mut rows: String = last
        .classes
        .iter()
        .map(|(name, after)| row(name, first.classes.get(name), after))
        .collect();
    rows += &row("all", Some(&first.all), &last.all);
    let mut out = format!(
        "<h2>Held-out tasks</h2>\n<table><tr><th></th><td>tasks</td><td>exact match before</td><td>after {} steps</td><td>turns</td></tr>\n{rows}</table>\n<p>Greedy, one episode a task; 95 % intervals.</p>\n",
        last.step
    );
    if !last.prompt_classes.is_empty() {
        let share = |evaluation: &Evaluation, class: &str| {
            let all: usize = evaluation.prompt_classes.values().sum();
            let count = evaluation.prompt_classes.get(class).copied().unwrap_or(0);
            format!("{:.1} %", 100.0 * count as f64 / all.max(1) as f64)
        };
        out +=
            "<h2>Classes of prompts</h2>\n<table><tr><th></th><td>before</td><td>after</td></tr>\n";
        let classes: BTreeSet<&String> =
            first.prompt_classes.keys().chain(last.prompt_classes.keys()).collect();
        for class in classes {
            let (before, after) = (share(first, class), share(last, class));
            let name = escape(class);
            let _ = writeln!(out, "<tr><th>{name}</th><td>{before}</td><td>{after}</td></tr>");
        }
        out += "</table>\n";
    }
    out
}

fn cell(result: &ClassResult) -> String {
    let (low, high) = result.interval();
    let percent = |share: f64| 100.0 * share;
    format!(
        "{:.1} % <small>{:.0}–{:.0}</small>",
        percent(result.share()),
        percent(low),
        percent(high)
    )
}

/// One metric over the steps; nothing where it was not measured.
fn curve(title: &str, points: &[(f64, f64)]) -> String {
    let finite: Vec<(f64, f64)> =
        points.iter().copied().filter(|(_, value)| value.is_finite()).collect();
    let (Some(first), Some(last)) = (finite.first(), finite.last()) else { return String::new() };
    let least = finite.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
    let most = finite.iter().map(|(_, value)| *value).fold(f64::NEG_INFINITY, f64::max);
    let (width, height) = PLOT;
    let span = (last.0 - first.0).max(1.0);
    let range = if most > least { most - least } else { 1.0 };
    let line: Vec<String> = finite
        .iter()
        .map(|(step, value)| {
            let x = (step - first.0) / span * width;
            format!("{x:.1},{:.1}", height - (value - least) / range * height)
        })
        .collect();
    format!(
        "<figure><figcaption>{title} <b>{}</b></figcaption><svg viewBox=\"-2 -4 {} {}\" role=\"img\" aria-label=\"{title}\"><polyline points=\"{}\"/></svg><div class=\"ends\"><span>{} to {}</span><span>step {} to {}</span></div></figure>\n",
        short(last.1),
        width + 4.0,
        height + 8.0,
        line.join(" "),
        short(least),
        short(most),
        first.0,
        last.0
    )
}

fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 0.01 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

fn episodes(first: &Evaluation, last: &Evaluation) -> String {
    let mut out = "<h2>Episodes before and after</h2>\n".to_owned();
    for after in &last.shown {
        let task = &after.task;
        let _ = write!(
            out,
            "<section><h3>{}</h3><p>gold: {}</p><div class=\"pair\">",
            escape(&task.question),
            escape(&task.golds.join(" / "))
        );
        let before = first.shown.iter().find(|shown| shown.task.id == task.id);
        for (name, shown) in [("before", before), ("after", Some(after))] {
            let _ = write!(out, "<div><h4>{name}</h4>{}</div>", shown.map_or(String::new(), turns));
        }
        out += "</div></section>\n";
    }
    out
}

fn turns(shown: &Shown) -> String {
    let mut out = format!("<p>reward {:.2}</p>", shown.reward);
    for turn in &shown.trajectory.turns {
        if let Some(think) = &turn.think {
            let _ = write!(out, "<p class=\"think\">{}</p>", escape(think));
        }
        let (class, text) = match &turn.action {
            Action::Prompt(text) | Action::FinalPrompt(text) => ("prompt", text.as_str()),
            Action::Answer(text) => ("answer", text.as_str()),
            Action::Nothing => ("nothing", turn.text.as_str()),
        };
        let _ = write!(out, "<p class=\"{class}\">{}</p>", escape(text));
        if let Some(observation) = &turn.observation {
            let _ = write!(out, "<p class=\"reply\">{}</p>", escape(&observation.reply));
        }
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::task::Task;

    #[test]
    fn a_page_shows_results_curves_and_episodes_and_escapes_text() {
        let task = Task { question: "1 < 2?".into(), golds: vec!["yes".into()], ..Task::default() };
        let result = |exact| ClassResult { tasks: 4, exact, reward: 0.5, turns: 2.0 };
        let evaluation = |step, exact| Evaluation {
            step,
            all: result(exact),
            classes: [("2 hops".to_owned(), result(exact))].into(),
            prompt_classes: [("known".to_owned(), 3), ("unknown".to_owned(), 1)].into(),
            failed: 0,
            shown: vec![Shown { task: task.clone(), trajectory: Default::default(), reward: 1.0 }],
        };
        let metrics: Vec<Map<String, Value>> = (1..=3)
            .map(|step| {
                let row = serde_json::json!({ "step": step, "reward": 0.25 * f64::from(step) });
                row.as_object().unwrap().clone()
            })
            .collect();
        let page = page(&[evaluation(0, 1), evaluation(3, 4)], &metrics, "steps = 3");
        for expected in [
            "25.0 %",
            "100.0 %",
            "75.0 %",
            "1 &lt; 2?",
            "points=\"0.0,110.0 150.0,55.0 300.0,0.0\"",
            "steps = 3",
        ] {
            assert!(page.contains(expected), "{expected} is not in {page}");
        }
        assert!(!page.contains("entropy"), "what was not measured is not drawn");
        assert!(!page.contains("src=") && !page.contains("href="), "the page stands alone");
    }
}
