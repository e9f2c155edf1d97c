//! Answers that must have a form, and conversations that go on after their question.

use futures::FutureExt;

use super::*;
use crate::episode::form::AnswerCheck;

/// A form whose answers must be `good`.
fn good() -> AnswerForm {
    let verdict = |answer: String| {
        let verdict =
            if answer == "good" { Ok(()) } else { Err(format!("`{answer}` is not good")) };
        std::future::ready(verdict).boxed()
    };
    AnswerForm { check: Some(AnswerCheck::new(verdict)), ..form(serde_json::json!({"top_k": 1})) }
}

#[tokio::test]
async fn an_answer_without_its_form_is_asked_for_once_more() {
    let policy = ScriptedPolicy::turns([SAY]);
    for (said, answer) in [
        (vec!["good"], Some("good")),
        (vec!["bad", "good"], Some("good")),
        (vec!["bad", "worse"], None),
    ] {
        let calls = said.len();
        let (model, asked) = replying(move |number| said[number - 1].to_owned());
        let ended = run_formed(&policy, &model, good(), 60_000).await;
        match (ended, answer) {
            (Ok(episode), Some(answer)) => {
                assert_eq!(episode.answer, answer);
                assert_eq!(episode.usage.large_model.calls, calls as u64);
            }
            (Err(error), None) => {
                let EpisodeErrorKind::Unfit { reason } = &error.kind else { panic!("{error}") };
                assert_eq!(reason, "`worse` is not good");
                assert_eq!(error.usage.large_model.calls, 2, "both were paid");
            }
            (ended, _) => panic!("{ended:?}"),
        }
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len(), calls);
        if let Some(second) = asked.get(1) {
            let [.., wrong, complaint] = &second[..] else { panic!("{second:?}") };
            assert_eq!(wrong, "bad");
            assert!(complaint.contains("`bad` is not good"), "{complaint}");
        }
    }
}

#[tokio::test]
async fn calls_and_refusals_need_no_form_beside_some_text_either() {
    let policy = ScriptedPolicy::turns([SAY]);
    let call = serde_json::json!({"id": "c", "type": "function",
                                  "function": {"name": "f", "arguments": "{}"}});
    let table = [
        ("tool_calls", serde_json::json!([call]), "tool_calls", true),
        ("refusal", "I can't".into(), "stop", true),
        ("refusal", serde_json::Value::Null, "content_filter", true),
        ("refusal", serde_json::Value::Null, "length", true),
        ("refusal", serde_json::Value::Null, "stop", false),
        ("refusal", "".into(), "stop", false),
        ("tool_calls", serde_json::json!([]), "stop", false),
    ];
    for (field, value, reason, stands) in table {
        for text in ["", "I'll look"] {
            let value = value.clone();
            let model = Scripted::new("m", move |_: &Call| {
                let mut reply = Reply::text(text);
                reply.message.extra.insert(field.to_owned(), value.clone());
                reply.finish_reason = reason.to_owned();
                Ok(reply)
            });
            let ended = run_formed(&policy, &model, good(), 60_000).await;
            let calls = ended.as_ref().map(|episode| episode.usage.large_model.calls);
            assert_eq!(calls.ok(), stands.then_some(1), "{field} {reason} {text}");
        }
    }
}

#[tokio::test]
async fn a_conversation_that_goes_on_after_its_question_does_not_ask_it_again() {
    let (model, asked) = counting();
    let protocol = Protocol::load(None).unwrap();
    let policy = ScriptedPolicy::turns([ASK_A, SAY]);
    let participants = Participants { policy: &policy, large_model: &model, protocol: &protocol };
    let mut request = EpisodeRequest::new("the question", Sampling::GREEDY);
    request.conversation =
        vec![ChatMessage::text("user", "the question"), ChatMessage::text("assistant", "a call")];
    for is_continued in [false, true] {
        request.is_continued = is_continued;
        asked.lock().unwrap().clear();
        run_episode(participants, &request, &mut DiscardEvents).await.unwrap();
        let asked = asked.lock().unwrap();
        let last = asked[0].last().unwrap();
        assert_eq!(last.contains("the question"), !is_continued, "{last}");
    }
}
