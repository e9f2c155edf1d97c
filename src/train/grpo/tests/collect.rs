//! The episodes of a step: failed, replaced and truncated ones.

use super::*;

/// Gathers a step's episodes of a policy that asks once and then answers with the reply.
fn gather(large_model: Arc<dyn LargeModel>, change: impl FnOnce(&mut GrpoConfig)) -> Collected {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.reward = Default::default();
    change(&mut config);
    config.limits = Limits { max_turn_tokens: 50, ..Limits::default() };
    let rollouts = rollouts(&config, asking_once(), large_model);
    let tasks = Tasks::load(&config.tasks, 0, 0, |_| Ok(true)).unwrap();
    wait(Collected::once(&config, &tasks, &rollouts, 0)).unwrap()
}

#[test]
fn a_failed_call_is_retried_and_else_dropped() {
    let collected = gather(failing(|call| call == 2), |_| {});
    assert_eq!(
        (collected.failures.failed, collected.members().count()),
        (0, 8),
        "once is forgiven"
    );

    let collected = gather(failing(|_| true), |_| {});
    assert_eq!((collected.failures.failed, collected.failures.started), (8, 8));
    assert!(collected.failures.is_outage() && collected.samples().is_empty());
    assert!(collected.failures.last.unwrap().reason.contains("cannot take this call"));

    // Three concurrent episodes: the first three calls and their retries fail.
    let collected = gather(failing(|call| call < 6), |_| {});
    assert_eq!(collected.failures.failed, 3);
    assert!(!collected.failures.is_outage());
    let sizes: Vec<usize> = collected.groups.iter().map(|group| group.members.len()).collect();
    assert_eq!(sizes, [4], "a group of one is dropped");
}

#[test]
fn an_outage_is_reported_by_what_opened_the_breaker() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.reward = Default::default();
    config.outage.pause_ms = 1;
    config.outage.retries = 2;
    let rollouts = rollouts(&config, asking_once(), refusing());
    let tasks = Tasks::load(&config.tasks, 0, 0, |_| Ok(true)).unwrap();
    let error = wait(Collected::gather(&config, &tasks, &rollouts, 0)).err().unwrap();
    assert!(
        matches!(
            error,
            TrainError::EpisodesFail { cause: Cause::Model, failed: 8, retries: 2, .. }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("the last failure: cannot reach"), "{error}");
}

#[test]
fn the_share_of_turns_that_were_cut() {
    // The second turn has more words than the limit of 50 tokens.
    let policy = Arc::new(ScriptedPolicy::new(|shown| match shown {
        [_] => "<think>t</think><interaction_prompt>p</interaction_prompt>".to_owned(),
        _ => format!("<think>t</think><answer>{}</answer>", "word ".repeat(60)),
    }));
    let cut = |policy: Arc<dyn Policy>| {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        config.reward = Default::default();
        config.limits = Limits { max_turn_tokens: 50, ..Limits::default() };
        let rollouts = rollouts(&config, policy, failing(|_| false));
        let tasks = Tasks::load(&config.tasks, 0, 0, |_| Ok(true)).unwrap();
        value(&wait(Collected::once(&config, &tasks, &rollouts, 0)).unwrap().values(), "cut_turns")
    };
    assert_eq!(cut(asking_once()), 0.0);
    assert_eq!(cut(policy), 0.5);
}

#[test]
fn groups_without_variance_are_replaced_where_that_is_asked() {
    // All answer the same, so no group is of use.
    let collected = gather(failing(|_| false), |_| {});
    assert_eq!((collected.groups.len(), collected.samples().len()), (2, 0));
    assert_eq!(value(&collected.values(), "zero_variance"), 1.0);
    let collected = gather(failing(|_| false), |config| config.extra_rounds = 2);
    assert_eq!(collected.groups.len(), 6);
}

/// A model whose replies cost 0.5; of the prompts with `part`, it rejects the first `failing`.
fn paid(part: &'static str, failing: usize) -> Arc<dyn LargeModel> {
    let calls = AtomicUsize::new(0);
    Arc::new(Scripted::new("paid", move |call: &Call| {
        let is_one = call.messages.last().unwrap().as_text().contains(part);
        match is_one && calls.fetch_add(1, Ordering::Relaxed) < failing {
            true => Err(LargeModelError::Rejected { model: "m".into(), reason: "no".into() }),
            false => Ok(Reply { cost: 0.5, ..Reply::text("yes") }),
        }
    }))
}

#[test]
fn what_failed_attempts_and_dropped_groups_cost_is_counted() {
    // The first three episodes fail twice, and the fourth is alone in its group.
    let collected = gather(paid("", 6), |_| {});
    assert_eq!((collected.failures.failed, collected.members().count()), (3, 4));
    assert_eq!(value(&collected.values(), "cost"), 5.0 * 0.5);

    let asking_twice = Arc::new(ScriptedPolicy::new(|shown| {
        let ask =
            |prompt| format!("<think>t</think><interaction_prompt>{prompt}</interaction_prompt>");
        match shown.len() {
            1 => ask("first"),
            2 => ask("second"),
            _ => "<think>t</think><answer>yes</answer>".to_owned(),
        }
    }));
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.reward = Default::default();
    config.limits = Limits { max_turn_tokens: 50, ..Limits::default() };
    config.outage.pause_ms = 1;
    let tasks = Tasks::load(&config.tasks, 0, 0, |_| Ok(true)).unwrap();
    // One episode is repeated, with its first reply paid again; then a whole step is, after all of
    // its eight episodes failed twice behind a paid reply.
    for (failing, cost) in [(1, 8.0 + 0.5), (16, 8.0 + 8.0)] {
        let rollouts = rollouts(&config, asking_twice.clone(), paid("second", failing));
        let collected = wait(Collected::gather(&config, &tasks, &rollouts, 0)).unwrap();
        assert_eq!((collected.failures.failed, collected.members().count()), (0, 8));
        assert_eq!(value(&collected.values(), "cost"), cost);
    }
}
