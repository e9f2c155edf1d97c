//! Going on with an adapter.

use super::*;

/// The policy as it was when the run began: base and adapter together.
#[test]
fn the_reference_of_a_continued_adapter_includes_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = config(&folder.path().join("first"));
    first.steps = 2;
    // Without evaluations the last policy is what comes out.
    first.eval.tasks = 0;
    first.schedule.peak = 0.1;
    first.model.lora = Some(AdapterConfig {
        rank: 2,
        alpha: 8.0,
        targets: vec![Projection::Query, Projection::Up],
    });
    let adapter = run_grpo(&first, echo(), false, &mut Listener::default()).unwrap();
    let mut second = config(&folder.path().join("second"));
    second.steps = 1;
    second.objective.kl_coef = 0.1;
    second.model = StartConfig {
        path: Some(folder.path().join("first/start")),
        adapter: Some(adapter.join("adapter")),
        ..StartConfig::default()
    };
    let mut heard = Listener::default();
    run_grpo(&second, echo(), false, &mut heard).unwrap();
    assert!(value(&heard.heard[0], "kl").abs() < 1e-5, "{:?}", heard.heard[0]);
    // Where the run begins with the bare base, what it samples is another policy's.
    second.output = folder.path().join("third");
    second.model.adapter = None;
    let mut bare = Listener::default();
    run_grpo(&second, echo(), false, &mut bare).unwrap();
    let entropies = [&heard, &bare].map(|heard| value(&heard.heard[0], "entropy"));
    assert!((entropies[0] - entropies[1]).abs() > 1e-4, "the adapter changes nothing");
}
