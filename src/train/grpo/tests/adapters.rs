//! Runs that go on with an adapter.

use super::*;

/// A run of a new adapter, which moves far from its base in a few steps.
fn adapter_run(folder: &Path) -> GrpoConfig {
    let mut config = config(folder);
    config.eval.tasks = 0; // else an evaluation may choose the policy of the start
    config.objective.kl_coef = 0.01;
    config.schedule.peak = 0.3;
    config.model.lora = Some(AdapterConfig {
        rank: 2,
        alpha: 16.0,
        targets: vec![Projection::Query, Projection::Up, Projection::Down],
    });
    config
}

fn divergences(config: &GrpoConfig) -> Vec<f64> {
    let mut heard = Listener::default();
    run_grpo(config, echo(), false, &mut heard).unwrap();
    heard.heard.iter().map(|values| value(values, "kl")).collect()
}

#[test]
fn what_a_run_is_held_to_has_the_adapter_that_it_began_with() {
    let folder = tempfile::tempdir().unwrap();
    let first = adapter_run(&folder.path().join("first"));
    let from_base = divergences(&first);
    assert!(from_base[0].abs() < 1e-6, "a new adapter changes nothing: {from_base:?}");
    assert!(from_base[3] > 1e-3, "it learns: {from_base:?}");

    let mut second = adapter_run(&folder.path().join("second"));
    second.model = StartConfig {
        path: Some(first.output.join("start")),
        adapter: Some(first.output.join("model/adapter")),
        ..StartConfig::default()
    };
    let from_adapter = divergences(&second);
    assert!(
        from_adapter[0].abs() < 1e-6,
        "from the bare base it is {from_base:?}: {from_adapter:?}"
    );
    assert!(from_adapter[3] > 1e-4, "it learns: {from_adapter:?}");
}
