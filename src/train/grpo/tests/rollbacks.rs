//! Returning to the best policy.

use super::*;

/// A run whose first update ruins the policy.
fn ruinous(folder: &Path, rollbacks: u32) -> GrpoConfig {
    let mut config = config(folder);
    config.schedule.peak = 3.0;
    config.guards.min_entropy = 1.0;
    config.guards.patience = 1;
    config.guards.max_rollbacks = rollbacks;
    config.guards.rollback_lr_factor = 1e-5;
    config
}

fn rollbacks(values: &Values) -> Option<f64> {
    values.iter().find(|(name, _)| *name == "rollbacks").map(|(_, value)| *value)
}

#[test]
fn a_run_that_collapses_goes_back_to_its_best_policy_with_a_lower_rate() {
    let folder = tempfile::tempdir().unwrap();
    let without = ruinous(&folder.path().join("without"), 0);
    let error = run_grpo(&without, echo(), false, &mut Listener::default()).unwrap_err();
    assert!(matches!(error, TrainError::Collapsed { step: 2, .. }), "{error}");

    for max_policy_lag in [0, 2] {
        let root = folder.path().join(format!("with-{max_policy_lag}"));
        let mut with = ruinous(&root, 1);
        with.max_policy_lag = max_policy_lag;
        let mut heard = Listener::default();
        run_grpo(&with, echo(), false, &mut heard).unwrap();
        let heard = heard.heard;
        assert_eq!(heard.len(), 4);
        let found = heard.iter().map(rollbacks).collect::<Vec<_>>();
        let back = found.iter().position(Option::is_some).unwrap();
        assert!(found[back..].iter().all(|found| *found == Some(1.0)), "{found:?}");
        let (before, after) = (&heard[0], &heard[back]);
        assert_eq!(value(after, "learning_rate"), 1e-5 * value(before, "learning_rate"));
        let (first, last) = (value(before, "entropy"), value(&heard[3], "entropy"));
        assert!((first - last).abs() < 0.5, "it is the policy of the start: {first}, {last}");
        let summary = std::fs::read_to_string(root.join("summary.json")).unwrap();
        assert!(summary.contains("back to the policy after step 0"), "{summary}");
    }
}

#[test]
fn it_gives_up_after_so_many_rollbacks() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = ruinous(folder.path(), 2);
    config.steps = 20;
    config.guards.rollback_lr_factor = 1.0;
    let error = run_grpo(&config, echo(), false, &mut Listener::default()).unwrap_err();
    assert!(matches!(error, TrainError::Collapsed { step: 6, .. }), "{error}");
    assert!(folder.path().join("model/model.safetensors").is_file());
}

#[test]
fn a_run_that_was_ended_after_a_return_goes_on_as_if_it_had_not_been() {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run_grpo(&ruinous(whole.path(), 1), echo(), false, &mut Listener::default()).unwrap();
    let config = ruinous(cut.path(), 1);
    let mut first = Listener { cancel_after: Some(3), ..Listener::default() };
    let error = run_grpo(&config, echo(), false, &mut first).unwrap_err();
    assert!(matches!(error, TrainError::Interrupted(3)), "{error}");
    run_grpo(&config, echo(), true, &mut Listener::default()).unwrap();
    assert!(last_checkpoint(whole.path()) == last_checkpoint(cut.path()), "not bit for bit");
}
