//! Seconds a GRPO step takes on whole episodes of several turns: the trainer's own run, from the
//! bundled warm start, on questions about the bundled world, with a large model that is an HTTP
//! endpoint on this machine and takes 50 ms to reply. 4 groups of 8 episodes, at most 5 turns.
//! `grpo_episodes_baseline.py` makes the same steps with TRL.
//!
//! ```text
//! for round in 1 2 3; do
//!     cargo bench --bench grpo_episodes -- target/episodes
//!     OMP_NUM_THREADS=2 python benches/grpo_episodes_baseline.py target/episodes
//! done
//! ```
//!
//! A second argument of either is the number of steps. This bench makes them with each
//! `max_policy_lag` of [`AHEAD`], one run after the other: 0 is on-policy, as TRL's steps are; with
//! more, a step learns from the episodes of an older policy.
//!
//! Both do the same work per step:
//!
//! - This bench writes the questions and the replies into the folder, and the other reads them:
//!   each asks every question once, and its large model, which alone knows the facts, gives the
//!   same reply to the same prompt. No reply is remembered.
//! - The model, tokenizer, templates, temperature and limits are the same. The learning rate is so
//!   small that the policy stays what it is: turns and tokens of an episode are draws from one
//!   distribution. Both print their means, to be compared first.
//! - Every episode takes part in the update: a price on each sampled token makes the rewards of a
//!   group differ, where a group without variance would be left out here, and computed there.

#![allow(clippy::print_stdout)] // the figures are what it is for

mod upstream;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use prompt_r1::large_model::{Endpoint, EndpointSetup, LargeModel, LargeModelConfig};
use prompt_r1::train::grpo::{GrpoConfig, Preset, run_grpo};
use prompt_r1::train::memory;
use prompt_r1::train::metrics::Values;
use prompt_r1::train::progress::Progress;
use prompt_r1::world::{Split, TaskKind, World, WorldConfig};
use serde_json::{Value, json};
use upstream::upstream;

const LATENCY: Duration = Duration::from_millis(50);
const GROUPS: usize = 4;
const GROUP_SIZE: usize = 8;
/// Warm-up steps before the measured ones.
const WARM_UP: usize = 4;
/// How many steps ahead episodes are sampled.
const AHEAD: [usize; 3] = [0, 1, 2];

const TASKS: &str = "tasks.jsonl";
const REPLIES: &str = "replies.json";
/// The large model's reply to anything but a single fact.
const UNKNOWN: &str = "no";

/// The run; `grpo_episodes_baseline.py` has the same figures.
const CONFIG: &str = r#"
    schema_version = 1
    output = "unset"
    groups_per_step = 4
    group_size = 8
    checkpoint_every = 1000
    model = { path = "models/policy-warm" }
    tasks = { kind = "file", path = "unset" }
    large_model = { path = "unused", cache_replies = 0 }
    reward = { scheme = "strict", metric = "exact" }
    advantage = { overlong = { max_tokens = 320, margin = 320 } }
    schedule = { peak = 1e-7 }
    limits = { max_turns = 5, max_turn_tokens = 64, max_policy_tokens = 320, observation_chars = 200 }
    eval = { tasks = 0, every = 1000 }
"#;

fn main() -> anyhow::Result<()> {
    memory::retain_freed_memory();
    let temporary = tempfile::tempdir()?;
    // What `cargo bench` itself adds begins with dashes.
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let folder = arguments.next().map_or_else(|| temporary.path().join("episodes"), PathBuf::from);
    let steps: usize = arguments.next().map_or(Ok(30), |steps| steps.parse())?;
    fs::create_dir_all(&folder)?;
    let replies = write_tasks(&folder, WARM_UP + steps + AHEAD[AHEAD.len() - 1])?;
    let url = format!("http://{}/v1", upstream(move |request| reply(&request, &replies))?);
    for ahead in AHEAD {
        measure(ahead, steps, &folder, &url)?;
    }
    Ok(())
}

/// Runs this many steps, and prints their times.
fn measure(ahead: usize, steps: usize, folder: &Path, url: &str) -> anyhow::Result<()> {
    let run = tempfile::tempdir()?;
    let mut table: toml::Table = toml::from_str(CONFIG)?;
    // The last ones are not measured: no further episodes are in flight next to them.
    let all = WARM_UP + steps + ahead;
    table.insert("steps".into(), toml::Value::Integer(all as i64));
    table.insert("max_policy_lag".into(), toml::Value::Integer(ahead as i64));
    table.insert("output".into(), path_value(run.path())?);
    let tasks = table.get_mut("tasks").and_then(toml::Value::as_table_mut).context("no tasks")?;
    tasks.insert("path".into(), path_value(&folder.join(TASKS))?);
    let config: GrpoConfig = Preset::Default.complete(table)?;
    anyhow::ensure!((config.groups_per_step, config.group_size) == (GROUPS, GROUP_SIZE));

    let endpoint = LargeModelConfig::new(url, "m");
    let setup = EndpointSetup { keys: &|_| None, observer: Arc::new(()), seed: 0 };
    let large_model: Arc<dyn LargeModel> = Arc::new(Endpoint::new("m", &endpoint, &setup)?);
    let mut clock = Clock { steps: Vec::new(), last: Instant::now() };
    run_grpo(&config, large_model, false, &mut clock)?;
    println!("max_policy_lag = {ahead}:");
    report(clock.steps.get(WARM_UP..WARM_UP + steps).unwrap_or_default())
}

fn path_value(path: &Path) -> anyhow::Result<toml::Value> {
    Ok(toml::Value::String(path.to_str().context("a path is not UTF-8")?.to_owned()))
}

/// Writes one question for each group of this many steps, and the facts; returns the facts.
fn write_tasks(folder: &Path, steps: usize) -> anyhow::Result<HashMap<String, String>> {
    let world = World::generate(&WorldConfig::default())?;
    let kinds = [TaskKind::Chain(2), TaskKind::Chain(3), TaskKind::Chain(4), TaskKind::Comparison];
    let drawn = world.sample_tasks(Split::Train, &kinds, GROUPS * steps, 0)?;
    let lines: Vec<String> = drawn
        .iter()
        .map(|drawn| json!({"question": drawn.task.question, "answers": drawn.task.golds}))
        .map(|row| format!("{row}\n"))
        .collect();
    fs::write(folder.join(TASKS), lines.concat())?;
    let replies: HashMap<String, String> =
        world.single_facts().map(|fact| (fact.question, fact.answer)).collect();
    fs::write(folder.join(REPLIES), serde_json::to_string(&replies)?)?;
    Ok(replies)
}

/// The large model's response to a request, after [`LATENCY`].
fn reply(request: &[u8], replies: &HashMap<String, String>) -> String {
    thread::sleep(LATENCY);
    let request: Value = serde_json::from_slice(request).unwrap_or_default();
    let messages = request["messages"].as_array();
    let last = messages.and_then(|all| all.last()).and_then(|m| m["content"].as_str());
    let reply = last.and_then(|prompt| replies.get(prompt.trim()));
    json!({
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": reply.map_or(UNKNOWN, String::as_str)},
            "finish_reason": "stop",
        }],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    })
    .to_string()
}

/// Seconds from the end of one step to the end of the next, and the step's metrics.
struct Clock {
    steps: Vec<(f64, Values)>,
    last: Instant,
}

impl Progress for Clock {
    fn step(&mut self, _done: u64, _of: u64, values: &Values) {
        let now = Instant::now();
        self.steps.push(((now - self.last).as_secs_f64(), values.clone()));
        self.last = now;
    }
}

fn report(counted: &[(f64, Values)]) -> anyhow::Result<()> {
    let steps = counted.len();
    anyhow::ensure!(steps > 0, "no step was made after the {WARM_UP} that warm up");
    let mut seconds: Vec<f64> = counted.iter().map(|(seconds, _)| *seconds).collect();
    seconds.sort_by(f64::total_cmp);
    let median = (seconds[(steps - 1) / 2] + seconds[steps / 2]) / 2.0;
    // Steps whose episodes overlap can come in bursts, so the mean is what counts.
    let each = seconds.iter().sum::<f64>() / steps as f64;
    let mean = |name: &str| {
        let values = counted.iter().flat_map(|(_, values)| values);
        let sum: f64 = values.filter(|(known, _)| *known == name).map(|(_, v)| v).sum();
        sum / steps as f64
    };
    anyhow::ensure!(mean("failed_episodes") == 0.0, "episodes failed");
    let tokens = mean("response_tokens");
    println!(
        "{each:.3} s a step (median {median:.3}, {:.3} to {:.3}, {steps} steps); {:.0} episodes/s, {:.0} sampled tokens/s; \
         {:.2} turns, {:.2} calls and {tokens:.1} sampled tokens an episode",
        seconds[0],
        seconds[steps - 1],
        (GROUPS * GROUP_SIZE) as f64 / each,
        (GROUPS * GROUP_SIZE) as f64 * tokens / each,
        mean("turns"),
        mean("large_model_calls"),
    );
    println!(
        "of it: {:.3} s wait for episodes, which took {:.3} s and were {:.2} steps old; {:.3} s update; {:.1} % of groups without variance",
        mean("wait_seconds"),
        mean("rollout_seconds"),
        mean("policy_lag"),
        mean("update_seconds"),
        100.0 * mean("zero_variance"),
    );
    Ok(())
}
