//! The report as Markdown.

use std::fmt::Write;

use crate::large_model::CallUsage;
use crate::reward::Normalization;

use super::{Cell, Comparison, JudgeSummary, Report, cut_texts};

/// The report as Markdown.
pub fn markdown(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(report, &mut out);
    out
}

fn write(report: &Report, out: &mut String) -> std::fmt::Result {
    writeln!(out, "# {}\n", line(&report.title))?;
    writeln!(
        out,
        "{} questions, large model `{}`, seed {}. Scores in percent with 95 % intervals ({}); text is compared as `{}`.\n",
        report.questions,
        report.large_model,
        report.seed,
        report.interval_method,
        normalization(report.normalization)
    )?;
    if !report.warnings.is_empty() {
        writeln!(out, "## Warnings\n")?;
        for warning in &report.warnings {
            writeln!(out, "- {}", line(warning))?;
        }
        writeln!(out)?;
    }
    writeln!(out, "## Arms\n")?;
    writeln!(
        out,
        "| arm | score | answered | failed | cut replies | calls | large-model tokens, read + written | policy tokens, read + written | cost | median seconds |\n|---|---|---|---|---|---|---|---|---|---|"
    )?;
    for arm in &report.arms {
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {:.2} | {:.1} | {:.1} | {} | {} |",
            line(&arm.name),
            arm.score.map_or("–".into(), shown),
            arm.answered,
            arm.failed + arm.unscored,
            cut_texts::shown(arm),
            arm.calls,
            arm.large_model_tokens,
            arm.all_policy_tokens(),
            money(arm.cost),
            arm.median_seconds.map_or("–".into(), |seconds| format!("{seconds:.3}")),
        )?;
    }
    writeln!(out, "\n{PER_QUESTION}")?;
    if let Some(found) = &report.search {
        let CallUsage { calls, cost, .. } = found.usage;
        let tried = found.tried.len();
        writeln!(
            out,
            "The {calls} calls of the prompt search (cost {}, {tried} prompts tried) are spread over the questions.",
            money(cost)
        )?;
    }
    if let Some(JudgeSummary { model, usage }) = &report.judge {
        writeln!(
            out,
            "Judged by {} in {} calls (cost {}), which are charged to no arm.",
            line(model),
            usage.calls,
            money(usage.cost)
        )?;
    }
    for table in &report.tables {
        writeln!(out, "\n## By {}\n", table.by)?;
        let names: Vec<String> = report.arms.iter().map(|arm| line(&arm.name)).collect();
        writeln!(out, "| {} | metric | n | {} |", table.by, names.join(" | "))?;
        writeln!(out, "|---|---|---|{}", "---|".repeat(names.len()))?;
        for row in &table.rows {
            let n = row.most();
            let of_fewer = |cell: Cell| {
                let fewer = if cell.n < n { format!(" (n = {})", cell.n) } else { String::new() };
                shown(cell) + &fewer
            };
            let cells: Vec<String> =
                row.cells.iter().map(|cell| cell.map_or("–".into(), of_fewer)).collect();
            writeln!(
                out,
                "| {} | {} | {n} | {} |",
                line(&row.label),
                row.metric,
                cells.join(" | ")
            )?;
        }
    }
    if !report.comparisons.is_empty() {
        writeln!(
            out,
            "\n## Differences\n\nPaired, on the questions that both arms answered, in percentage points with 95 % bootstrap intervals. {}\n",
            corrections(report.comparisons.len())
        )?;
        writeln!(
            out,
            "| on | from | to | n | difference | test | p, uncorrected | p, Holm for {} | d | settled |\n|---|---|---|---|---|---|---|---|---|---|",
            report.comparisons.len()
        )?;
        for found in &report.comparisons {
            writeln!(
                out,
                "| {} | {} | {} | {} | {:+.1} [{:+.1}, {:+.1}] | {} | {} | {} | {} | {} |",
                line(&found.scope),
                line(&found.first),
                line(&found.second),
                found.n,
                100.0 * found.difference,
                100.0 * found.interval.low,
                100.0 * found.interval.high,
                found.test,
                p_value(found.p),
                p_value(found.p_holm),
                found.cohens_d.map_or("–".into(), |d| format!("{d:+.2}")),
                settled(found),
            )?;
        }
    }
    if let Some(found) = &report.search {
        writeln!(out, "\n## The prompt that was found\n")?;
        for text in found.prompt.lines() {
            writeln!(out, "    {text}")?;
        }
    }
    if !report.failures.is_empty() {
        writeln!(
            out,
            "\n## Failures\n\nFailures are not wrong answers: they count in no score.\n"
        )?;
        writeln!(out, "| arm | times | what | for example |\n|---|---|---|---|")?;
        for failure in &report.failures {
            let (what, example) = (line(&failure.error), line(&failure.example));
            writeln!(out, "| {} | {} | {what} | {example} |", line(&failure.arm), failure.count)?;
        }
    }
    Ok(())
}

/// What the figures of an arm's use are.
pub(super) const PER_QUESTION: &str = "Calls, tokens and cost are means per answered question. Cut replies were cut off at a token limit or by a content filter, and are scored like complete ones; for a policy, its own turns that were cut off are counted beside them. Seconds are the wall time of an answer, measured at this evaluation's concurrency; a reply that is read from the cache takes none.";

/// Which figures of the comparisons are corrected.
pub(super) fn corrections(comparisons: usize) -> String {
    let all = match comparisons {
        1 => "the only comparison of this report, which changes nothing".to_owned(),
        count => format!("all {count} comparisons of this report"),
    };
    format!(
        "The p of each test is uncorrected; beside it is p after Holm's correction for {all}, by which a difference is settled below 0.05. The intervals are uncorrected."
    )
}

/// Whether a difference is significant, and how many questions would settle it otherwise.
pub(super) fn settled(found: &Comparison) -> String {
    match (found.is_settled(), found.questions_needed) {
        (true, _) => "yes".into(),
        (false, Some(questions)) => format!("no: needs about {questions} questions"),
        (false, None) => "no".into(),
    }
}

pub(super) fn normalization(kind: Normalization) -> &'static str {
    match kind {
        Normalization::Published => "published",
        Normalization::Strict => "strict",
    }
}

fn shown(cell: Cell) -> String {
    let Cell { mean, interval, .. } = cell;
    format!("{:.1} [{:.1}, {:.1}]", 100.0 * mean, 100.0 * interval.low, 100.0 * interval.high)
}

pub(super) fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".into() } else { format!("{p:.3}") }
}

pub(super) fn money(cost: f64) -> String {
    if cost == 0.0 { "0".into() } else { format!("{cost:.6}") }
}

/// Text on one line of a table.
fn line(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "\\<")
}
