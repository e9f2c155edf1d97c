//! Evaluations that fail or are interrupted.

use serde_json::{Map, Value};

use super::*;
use crate::dataset::ReadOptions;
use crate::large_model::CallUsage;
use crate::reward::{AnswerMetric, RewardConfig};
use crate::train::grpo::config::{JudgeChoice, TaskConfig};
use crate::train::grpo::judge::AnswerJudge;

/// A policy that asks once, about each question something else, and answers with the reply.
fn asking_differently() -> Arc<dyn Policy> {
    Arc::new(ScriptedPolicy::new(|shown| match shown {
        [opening] => {
            let about = crc32c::crc32c(opening.as_bytes());
            format!("<think>t</think><interaction_prompt>{about}</interaction_prompt>")
        }
        _ => "<think>t</think><answer>yes</answer>".to_owned(),
    }))
}

/// A model that always rejects the first prompt that it was sent.
fn rejecting_one() -> Arc<dyn LargeModel> {
    let first = std::sync::Mutex::new(None);
    Arc::new(Scripted::new("rejecting", move |call: &Call| {
        let prompt = call.messages.last().unwrap().as_text();
        match *first.lock().unwrap().get_or_insert_with(|| prompt.clone()) == prompt {
            true => Err(LargeModelError::Rejected { model: "m".into(), reason: "no".into() }),
            false => Ok(Reply::text("yes")),
        }
    }))
}

/// An evaluation of 4 tasks.
fn evaluation(large_model: Arc<dyn LargeModel>) -> Result<Evaluation, TrainError> {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.reward = Default::default();
    config.limits = Limits { max_turn_tokens: 50, ..Limits::default() };
    config.outage.pause_ms = 1;
    config.outage.retries = 2;
    let rollouts = rollouts(&config, asking_differently(), large_model);
    let tasks = Tasks::load(&config.tasks, 0, 4, |_| Ok(true)).unwrap();
    wait(Evaluation::run(&config.outage, &tasks, &rollouts, 6))
}

#[test]
fn what_fails_is_counted_and_an_outage_is_waited_for() {
    let whole = evaluation(failing(|_| false)).unwrap();
    assert_eq!((whole.all.tasks, whole.failed), (4, 0));
    let partly = evaluation(rejecting_one()).unwrap();
    assert_eq!((partly.all.tasks, partly.failed), (3, 1));
    assert_eq!(value(&partly.values(), "eval_failed"), 1.0);
    assert_eq!(partly.at_least().tasks, 4, "what failed counts as wrong");
    // All fail, in both attempts; after a pause they do not.
    let later = evaluation(failing(|call| call < 8)).unwrap();
    assert_eq!((later.all, later.failed), (whole.all, 0));
    let error = evaluation(failing(|_| true)).unwrap_err();
    let expected = matches!(
        error,
        TrainError::EpisodesFail {
            cause: Cause::Model,
            step: 6,
            failed: 4,
            started: 4,
            retries: 2,
            ..
        }
    );
    assert!(expected, "{error}");
}

/// Four tasks with the gold 42, which are answered in a sentence.
fn evaluation_of_sentences(
    metric: Option<AnswerMetric>,
    judge: Option<Arc<AnswerJudge>>,
) -> Evaluation {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tasks.jsonl");
    let rows = [0, 1, 2, 3].map(|n| format!("{{\"question\": \"q {n}\", \"answer\": \"42\"}}"));
    std::fs::write(&path, rows.join("\n")).unwrap();
    let mut config = config(folder.path());
    config.reward = RewardConfig { metric, ..RewardConfig::default() };
    let read = ReadOptions::default();
    config.tasks = TaskConfig::File { path: path.clone(), read, eval_path: Some(path) };
    let policy = Arc::new(ScriptedPolicy::new(|shown| match shown {
        [_] => "<think>t</think><interaction_prompt>p</interaction_prompt>".to_owned(),
        _ => "<think>t</think><answer>It is 42.</answer>".to_owned(),
    }));
    config.limits = Limits { max_turn_tokens: 50, ..Limits::default() };
    let rollouts = Rollouts { judge, ..rollouts(&config, policy, echo()) };
    let tasks = Tasks::load(&config.tasks, 0, 4, |_| Ok(true)).unwrap();
    wait(Evaluation::run(&config.outage, &tasks, &rollouts, 0)).unwrap()
}

#[test]
fn an_answer_is_right_by_the_metric_or_the_judge() {
    let numeric = evaluation_of_sentences(Some(AnswerMetric::Numeric), None);
    assert_eq!((numeric.all.tasks, numeric.all.exact), (4, 4));
    let by_words = evaluation_of_sentences(Some(AnswerMetric::F1), None);
    assert_eq!((by_words.all.tasks, by_words.all.exact), (4, 0));
    for (score, exact) in [(1, 4), (0, 0)] {
        let model = Arc::new(Scripted::new("judge", move |_: &Call| {
            Ok(Reply::text(format!("Score: {score}")))
        }));
        let choice = JudgeChoice::default();
        let judge = AnswerJudge::new(&choice, model, CallUsage::default()).unwrap();
        let judged = evaluation_of_sentences(None, Some(Arc::new(judge)));
        assert_eq!((judged.all.tasks, judged.all.exact), (4, exact));
    }
}

/// Cancels once a file exists.
struct StopsAt {
    file: PathBuf,
    steps: usize,
}

impl Progress for StopsAt {
    fn step(&mut self, _done: u64, _of: u64, _values: &Values) {
        self.steps += 1;
    }

    fn is_cancelled(&self) -> bool {
        self.file.exists()
    }
}

/// The logged metrics, without those of time.
fn logged(folder: &Path) -> Vec<Map<String, Value>> {
    let is_time = |name: &str| name.ends_with("_seconds") || name.ends_with("_per_second");
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let mut lines: Vec<Map<String, Value>> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.iter_mut().for_each(|line| line.retain(|name, _| !is_time(name)));
    lines
}

fn steps_in_summary(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("summary.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["steps"].clone()
}

/// The best policy as the checkpoint after `step` steps has it.
fn best(folder: &Path, step: u64) -> Value {
    let state = folder.join(format!("checkpoints/step-{step:08}/state.json"));
    let text = std::fs::read_to_string(state).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["best"].clone()
}

#[test]
fn the_best_policy_is_compared_on_the_same_questions() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    let mut first = Listener { cancel_after: Some(2), ..Listener::default() };
    run_grpo(&config, echo(), false, &mut first).unwrap_err();
    let before = best(folder.path(), 2);
    assert_eq!(before["result"]["tasks"], 2);

    config.eval.tasks = 4;
    config.eval.every = 1;
    let refused = run_grpo(&config, echo(), true, &mut Listener::default()).unwrap_err();
    let refused = refused.to_string();
    assert!(refused.contains("`eval.tasks`: 2 became 4"), "{refused}");
    assert!(!refused.contains("eval.every"), "{refused}");
    run_grpo(&config, echo(), Resume::Changed, &mut Listener::default()).unwrap();
    assert_eq!(best(folder.path(), 4)["result"]["tasks"], 4);
    let measured = Evaluation::load_all(folder.path(), 4);
    let again = measured.iter().find(|found| before["step"] == found.step).unwrap();
    assert_eq!(again.all.tasks, 4);
    let summary = std::fs::read_to_string(folder.path().join("summary.json")).unwrap();
    assert!(summary.contains("is evaluated again"), "{summary}");

    let whole = tempfile::tempdir().unwrap();
    config.output = whole.path().to_owned();
    run_grpo(&config, echo(), false, &mut Listener::default()).unwrap();
    let weights = |folder: &Path| last_checkpoint(folder).remove(0);
    assert!(weights(folder.path()) == weights(whole.path()), "it has no part in what is learnt");
}

#[test]
fn a_stop_during_an_evaluation_loses_nothing() {
    for max_policy_lag in [0, 1] {
        let with = |folder: &Path| {
            let mut config = config(folder);
            // No checkpoint is due: all are from interruptions, or of the best policy.
            config.checkpoint_every = 100;
            config.max_policy_lag = max_policy_lag;
            config
        };
        let whole = tempfile::tempdir().unwrap();
        run_grpo(&with(whole.path()), echo(), false, &mut Listener::default()).unwrap();
        assert_eq!(logged(whole.path()).len(), 4);
        for (at, before) in [(2, 1), (4, 3)] {
            let cut = tempfile::tempdir().unwrap();
            let config = with(cut.path());
            // It is written after the update, before the evaluation.
            let file = cut.path().join(format!("samples/step-{at:08}.json"));
            let mut stopped = StopsAt { file, steps: 0 };
            let error = run_grpo(&config, echo(), false, &mut stopped).unwrap_err();
            assert!(matches!(error, TrainError::Interrupted(step) if step == at), "{error}");
            assert_eq!((stopped.steps, logged(cut.path()).len()), (before, before));
            let mut heard = Listener::default();
            run_grpo(&config, echo(), true, &mut heard).unwrap();
            assert_eq!(heard.heard.len(), 4 - before, "the step is logged now");
            assert_eq!(logged(cut.path()), logged(whole.path()), "stopped at {at}");
            assert!(last_checkpoint(cut.path()) == last_checkpoint(whole.path()));
            let model = |folder: &Path| std::fs::read(folder.join("model/model.safetensors"));
            assert!(model(cut.path()).unwrap() == model(whole.path()).unwrap(), "another is best");
            // No step is left to do.
            run_grpo(&config, echo(), true, &mut Listener::default()).unwrap();
            assert_eq!(steps_in_summary(cut.path()), 4);
        }
    }
}
