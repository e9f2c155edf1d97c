//! Episodes of an older policy than the learning one.

use super::*;
use crate::engine::native::NativeEngine;
use crate::policy::TokenPolicy;
use crate::train::grpo::TaskConfig;
use crate::train::start::Start;

fn with_lag(folder: &Path, max_policy_lag: usize) -> GrpoConfig {
    let mut config = config(folder);
    config.max_policy_lag = max_policy_lag;
    config.extra_rounds = 1;
    config
}

/// Makes the steps of a run sequentially, with a new engine for each; returns the policy and the
/// optimizer as their files.
fn one_by_one(config: &GrpoConfig) -> [Vec<u8>; 2] {
    let TaskConfig::World { world, .. } = &config.tasks else { unreachable!() };
    let run = RunFolder::open(&config.output).unwrap();
    let start = Start::prepare(&config.model, &run, world, config.seed).unwrap();
    let tasks = Tasks::load(&config.tasks, config.seed, 0, |_| Ok(true)).unwrap();
    let mut trainer = Trainer::local(config, &start.model, &run).unwrap();
    let mut policies = vec![trainer.policy().clone()];
    for step in 0..config.steps {
        let sampling = &policies[(step as usize).saturating_sub(config.max_policy_lag)];
        let weights = sampling.merged().unwrap();
        let engine = NativeEngine::new(sampling.spec(), &weights, &config.engine).unwrap();
        let policy = TokenPolicy::new("policy", Arc::new(engine), Arc::clone(&start.text), false);
        let rollouts = rollouts(config, Arc::new(policy), echo());
        let collected = wait(Collected::once(config, &tasks, &rollouts, step)).unwrap();
        trainer.step(&collected.samples()).unwrap();
        policies.push(trainer.policy().clone());
    }
    trainer.save(&config.output).unwrap();
    ["trainable.safetensors", "optimizer.safetensors"]
        .map(|file| std::fs::read(config.output.join(file)).unwrap())
}

#[test]
fn which_policy_samples_follows_from_the_step_alone() {
    let ends = [0, 1, 2].map(|max_policy_lag| {
        let (run, plain) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = with_lag(run.path(), max_policy_lag);
        run_grpo(&config, echo(), false, &mut Listener::default()).unwrap();
        let found = last_checkpoint(run.path());
        let expected = one_by_one(&with_lag(plain.path(), max_policy_lag));
        assert!(found[..2] == expected, "lag {max_policy_lag}: not bit-identical");
        expected
    });
    assert!(ends[0] != ends[1] && ends[1] != ends[2] && ends[0] != ends[2]);
}

#[test]
fn a_run_stopped_after_any_step_goes_on_as_if_it_had_not_been() {
    let whole = tempfile::tempdir().unwrap();
    run_grpo(&with_lag(whole.path(), 2), echo(), false, &mut Listener::default()).unwrap();
    let cut = tempfile::tempdir().unwrap();
    let mut config = with_lag(cut.path(), 2);
    // No checkpoint is due: all are from interruptions.
    config.checkpoint_every = 1000;
    for resume in [false, true, true] {
        let mut once = Listener { cancel_after: Some(1), ..Listener::default() };
        run_grpo(&config, echo(), resume, &mut once).unwrap_err();
    }
    run_grpo(&config, echo(), true, &mut Listener::default()).unwrap();
    assert!(last_checkpoint(whole.path()) == last_checkpoint(cut.path()), "not bit for bit");
}

#[test]
fn episodes_wait_for_the_engine_and_do_not_fail() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.steps = 1;
    (config.engine.max_batch, config.engine.queue) = (1, 0);
    config.outage.retries = 0;
    let mut heard = Listener::default();
    run_grpo(&config, echo(), false, &mut heard).unwrap();
    assert_eq!(value(&heard.heard[0], "failed_episodes"), 0.0);
}

#[test]
fn a_run_resumes_with_another_policy_lag() {
    for (before, after, policy_lag) in [(0, 2, [0.0, 1.0]), (2, 1, [1.0, 1.0]), (2, 0, [0.0, 0.0])]
    {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Listener { cancel_after: Some(2), ..Listener::default() };
        run_grpo(&with_lag(folder.path(), before), echo(), false, &mut first).unwrap_err();
        let mut second = Listener::default();
        run_grpo(&with_lag(folder.path(), after), echo(), true, &mut second).unwrap();
        let found: Vec<f64> = second.heard.iter().map(|v| value(v, "policy_lag")).collect();
        assert_eq!(found, policy_lag, "{before}, then {after}");
    }
}

/// Without a cap, ratios are relative to the sampling policy, and the clip bounds them; with one,
/// they are relative to the current policy, and the rest is a bounded weight.
#[test]
fn what_an_older_policy_sampled_is_weighed_as_that() {
    let trace = sampled_by(&tied());
    let sample = [Sample { trace: &trace, advantage: 1.0 }];
    for cap in [None, Some(1.0), Some(100.0)] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        config.objective.importance_cap = cap;
        // So small that no ratio is clipped.
        config.schedule.peak = 1e-3;
        let run = RunFolder::open(folder.path()).unwrap();
        let mut trainer = Trainer::local(&config, &tied(), &run).unwrap();
        // The policy changes, and the trajectory does not.
        trainer.step(&sample).unwrap();

        let pairs = log_probs(trainer.policy(), &trace).into_iter().zip(log_probs(&tied(), &trace));
        let gone: Vec<f64> = pairs.map(|(now, then)| f64::from(now - then).exp()).collect();
        assert!(gone.iter().any(|gone| *gone > 1.0001), "{gone:?}");
        let tokens = gone.len() as f64;
        let token_gradients: Vec<f32> = (gone.iter())
            .map(|&gone| match cap {
                None if gone > 1.28 => 0.0,
                None => -gone / tokens,
                Some(cap) => -gone.min(cap) / tokens,
            })
            .map(|gradient| gradient as f32)
            .collect();
        let (batch, selection) = crate::train::pack::pack(&[&trace]);
        let (_, tape) = trainer.policy().forward(&batch, &selection, 1.0).unwrap();
        let mut gradients = trainer.policy().gradients().unwrap();
        trainer.policy().backward(tape, &token_gradients, None, &mut gradients).unwrap();
        let norm = gradients.norm().unwrap();

        let found = trainer.step(&sample).unwrap().values(false);
        let ratio = if cap.is_some() { 1.0 } else { gone.iter().sum::<f64>() / tokens };
        assert!((value(&found, "ratio") - ratio).abs() < 1e-5, "{cap:?}: {found:?}");
        let off = (value(&found, "gradient_norm") - norm).abs();
        assert!(off <= 1e-5 * norm, "{cap:?}: {norm} is off by {off}, {gone:?}");
    }
}
