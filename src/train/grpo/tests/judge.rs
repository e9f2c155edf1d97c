//! A large model that judges answers.

use super::*;
use crate::large_model::{CachedModel, CallUsage};
use crate::train::grpo::config::JudgeChoice;
use crate::train::grpo::judge::AnswerJudge;
use crate::train::grpo::run::Services;
use crate::trajectory::TokenUsage;

/// A judge that always gives this reply, at a cost of 0.5.
fn judge(reply: &str) -> Arc<dyn LargeModel> {
    let reply = reply.to_owned();
    Arc::new(Scripted::new("judge", move |call: &Call| {
        assert!(call.messages[0].as_text().contains("yes"), "it is shown the answer");
        let usage = TokenUsage { prompt_tokens: 20, completion_tokens: 3, ..TokenUsage::default() };
        Ok(Reply { usage, cost: 0.5, ..Reply::text(&reply) })
    }))
}

/// A step of episodes that all answer "yes".
fn judged(
    policy: Arc<dyn Policy>,
    large_model: Arc<dyn LargeModel>,
    judge: Arc<dyn LargeModel>,
    choice: JudgeChoice,
) -> Result<Collected, TrainError> {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.reward = Default::default();
    config.outage.retries = 0;
    config.limits = Limits { max_turn_tokens: 50, ..Limits::default() };
    let judge = AnswerJudge::new(&choice, judge, CallUsage::default()).unwrap();
    let rollouts =
        Rollouts { judge: Some(Arc::new(judge)), ..rollouts(&config, policy, large_model) };
    let tasks = Tasks::load(&config.tasks, 0, 0, |_| Ok(true)).unwrap();
    wait(Collected::gather(&config, &tasks, &rollouts, 0))
}

fn yes() -> Arc<dyn LargeModel> {
    failing(|_| false)
}

#[test]
fn the_answer_is_worth_what_the_judge_says() {
    let choice = JudgeChoice::default();
    let collected = judged(asking_once(), yes(), judge("Score: 0.75"), choice).unwrap();
    assert_eq!(collected.members().count(), 8);
    for scored in collected.members() {
        // The form is perfect, so the published formula gives the answer's score.
        assert_eq!((scored.reward.total, scored.reward.answer), (0.75, 0.75));
    }
    let values = collected.values();
    assert_eq!((value(&values, "judge_calls"), value(&values, "judge_cost")), (8.0, 4.0));
    // "yes" is right for one of the two questions.
    assert_eq!(value(&values, "judge_agreement"), 0.5);
    let strict = judged(asking_once(), yes(), judge("Score: 0.1"), JudgeChoice::default()).unwrap();
    assert_eq!(value(&strict.values(), "judge_agreement"), 0.5);
}

#[test]
fn a_reply_that_is_remembered_is_no_call() {
    let remembered = Arc::new(CachedModel::in_memory(judge("Score: 1"), 10));
    let choice = JudgeChoice { max_calls: Some(8), ..JudgeChoice::default() };
    let collected = judged(asking_once(), yes(), remembered, choice).unwrap();
    // Two questions, four times the same answer.
    assert_eq!(value(&collected.values(), "judge_calls"), 2.0);
}

/// It may have been billed; a call that was refused, or not made, was not.
#[test]
fn a_call_that_fails_counts_in_the_budget() {
    let unreachable = |was_sent| LargeModelError::Unreachable {
        model: "m".into(),
        url: "http://m".into(),
        reason: "reset".into(),
        was_sent,
    };
    for (was_sent, calls) in [(true, 1), (false, 0)] {
        let model = Scripted::new("judge", move |_: &Call| Err(unreachable(was_sent)));
        let judge =
            AnswerJudge::new(&JudgeChoice::default(), Arc::new(model), CallUsage::default());
        let judge = judge.unwrap();
        let task = crate::task::Task { golds: vec!["yes".into()], ..Default::default() };
        wait(judge.try_out(&task)).unwrap_err();
        assert_eq!(judge.used().calls, calls, "sent: {was_sent}");
    }
}

#[test]
fn an_answer_that_cannot_count_is_not_judged() {
    let thoughtless: Arc<dyn Policy> =
        Arc::new(ScriptedPolicy::new(|_| "<answer>yes</answer>".into()));
    let never = Arc::new(Scripted::new("judge", |_: &Call| unreachable!("it was asked")));
    let collected = judged(thoughtless, yes(), never, JudgeChoice::default()).unwrap();
    assert_eq!(collected.members().count(), 8);
    assert!(collected.values().iter().all(|(name, _)| !name.starts_with("judge")));
}

#[test]
fn a_judge_that_fails_is_an_outage_of_the_judge() {
    for judge in [failing(|_| true), judge("I cannot say.")] {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let large_model = failing(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            false
        });
        let ended = judged(asking_once(), large_model, judge, JudgeChoice::default());
        let error = ended.err().unwrap();
        assert!(
            matches!(
                error,
                TrainError::EpisodesFail { cause: Cause::Judge, failed: 8, started: 8, .. }
            ),
            "{error}"
        );
        assert_eq!(calls.load(Ordering::Relaxed), 8, "no episode is run again for it");
    }
}

#[test]
fn an_outage_of_the_judge_is_reported_by_what_opened_the_breaker() {
    let error = judged(asking_once(), yes(), refusing(), JudgeChoice::default()).err().unwrap();
    assert!(
        matches!(error, TrainError::EpisodesFail { cause: Cause::Judge, failed: 8, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("connection refused"), "{error}");
}

#[test]
fn a_budget_that_is_used_up_ends_the_run_at_once() {
    let cost = JudgeChoice { max_cost: Some(1.5), ..JudgeChoice::default() };
    let calls = JudgeChoice { max_calls: Some(3), ..JudgeChoice::default() };
    for (choice, named) in [(cost, "`judge.max_cost` = 1.5"), (calls, "`judge.max_calls` = 3")] {
        let error = judged(asking_once(), yes(), judge("Score: 1"), choice).err().unwrap();
        assert!(matches!(error, TrainError::EpisodesFail { cause: Cause::Judge, .. }), "{error}");
        assert!(error.to_string().contains(named), "{error}");
        assert!(error.to_string().contains("because of the judge"), "{error}");
    }
}

#[test]
fn a_judge_that_is_down_is_found_before_an_episode() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.judge = Some(JudgeChoice::default());
    let large_model = failing(|_| unreachable!("an episode was run"));
    let models = Services { judge: Some(failing(|_| true)), ..Services::from(large_model) };
    let error = run_grpo(&config, models, false, &mut Listener::default()).unwrap_err();
    assert!(matches!(error, TrainError::JudgeIsDown(_)), "{error}");
}
