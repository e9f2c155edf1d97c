//! Whole runs of tiny models, and failures in them.

mod adapters;
mod async_rollouts;
mod collect;
mod evaluate;
mod judge;
mod origin;
mod rollbacks;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use candle_core::{DType, Device};
use tokio::sync::Semaphore;

use super::collect::{Collected, Sample};
use super::config::GrpoConfig;
use super::failure::Cause;
use super::rollout::Rollouts;
use super::run::run_grpo;
use super::tasks::Tasks;
use super::trainer::Trainer;
use super::{Evaluation, Preset};
use crate::episode::Limits;
use crate::large_model::{Call, LargeModel, LargeModelError, Reply, Scripted};
use crate::model::DtypeChoice;
use crate::model::{AdapterConfig, Model, Projection};
use crate::policy::{Policy, ScriptedPolicy};
use crate::protocol::Protocol;
use crate::reward::Rewarder;
use crate::train::config::StartConfig;
use crate::train::error::TrainError;
use crate::train::metrics::Values;
use crate::train::origin::Resume;
use crate::train::progress::Progress;
use crate::train::run_folder::RunFolder;
use crate::trajectory::{SampledToken, TokenTrace};

/// A run of a tiny new policy. Its reward counts the letter e in its output, which even a random
/// policy writes now and then.
fn config(folder: &Path) -> GrpoConfig {
    let text = r#"
        schema_version = 1
        output = "unset"
        steps = 4
        groups_per_step = 2
        group_size = 4
        checkpoint_every = 1
        reward = { external = { command = ["sh", "-c", "tr -cd e | wc -c"] } }
        limits = { max_turns = 2, max_turn_tokens = 12 }
        schedule = { peak = 0.01 }
        eval = { tasks = 2, every = 2 }
        guards = { min_response_growth = 0.0, max_entropy = 10.0 }
        large_model = { path = "unused" }
        [tasks]
        kind = "world"
        questions = [{ chain = 2 }, "comparison"]
        world = { people = 12, companies = 3, cities = 6, countries = 3 }
        [model.new]
        hidden_size = 16
        intermediate_size = 24
        num_hidden_layers = 1
        num_attention_heads = 2
        num_key_value_heads = 1
        head_dim = 8
        max_position_embeddings = 512
    "#;
    let mut config = Preset::Default.complete(toml::from_str(text).unwrap()).unwrap();
    config.output = folder.to_owned();
    config
}

/// Cancels after this many steps, and records its notifications.
#[derive(Default)]
struct Listener {
    cancel_after: Option<u64>,
    heard: Vec<Values>,
}

impl Progress for Listener {
    fn step(&mut self, _done: u64, _of: u64, values: &Values) {
        self.heard.push(values.clone());
    }

    fn is_cancelled(&self) -> bool {
        self.cancel_after.is_some_and(|after| self.heard.len() as u64 >= after)
    }
}

fn echo() -> Arc<dyn LargeModel> {
    Arc::new(Scripted::new("echo", |_: &Call| Ok(Reply::text("echo"))))
}

fn value(values: &Values, name: &str) -> f64 {
    values.iter().find(|(known, _)| *known == name).unwrap().1
}

/// Policy and optimizer after the last of four steps.
fn last_checkpoint(folder: &Path) -> Vec<Vec<u8>> {
    let folder = folder.join("checkpoints/step-00000004");
    let files = ["trainable.safetensors", "optimizer.safetensors", "state.json"];
    files.map(|file| std::fs::read(folder.join(file)).unwrap()).into()
}

/// Both types, with the largest allowed difference between the log-probabilities of the engine,
/// which computes in f32, and the trainer's. bf16 has 8 bits, so a logit of this small model is
/// within 0.01, and a log-probability is a difference of logits.
const TYPES: [(DtypeChoice, f64); 2] = [(DtypeChoice::F32, 1e-4), (DtypeChoice::Bf16, 0.02)];

#[test]
fn two_and_two_steps_are_four() {
    for (dtype, gap) in TYPES {
        for max_policy_lag in [0, 1, 2] {
            two_and_two_steps(dtype, gap, max_policy_lag);
        }
    }
}

fn two_and_two_steps(dtype: DtypeChoice, gap: f64, max_policy_lag: usize) {
    let config = |folder: &Path| {
        let mut config = config(folder);
        config.model.dtype = dtype;
        config.max_policy_lag = max_policy_lag;
        config
    };
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut heard = Listener::default();
    run_grpo(&config(whole.path()), echo(), false, &mut heard).unwrap();
    let config = config(cut.path());
    let mut first = Listener { cancel_after: Some(2), ..Listener::default() };
    let error = run_grpo(&config, echo(), false, &mut first).unwrap_err();
    assert!(matches!(error, TrainError::Interrupted(2)), "{error}");
    let error = run_grpo(&config, echo(), false, &mut Listener::default()).unwrap_err();
    assert!(matches!(error, TrainError::Occupied(_)), "{error}");
    let mut second = Listener::default();
    run_grpo(&config, echo(), true, &mut second).unwrap();

    assert_eq!(heard.heard.len(), 4);
    let resumed = first.heard.iter().chain(&second.heard);
    for (step, (a, b)) in heard.heard.iter().zip(resumed).enumerate() {
        for name in ["reward", "response_tokens", "eval_exact", "policy_lag"] {
            let find = |values: &Values| values.iter().find(|v| v.0 == name).map(|v| v.1);
            assert_eq!(find(a), find(b), "{name} of step {step}");
        }
        let policy_lag = value(a, "policy_lag");
        assert_eq!(policy_lag, step.min(max_policy_lag) as f64);
        let found = value(a, "rollout_logprob_diff_max");
        let is_live = found < gap;
        assert_eq!(is_live, policy_lag == 0.0, "{dtype:?}, step {step}: off by {found}");
        assert!(value(a, "gradient_norm") > 0.0);
    }
    let (whole, resumed) = (last_checkpoint(whole.path()), last_checkpoint(cut.path()));
    assert!(whole == resumed, "{dtype:?}, lag {max_policy_lag}: not bit-identical");
    let lines = std::fs::read_to_string(cut.path().join("metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 4);
    let evaluations = Evaluation::load_all(cut.path(), 4);
    assert_eq!(evaluations.iter().map(|e| e.step).collect::<Vec<_>>(), [0, 2, 4]);
    assert!(cut.path().join("report.html").is_file());
}

#[test]
fn every_option_together_still_trains() {
    for (dtype, _) in TYPES {
        every_option_together(dtype);
    }
}

fn every_option_together(dtype: DtypeChoice) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.model.dtype = dtype;
    config.steps = 2;
    config.updates_per_step = 2;
    config.extra_rounds = 1;
    config.objective.importance_cap = Some(2.0);
    config.objective.kl_coef = 0.1;
    config.objective.entropy_coef = 0.01;
    config.model.lora = Some(AdapterConfig {
        rank: 2,
        alpha: 4.0,
        targets: vec![Projection::Query, Projection::Up],
    });
    let mut heard = Listener::default();
    let model = run_grpo(&config, echo(), false, &mut heard).unwrap();
    assert!(model.join("adapter/adapter_config.json").is_file());
    assert!(value(&heard.heard[0], "kl").abs() < 1e-4, "it begins at the reference");
    assert!(value(&heard.heard[1], "kl") > 0.0);
    assert!(heard.heard.iter().flatten().all(|(_, value)| value.is_finite()));
}

/// bf16 has 8 bits, 0.4 % per rounding; master copies keep updates exact, so errors do not add up.
/// Where a sampled token falls on the other side of a rounding, the two runs diverge: hence the
/// first step only.
#[test]
fn bf16_begins_as_f32_does() {
    let [wide, narrow] = [DtypeChoice::F32, DtypeChoice::Bf16].map(|dtype| {
        // The start is rounded to bf16 first, so that both begin with the same weights.
        let folder = tempfile::tempdir().unwrap();
        let start = rounded_start(folder.path());
        let mut config = config(&folder.path().join("run"));
        config.steps = 1;
        config.model = StartConfig { path: Some(start), dtype, ..StartConfig::default() };
        let mut heard = Listener::default();
        run_grpo(&config, echo(), false, &mut heard).unwrap();
        heard.heard.remove(0)
    });
    for name in ["reward", "response_tokens"] {
        assert_eq!(value(&wide, name), value(&narrow, name), "the engine samples the same");
    }
    for name in ["entropy", "gradient_norm"] {
        let (a, b) = (value(&wide, name), value(&narrow, name));
        assert!((a - b).abs() < 0.02 * a, "{name}: {a} in f32, {b} in bf16");
    }
}

/// A new model whose values bf16 can hold.
fn rounded_start(folder: &Path) -> PathBuf {
    let mut config = config(&folder.join("first"));
    config.steps = 1;
    config.eval.tasks = 0;
    config.model.dtype = DtypeChoice::Bf16;
    run_grpo(&config, echo(), false, &mut Listener::default()).unwrap()
}

#[test]
fn a_guard_stops_the_run_and_the_best_policy_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.guards.min_entropy = 100.0;
    config.guards.patience = 2;
    config.guards.max_rollbacks = 0;
    let error = run_grpo(&config, echo(), false, &mut Listener::default()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, TrainError::Collapsed { step: 2, .. }), "{text}");
    assert!(text.contains("entropy was below 100 for 2 steps"), "{text}");
    assert!(folder.path().join("model/model.safetensors").is_file());
}

#[test]
fn when_everything_fails_the_run_ends_with_its_state_saved() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.eval.tasks = 0;
    config.max_policy_lag = 1;
    config.outage.pause_ms = 1;
    config.outage.retries = 2;
    // It works once, for the test before the first episode.
    let marker = folder.path().join("tried");
    let script = format!("test ! -e {0:?} && : > {0:?} && echo 1", marker.display());
    config.reward.external.as_mut().unwrap().command = vec!["sh".into(), "-c".into(), script];
    let error = run_grpo(&config, echo(), false, &mut Listener::default()).unwrap_err();
    assert!(
        matches!(
            error,
            TrainError::EpisodesFail {
                cause: Cause::Reward,
                step: 0,
                failed: 8,
                started: 8,
                retries: 2,
                ..
            }
        ),
        "{error}"
    );
    // Once the cause is gone, the run can be resumed with another reward.
    config.reward = self::config(folder.path()).reward;
    let error = run_grpo(&config, echo(), true, &mut Listener::default()).unwrap_err();
    assert!(error.to_string().contains("`reward.external.command`"), "{error}");
    run_grpo(&config, echo(), Resume::Changed, &mut Listener::default()).unwrap();
    let summary = std::fs::read_to_string(folder.path().join("summary.json")).unwrap();
    assert!(summary.contains("changed since the run began: `reward.external.command`"));
    assert!(summary.contains("\"zero_variance\"") && summary.contains("\"cut_turns\""));
}

#[test]
fn a_reward_that_cannot_be_made_ends_the_run_before_an_episode() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.reward.external.as_mut().unwrap().command = vec!["/no/such/program".into()];
    let error = run_grpo(
        &config,
        failing(|_| unreachable!("an episode was run")),
        false,
        &mut Listener::default(),
    );
    let error = error.unwrap_err();
    assert!(matches!(error, TrainError::Reward(_)), "{error}");
    assert!(error.to_string().contains("`/no/such/program`"), "{error}");
}

/// A policy that asks once and then answers with the reply.
fn asking_once() -> Arc<dyn Policy> {
    Arc::new(ScriptedPolicy::new(|shown| match shown {
        [_] => "<think>t</think><interaction_prompt>p</interaction_prompt>".to_owned(),
        [.., last] => {
            let answer = last.replace("interaction_response", "answer");
            format!("<think>t</think>{}", answer.trim())
        }
        [] => String::new(),
    }))
}

/// Three concurrent episodes.
fn rollouts(
    config: &GrpoConfig,
    policy: Arc<dyn Policy>,
    large_model: Arc<dyn LargeModel>,
) -> Rollouts {
    Rollouts {
        policy,
        large_model,
        protocol: Arc::new(Protocol::load(None).unwrap()),
        rewarder: Arc::new(Rewarder::new(&config.reward).unwrap()),
        judge: None,
        limits: Limits { fallback: false, ..config.limits.clone() },
        params: Default::default(),
        slots: Arc::new(Semaphore::new(3)),
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A model whose calls fail if `fails` returns true for the call's number.
fn failing(fails: impl Fn(usize) -> bool + Send + Sync + 'static) -> Arc<dyn LargeModel> {
    let calls = AtomicUsize::new(0);
    Arc::new(Scripted::new("failing", move |_: &Call| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        match fails(call) {
            true => Err(LargeModelError::Rejected { model: "m".into(), reason: "no".into() }),
            false => Ok(Reply::text("yes")),
        }
    }))
}

/// A model that cannot be reached once; its circuit breaker is open afterwards.
fn refusing() -> Arc<dyn LargeModel> {
    let calls = AtomicUsize::new(0);
    Arc::new(Scripted::new("refusing", move |_: &Call| {
        Err(match calls.fetch_add(1, Ordering::Relaxed) {
            0 => LargeModelError::Unreachable {
                model: "m".into(),
                url: "http://m".into(),
                reason: "connection refused".into(),
                was_sent: false,
            },
            _ => {
                LargeModelError::CircuitOpen { model: "m".into(), retry_in: Duration::from_secs(9) }
            }
        })
    }))
}

fn tied() -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model/tied");
    Model::load(&folder, DType::F32, &Device::Cpu).unwrap()
}

/// A trajectory with an observation in its middle; `noise` is the value at masked positions.
fn trace(seed: u32, noise: f32) -> TokenTrace {
    let mut trace = TokenTrace::default();
    trace.push_context(&[seed, 2, 3]);
    for id in [seed + 4, 5, 6] {
        trace.push_action(SampledToken { id, log_prob: -3.5 });
    }
    trace.push_context(&[7, seed]);
    trace.push_action(SampledToken { id: 9, log_prob: -3.5 });
    for (log_prob, sampled) in trace.log_probs.iter_mut().zip(&trace.action_mask) {
        *log_prob = if *sampled { *log_prob } else { noise };
    }
    trace
}

fn learn(traces: &[TokenTrace], advantages: &[f64], steps: usize) -> (Model, Vec<Values>) {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let run = RunFolder::open(folder.path()).unwrap();
    let mut trainer = Trainer::local(&config, &tied(), &run).unwrap();
    let samples: Vec<Sample<'_>> = (traces.iter().zip(advantages))
        .map(|(trace, &advantage)| Sample { trace, advantage })
        .collect();
    let figures = (0..steps).map(|_| trainer.step(&samples).unwrap().values(false)).collect();
    (trainer.policy().clone(), figures)
}

fn flat(model: &Model) -> Vec<f32> {
    let tensors = model.trainable();
    tensors.iter().flat_map(|(_, t)| t.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
}

#[test]
fn observations_have_exactly_no_part_in_the_update() {
    let with = |noise| learn(&[trace(1, noise), trace(20, noise)], &[1.0, -1.0], 2).0;
    assert_eq!(flat(&with(0.0)), flat(&with(-77.0)));
    assert_ne!(flat(&with(0.0)), flat(&tied()));
}

/// The sampled tokens' log-probabilities.
fn log_probs(model: &Model, trace: &TokenTrace) -> Vec<f32> {
    let (batch, selection) = crate::train::pack::pack(&[trace]);
    model.score(&batch, &selection, 1.0).unwrap().log_probs
}

fn likelihood(model: &Model, trace: &TokenTrace) -> f32 {
    log_probs(model, trace).iter().sum()
}

/// A trajectory with the log-probabilities of `model`.
fn sampled_by(model: &Model) -> TokenTrace {
    let mut trace = trace(1, 0.0);
    let mut own = log_probs(model, &trace).into_iter();
    for (log_prob, _) in
        trace.log_probs.iter_mut().zip(&trace.action_mask).filter(|(_, sampled)| **sampled)
    {
        *log_prob = own.next().unwrap();
    }
    trace
}

#[test]
fn what_was_better_gets_likelier() {
    let trace = sampled_by(&tied());
    for advantage in [1.0, -1.0] {
        let (after, figures) = learn(std::slice::from_ref(&trace), &[advantage], 1);
        let change = likelihood(&after, &trace) - likelihood(&tied(), &trace);
        assert!(f64::from(change) * advantage > 0.01, "{advantage}: {change}");
        assert!((value(&figures[0], "ratio") - 1.0).abs() < 1e-6);
    }
}

#[test]
fn an_update_that_is_not_finite_is_dropped_and_a_run_of_them_ends() {
    let traces = [trace(1, 0.0)];
    let (model, figures) = learn(&traces, &[f64::NAN], 4);
    assert_eq!(flat(&model), flat(&tied()));
    assert!(figures.iter().all(|values| value(values, "dropped_updates") == 1.0));

    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let run = RunFolder::open(folder.path()).unwrap();
    let mut trainer = Trainer::local(&config, &tied(), &run).unwrap();
    let sample = [Sample { trace: &traces[0], advantage: f64::NAN }];
    let outcomes: Vec<bool> = (0..5).map(|_| trainer.step(&sample).is_ok()).collect();
    assert_eq!(outcomes, [true, true, true, true, false]);
}

#[test]
fn what_was_sampled_without_a_probability_is_not_learnt() {
    let mut trace = trace(1, 0.0);
    trace.log_probs[3] = f32::NAN;
    let sample = [Sample { trace: &trace, advantage: 1.0 }];
    for cap in [None, Some(2.0)] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        config.objective.importance_cap = cap;
        let run = RunFolder::open(folder.path()).unwrap();
        let mut trainer = Trainer::local(&config, &tied(), &run).unwrap();
        let figures = trainer.step(&sample).unwrap().values(false);
        assert_eq!(value(&figures, "dropped_updates"), 1.0, "{cap:?}");
        assert_eq!(flat(trainer.policy()), flat(&tied()), "{cap:?}");
    }
}

#[test]
fn an_empty_file_of_tasks_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    let path = folder.path().join("tasks.jsonl");
    std::fs::write(&path, "").unwrap();
    config.tasks = super::TaskConfig::File { path, read: Default::default(), eval_path: None };
    let error = run_grpo(&config, echo(), false, &mut Listener::default()).unwrap_err();
    assert!(error.to_string().contains("tasks.jsonl` is empty"), "{error}");
}
