//! The answer where the policy gives none, for policies whose prompts are parts of the question.

use super::*;

/// A protocol whose prompts do not bring the question along.
fn parts(history: bool) -> Protocol {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("prompt.j2"), "{{ prompt }}").unwrap();
    let settings = folder.path().join(crate::protocol::SETTINGS_FILE);
    std::fs::write(settings, format!(r#"{{"history": {history}}}"#)).unwrap();
    Protocol::load(Some(folder.path())).unwrap()
}

fn request(limits: Limits) -> EpisodeRequest {
    EpisodeRequest { limits, ..EpisodeRequest::new("the question", Sampling::GREEDY) }
}

#[tokio::test]
async fn only_a_reply_to_the_question_is_taken_for_its_answer() {
    use FinishReason::{Malformed, TurnLimit};
    const ASK_ALL: &str = "<interaction_prompt>Solve: <question/></interaction_prompt>";
    const ASK_IN_OTHER_WORDS: &str = "<interaction_prompt>THE  question!</interaction_prompt>";
    let question = "the question";
    let cases = [
        // Parts: their replies answer something else, so the question itself is asked.
        ([ASK_A, ASK_B], false, "r3", TurnLimit, vec!["a", "b", question]),
        ([ASK_A, ASK_B], true, "r3", TurnLimit, vec!["a", "b", question]),
        ([ASK_A, "hm"], false, "r2", Malformed, vec!["a", question]),
        // A prompt that contains the question has its answer, and in a conversation those after it.
        ([ASK_ALL, ASK_B], false, "r1", TurnLimit, vec!["Solve: the question", "b"]),
        ([ASK_ALL, ASK_B], true, "r2", TurnLimit, vec!["Solve: the question", "b"]),
        ([ASK_A, ASK_IN_OTHER_WORDS], false, "r2", TurnLimit, vec!["a", "THE  question!"]),
    ];
    for (turns, history, answer, reason, prompts) in cases {
        let protocol = parts(history);
        let policy = ScriptedPolicy::turns(turns);
        let (model, asked) = counting();
        let participants =
            Participants { policy: &policy, large_model: &model, protocol: &protocol };
        let request = request(Limits { max_turns: 2, ..Limits::default() });
        let episode = run_episode(participants, &request, &mut DiscardEvents).await.unwrap();
        assert_eq!((&*episode.answer, episode.finish_reason), (answer, reason), "{turns:?}");
        assert_eq!(episode.answer_source, AnswerSource::LargeModel);
        let asked = asked.lock().unwrap();
        let last: Vec<&str> =
            asked.iter().filter_map(|messages| messages.last()).map(String::as_str).collect();
        assert_eq!(last, prompts, "{turns:?}");
        // The question is asked as it would be without the policy.
        let is_alone = |messages: &Vec<String>| messages.len() == 1;
        assert!(asked.last().is_some_and(|messages| history || is_alone(messages)));
    }
}

#[tokio::test]
async fn any_reply_is_the_answer_where_that_is_asked_for() {
    let protocol = parts(false);
    let policy = ScriptedPolicy::turns([ASK_A]);
    let (model, asked) = counting();
    let participants = Participants { policy: &policy, large_model: &model, protocol: &protocol };
    let request = EpisodeRequest {
        takes_any_reply: true,
        ..request(Limits { max_turns: 1, ..Limits::default() })
    };
    let episode = run_episode(participants, &request, &mut DiscardEvents).await.unwrap();
    assert_eq!(episode.answer, "r1");
    assert_eq!(*asked.lock().unwrap(), [["a"]]);
}

/// Replies to `a`, maybe to the question, and to nothing else.
struct Halting {
    knows_question: bool,
}

#[async_trait::async_trait]
impl LargeModel for Halting {
    fn name(&self) -> &str {
        "halting"
    }

    fn prices(&self) -> crate::large_model::Prices {
        crate::large_model::Prices::default()
    }

    async fn complete(&self, call: &Call) -> Result<Reply, LargeModelError> {
        match &*call.messages.last().unwrap().as_text() {
            "a" => Ok(Reply { cost: 1.0, ..Reply::text("a reply") }),
            "the question" if self.knows_question => Ok(Reply::text("the answer")),
            _ => std::future::pending().await,
        }
    }

    async fn stream(&self, call: &Call) -> Result<ReplyStream, LargeModelError> {
        self.complete(call).await.map(reply_stream)
    }
}

#[tokio::test]
async fn time_is_kept_to_ask_the_question() {
    let protocol = parts(false);
    let policy = ScriptedPolicy::turns([ASK_A, ASK_B]);
    let request = request(Limits { deadline_ms: 1_000, ..Limits::default() });
    let run = async |model: &Halting| {
        let participants =
            Participants { policy: &policy, large_model: model, protocol: &protocol };
        let request = EpisodeRequest { started: Instant::now(), ..request.clone() };
        run_episode(participants, &request, &mut DiscardEvents).await
    };
    let episode = run(&Halting { knows_question: true }).await.unwrap();
    assert_eq!(episode.answer, "the answer");
    assert_eq!(episode.finish_reason, FinishReason::Deadline);
    let error = run(&Halting { knows_question: false }).await.unwrap_err();
    let is_late = matches!(
        &error.kind,
        EpisodeErrorKind::Deadline { .. }
            | EpisodeErrorKind::LargeModel(LargeModelError::Deadline { .. })
    );
    assert!(is_late, "{error}");
}

#[tokio::test]
async fn without_fallback_a_late_reply_ends_an_episode_that_has_others() {
    let protocol = parts(false);
    let model = Halting { knows_question: false };
    let limits = Limits { deadline_ms: 500, fallback: false, ..Limits::default() };
    for (first, is_ended) in [(ASK_A, true), (ASK_B, false)] {
        let policy = ScriptedPolicy::turns([first, ASK_B]);
        let participants =
            Participants { policy: &policy, large_model: &model, protocol: &protocol };
        let ended = run_episode(participants, &request(limits.clone()), &mut DiscardEvents).await;
        let found = ended.map(|episode| (episode.answer, episode.finish_reason)).ok();
        let expected = is_ended.then_some((String::new(), FinishReason::Deadline));
        assert_eq!(found, expected, "{first}");
    }
}

#[tokio::test]
async fn a_spent_budget_pays_for_no_further_call() {
    let protocol = parts(false);
    let policy = ScriptedPolicy::turns([ASK_A, ASK_B]);
    let model = Halting { knows_question: true };
    let participants = Participants { policy: &policy, large_model: &model, protocol: &protocol };
    // Also if the turn that spent it was the last one.
    for max_turns in [8, 1] {
        let request = request(Limits { max_cost: Some(0.5), max_turns, ..Limits::default() });
        let error = run_episode(participants, &request, &mut DiscardEvents).await.unwrap_err();
        assert!(matches!(error.kind, EpisodeErrorKind::Budget { .. }), "{error}");
        assert_eq!(error.usage.large_model.calls, 1);
    }
}

#[tokio::test]
async fn a_malformed_answer_that_was_streamed_is_an_error() {
    let policy = ScriptedPolicy::turns(["<answer>b</answer c</answer>"]);
    let (model, asked) = counting();
    let protocol = Protocol::load(None).unwrap();
    let participants = Participants { policy: &policy, large_model: &model, protocol: &protocol };
    let (mut events, _heard) = mpsc::channel(64);
    let request = request(Limits::default());
    let error = run_episode(participants, &request, &mut events).await.unwrap_err();
    assert!(matches!(error.kind, EpisodeErrorKind::Malformed), "{error}");
    // If nothing was streamed, the large model answers.
    let episode = run_episode(participants, &request, &mut DiscardEvents).await.unwrap();
    assert_eq!((&*episode.answer, episode.finish_reason), ("r1", FinishReason::Malformed));
    assert_eq!(asked.lock().unwrap().len(), 1);
}
