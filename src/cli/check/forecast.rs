//! Estimates the work, time and cost of a run from its configuration and its folder: upper bounds,
//! and nothing where they are unknown.

use std::io::{BufRead, BufReader};
use std::path::Path;

use serde_json::{Map, Value};

use crate::config::EvalConfig;
use crate::dataset::{ReadOptions, read_examples, read_tasks};
use crate::eval::arms::Method;
use crate::eval::data::{self, Question};
use crate::eval::metric_choice::Metric;
use crate::large_model::{LargeModelChoice, LargeModelConfig};
use crate::run_files;
use crate::train::grpo::{GrpoConfig, JudgeChoice, TaskConfig};
use crate::train::sft::{SftConfig, SftData};

use crate::cli::Failure;

/// Characters per token, for an estimate.
const CHARS_OF_A_TOKEN: usize = 4;
/// Recent steps from which the duration of the next ones is estimated.
const RECENT_STEPS: usize = 50;

/// The forecast of a supervised run. Reads the conversations.
pub fn sft(config: &SftConfig) -> Result<Vec<String>, Failure> {
    let shown = config.steps * config.batch_size as u64;
    let mut lines = vec![format!("steps: {}", config.steps)];
    match &config.data {
        SftData::Chat { path, read, eval_path } => {
            let count = |path: &Path, read: ReadOptions| {
                let read = ReadOptions { max_rejected: config.max_rejected, ..read };
                let read = read_examples(path, &read).map_err(anyhow::Error::from)?;
                Ok::<_, Failure>(read.rows.len())
            };
            lines.push(format!("conversations: {}", part_of(shown, count(path, read.clone())?)));
            if let Some(path) = eval_path {
                count(path, read.columns())?;
            }
        }
        _ => lines.push(format!("conversations: {shown}, each as often as the data is short")),
    }
    let checkpoints = config.steps.div_ceil(config.checkpoint_every);
    lines
        .push(format!("checkpoints: {checkpoints}, of which {} are kept", config.keep_checkpoints));
    lines.push("calls, tokens of a large model, money: none".to_owned());
    lines.push(time_left(&config.output, config.steps, |step| step["seconds"].as_f64()));
    Ok(lines)
}

/// The forecast of a GRPO run, an upper bound. Reads the tasks.
pub fn grpo(config: &GrpoConfig) -> Result<Vec<String>, Failure> {
    let mut evaluations = config.steps / config.eval.every + 1;
    evaluations += u64::from(!config.steps.is_multiple_of(config.eval.every));
    let mut lines = vec![format!("steps: {}", config.steps)];
    let asked = config.steps * config.groups_per_step as u64;
    let mut held_out = config.eval.tasks;
    match &config.tasks {
        TaskConfig::World { .. } => lines.push(format!("questions: {asked}, generated")),
        TaskConfig::File { path, read, eval_path } => {
            let count = |path: &Path, read: ReadOptions| {
                let read = ReadOptions { max_rejected: config.max_rejected, ..read };
                let read = read_tasks(path, &read).map_err(anyhow::Error::from)?;
                Ok::<_, Failure>(read.rows.len())
            };
            let tasks = count(path, read.clone())?;
            lines.push(format!("questions: {}", part_of(asked, tasks)));
            held_out = match eval_path {
                Some(path) => held_out.min(count(path, read.columns())?),
                None => 0,
            };
        }
    }
    evaluations *= u64::from(held_out > 0);
    let rounds = u64::from(config.extra_rounds) + 1;
    let training = asked * config.group_size as u64;
    let held_out = evaluations * held_out as u64;
    let episodes = training * rounds + held_out;
    let further = match rounds {
        1 => String::new(),
        rounds => format!(" (up to {} with `extra_rounds`)", training * rounds),
    };
    lines.push(format!(
        "episodes: {training} to learn from{further}, {held_out} in {evaluations} evaluations"
    ));
    let limits = &config.limits;
    // The last turn of an episode answers; the others may prompt.
    let calls = episodes * (limits.max_turns as u64).saturating_sub(1).max(1);
    let sampled =
        limits.max_policy_tokens.min(limits.max_turn_tokens.saturating_mul(limits.max_turns));
    lines.push(format!(
        "calls of the large model: at most {calls}; remembered replies are not asked again"
    ));
    lines.push(format!("tokens that the policy samples: at most {}", episodes * sampled as u64));
    let max_cost = limits.max_cost.map(|cost| ("limits.max_cost", cost * episodes as f64));
    lines.extend(large_model("the large model", &config.large_model, calls, max_cost));
    if let Some(judge) = &config.judge {
        lines.extend(judge_of(judge, &config.large_model, episodes));
    }
    lines.push(time_left(&config.output, config.steps, |step| {
        Some(step["wait_seconds"].as_f64()? + step["update_seconds"].as_f64()?)
    }));
    Ok(lines)
}

/// How many of `rows` are used: how often each, or which share of them.
fn part_of(used: u64, rows: usize) -> String {
    let times = used as f64 / rows.max(1) as f64;
    if times >= 1.0 {
        format!("{used} of {rows}, each {times:.1} times")
    } else if times >= 0.001 {
        format!("{used} of {rows} ({:.1} %)", 100.0 * times)
    } else {
        format!("{used} of {rows} (less than 0.1 %)")
    }
}

fn judge_of(judge: &JudgeChoice, own: &LargeModelChoice, episodes: u64) -> Vec<String> {
    let calls = judge.max_calls.unwrap_or(u64::MAX).min(episodes);
    let mut lines = vec![format!("calls of the judge: at most {calls}")];
    let max_cost = judge.max_cost.map(|cost| ("judge.max_cost", cost));
    lines.extend(large_model(
        "the judge",
        judge.large_model.as_ref().unwrap_or(own),
        calls,
        max_cost,
    ));
    lines
}

fn large_model(
    who: &str,
    choice: &LargeModelChoice,
    calls: u64,
    max_cost: Option<(&str, f64)>,
) -> Vec<String> {
    match &choice.endpoint {
        None => vec![format!("money for {who}: none, it runs in this process")],
        Some(endpoint) => endpoint_lines(who, endpoint, &choice.params, calls, max_cost),
    }
}

/// Time and cost of `calls` of an endpoint.
fn endpoint_lines(
    who: &str,
    endpoint: &LargeModelConfig,
    params: &Map<String, Value>,
    calls: u64,
    max_cost: Option<(&str, f64)>,
) -> Vec<String> {
    let limit = ["max_completion_tokens", "max_tokens"]
        .iter()
        .find_map(|key| params.get(*key).or_else(|| endpoint.params.get(*key))?.as_u64());
    let written = limit.map(|limit| limit * calls);
    let mut lines = vec![match written {
        Some(written) => format!("tokens that {who} writes: at most {written}"),
        None => {
            format!("tokens that {who} writes: not bounded; `params.max_tokens` bounds a reply")
        }
    }];
    lines.push(match (max_cost, endpoint.prices, written) {
        (Some((key, cost)), ..) => format!("money for {who}: at most {cost:.2}, by `{key}`"),
        (None, None, _) => format!("money for {who}: not known, it has no `prices`"),
        (None, Some(prices), Some(written)) => format!(
            "money for {who}: at most {:.2} for what it writes, and {} for a million tokens that it reads",
            written as f64 * prices.output_per_million / 1e6,
            prices.input_per_million
        ),
        (None, Some(_), None) => format!("money for {who}: not bounded"),
    });
    if let Some(rate) = endpoint.requests_per_minute {
        let minutes = calls as f64 / f64::from(rate);
        lines.push(format!(
            "time for {who}: {} where every call is made, by `requests_per_minute`",
            duration(60.0 * minutes)
        ));
    }
    lines
}

/// The forecast of an evaluation. Reads the questions.
pub fn eval(config: &EvalConfig) -> Result<Vec<String>, Failure> {
    let questions = data::load(&config.data, &config.metrics, config.limit, config.seed)?;
    let count = questions.questions.len() as u64;
    let mut lines: Vec<String> =
        questions.warnings.iter().map(|warning| format!("warning: {warning}")).collect();
    lines.push(format!("questions: {count}"));
    let arms = config.arms.len() as u64;
    let there = std::fs::File::open(config.output.join(run_files::ROWS));
    let there = there.map_or(0, |file| BufReader::new(file).lines().count());
    let already = match there {
        0 => String::new(),
        there => format!("; {there} rows are there, and are not run again where they fit"),
    };
    lines.push(format!("arms: {arms}, so {} answers{already}", count * arms));
    let turns = config.episode.max_turns as u64;
    let calls_of = |method: &Method| match method {
        Method::Direct | Method::ChainOfThought | Method::Template(_) | Method::PromptSearch => 1,
        Method::FirstPrompt(_) => 1,
        Method::SelfConsistency(samples, _) => *samples as u64,
        // At most one reply per turn, and the large model's own if there is no answer.
        Method::Policy(_) | Method::Script(_) => turns + 1,
        Method::SelfPolicy => 2 * turns + 1,
    };
    let calls: Vec<(&str, u64)> =
        config.arms.iter().map(|arm| (&*arm.name, count * calls_of(&arm.method))).collect();
    let searched = config
        .prompt_search
        .as_ref()
        .filter(|_| config.arms.iter().any(|arm| arm.method == Method::PromptSearch));
    let searched = searched.map_or(0, |search| search.budget);
    let judged = questions.questions.iter().filter(|it| it.metric == Metric::Judge).count() as u64;
    let judged = judged * arms;
    let all = calls.iter().map(|(_, calls)| calls).sum::<u64>() + searched;
    let of_arms: Vec<String> =
        calls.iter().map(|(name, calls)| format!("{name} {calls}")).collect();
    let mut parts = of_arms;
    parts.extend((searched > 0).then(|| format!("the prompt search {searched}")));
    lines.push(format!("calls of the large model: at most {all} ({})", parts.join(", ")));
    lines.push(format!("tokens of the questions: about {}", tokens(&questions.questions)));
    let server = config.server(None)?;
    let name = server.default_large_model();
    lines.extend(by_name(config, "the large model", name, all));
    if judged > 0 {
        lines.push(format!("calls of the judge: at most {judged}"));
        let judge = config.judge.model.as_deref().unwrap_or(name);
        lines.extend(by_name(config, "the judge", judge, judged));
    }
    Ok(lines)
}

fn by_name(config: &EvalConfig, who: &str, name: &str, calls: u64) -> Vec<String> {
    match config.large_models.get(name) {
        None => vec![format!("money for {who}: none, it runs in this process")],
        Some(endpoint) => endpoint_lines(who, endpoint, &Map::new(), calls, None),
    }
}

fn tokens(questions: &[Question]) -> usize {
    questions.iter().map(|it| it.task.question.len()).sum::<usize>() / CHARS_OF_A_TOKEN
}

/// The time for the remaining steps, estimated from the finished ones.
fn time_left(folder: &Path, steps: u64, seconds: impl Fn(&Value) -> Option<f64>) -> String {
    let done: Vec<(u64, f64)> = std::fs::File::open(folder.join(run_files::METRICS))
        .map(BufReader::new)
        .into_iter()
        .flat_map(|file| file.lines().map_while(Result::ok))
        .filter_map(|line| serde_json::from_str::<Value>(&line).ok())
        .filter_map(|step| Some((step["step"].as_u64()?, seconds(&step)?)))
        .collect();
    let Some(&(last, _)) = done.last() else {
        return "time: not known before the first steps; a run's own steps say it".to_owned();
    };
    let recent = &done[done.len().saturating_sub(RECENT_STEPS)..];
    let mean = recent.iter().map(|(_, seconds)| seconds).sum::<f64>() / recent.len() as f64;
    format!(
        "time: {} for the {} steps that are left, at {mean:.2} s a step so far",
        duration(mean * steps.saturating_sub(last) as f64),
        steps.saturating_sub(last)
    )
}

/// Seconds in readable form.
fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).ceil() as u64;
    match minutes {
        0..=1 => format!("{seconds:.0} s"),
        2..=119 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_are_said_as_people_do() {
        for (seconds, said) in
            [(0.4, "0 s"), (59.0, "59 s"), (61.0, "2 min"), (7_201.0, "2 h 1 min")]
        {
            assert_eq!(duration(seconds), said);
        }
    }

    #[test]
    fn the_steps_that_were_done_say_how_long_the_others_take() {
        let folder = tempfile::tempdir().unwrap();
        let seconds = |step: &Value| step["seconds"].as_f64();
        assert!(time_left(folder.path(), 9, seconds).contains("not known"));
        let lines = "{\"step\":1,\"seconds\":20}\n{\"step\":2,\"seconds\":40}\n{\"st";
        std::fs::write(folder.path().join("metrics.jsonl"), lines).unwrap();
        let said = time_left(folder.path(), 12, seconds);
        assert_eq!(said, "time: 5 min for the 10 steps that are left, at 30.00 s a step so far");
    }

    #[test]
    fn rows_are_used_several_times_or_in_part() {
        for (used, rows, said) in [
            (6_400, 320, "6400 of 320, each 20.0 times"),
            (320, 320, "320 of 320, each 1.0 times"),
            (319, 320, "319 of 320 (99.7 %)"),
            (1_920, 1_000_000, "1920 of 1000000 (0.2 %)"),
            (10, 1_000_000, "10 of 1000000 (less than 0.1 %)"),
        ] {
            assert_eq!(part_of(used, rows), said);
        }
    }

    #[test]
    fn what_an_endpoint_takes() {
        let mut endpoint = LargeModelConfig::new("http://127.0.0.1:9/v1", "m");
        let lines = |endpoint: &LargeModelConfig, max_cost| {
            endpoint_lines("it", endpoint, &Map::new(), 1_000, max_cost).join("\n")
        };
        let said = lines(&endpoint, None);
        assert!(said.contains("writes: not bounded") && said.contains("no `prices`"), "{said}");
        endpoint.params.insert("max_tokens".into(), 500.into());
        endpoint.prices =
            Some(crate::large_model::Prices { input_per_million: 1.0, output_per_million: 4.0 });
        endpoint.requests_per_minute = Some(10);
        let said = lines(&endpoint, None);
        assert!(said.contains("writes: at most 500000"), "{said}");
        assert!(said.contains("at most 2.00 for what it writes"), "{said}");
        assert!(said.contains("time for it: 100 min"), "{said}");
        assert!(lines(&endpoint, Some(("max_cost", 7.0))).contains("at most 7.00, by `max_cost`"));
    }
}
