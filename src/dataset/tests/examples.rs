use serde_json::json;

use super::*;
use crate::trajectory::Action;

fn examples(row: &serde_json::Value) -> Result<Example, String> {
    let (_folder, path) = write("set.jsonl", row.to_string().as_bytes());
    match read_examples(&path, &lenient()) {
        Ok(mut outcome) => Ok(outcome.rows.remove(0)),
        Err(DatasetError::NoTask { summary, .. }) => {
            let rejected = summary.first_rejected.first().map(|rejected| rejected.reason.clone());
            Err(rejected.unwrap_or_else(|| (*summary.skipped.keys().next().unwrap()).to_owned()))
        }
        Err(error) => panic!("{error}"),
    }
}

/// The roles, texts and whether they are learnt.
fn turns(row: &serde_json::Value) -> Vec<(String, String, bool)> {
    match examples(row) {
        Ok(Example::Chat(turns)) => turns
            .into_iter()
            .map(|turn| (turn.role.to_string(), turn.content, turn.is_learnt))
            .collect(),
        other => panic!("{row}: {other:?}"),
    }
}

/// A row, and the roles, texts and whether they are learnt that are read from it.
type Case = (serde_json::Value, Vec<(&'static str, &'static str, bool)>);

#[test]
fn conversations_are_read_in_every_form() {
    let one = [("user", "Why?", false), ("assistant", "So.", true)];
    let with_system = [("system", "Be.", false), one[0], one[1]];
    let cases: Vec<Case> = vec![
        (
            json!({"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}),
            one.to_vec(),
        ),
        (
            json!({"messages": [
                {"role": "developer", "content": "Be."},
                {"role": "user", "content": [{"type": "text", "text": "Why"}, {"type": "text", "text": "?"}]},
                {"role": "assistant", "content": "So.", "tool_calls": [], "weight": 1}]}),
            with_system.to_vec(),
        ),
        (
            json!({"messages": [
                {"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0},
                {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}),
            vec![("user", "a", false), ("assistant", "b", false), one[0], one[1]],
        ),
        (
            json!({"messages": [
                {"role": "user", "content": "Why?"},
                {"role": "assistant", "content": "So.", "reasoning_content": "Hm."}]}),
            vec![one[0], ("assistant", "<think>\nHm.\n</think>\n\nSo.", true)],
        ),
        (
            json!({"system": "Be.", "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}),
            with_system.to_vec(),
        ),
        (json!({"instruction": "Why?", "input": "", "output": "So."}), one.to_vec()),
        (json!({"prompt": "Why?", "completion": "So."}), one.to_vec()),
        (
            json!({"prompt": [{"role": "user", "content": "Why?"}],
                   "completion": [{"role": "assistant", "content": "So."}]}),
            one.to_vec(),
        ),
        (json!({"question": "Why?", "answer": "So."}), one.to_vec()),
        (
            json!({"question": "Why?", "answer": "Because.\n#### 72"}),
            vec![one[0], ("assistant", "Because.\n#### 72", true)],
        ),
        (json!({"problem": "Why?", "solution": "So.", "answer": "7"}), one.to_vec()),
        (
            json!({"messages": "[{\"role\": \"user\", \"content\": \"Why?\"}, {\"role\": \"assistant\", \"content\": \"So.\"}]"}),
            one.to_vec(),
        ),
    ];
    for (row, wanted) in cases {
        let found = turns(&row);
        let found: Vec<(&str, &str, bool)> = found
            .iter()
            .map(|(role, text, learnt)| (role.as_str(), text.as_str(), *learnt))
            .collect();
        assert_eq!(found, wanted, "{row}");
    }
}

#[test]
fn what_cannot_be_learnt_is_refused_by_its_name() {
    let user = json!({"role": "user", "content": "a"});
    for (row, reason) in [
        (
            json!({"messages": [user, {"role": "tool", "content": "b"}]}),
            "message 2 of its `messages` has the role `tool`",
        ),
        (
            json!({"messages": [user, {"role": "assistant", "content": null, "tool_calls": [{}]}]}),
            "message 2 of its `messages` has `tool_calls`",
        ),
        (
            json!({"messages": [user, {"role": "assistant", "content": null}]}),
            "message 2 of its `messages` has no `content`",
        ),
        (
            json!({"messages": [user, {"role": "judge", "content": "b"}]}),
            "message 2 of its `messages` has the unknown role `judge`",
        ),
        (
            json!({"messages": [user, {"role": "assistant", "content": "b", "weight": 0.5}]}),
            "message 2 of its `messages` has the weight `0.5`",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}),
            "message 1 of its `messages` has a part of type `image_url`",
        ),
        (
            json!({"messages": [user, {"role": "assistant", "content": "b"}], "tools": [{}]}),
            "it has `tools`",
        ),
        (
            json!({"prompt": "a", "chosen": "b", "rejected": "c"}),
            "it is a pair of `chosen` and `rejected`",
        ),
        (
            json!({"messages": [user, {"role": "assistant", "content": "b", "weight": 0}]}),
            "all of its assistant's messages have weight 0",
        ),
        (json!({"text": "plain"}), "it has `text`; a row is `messages`"),
        (json!({"question": "a", "answer": " "}), "its `answer` is empty"),
        (json!({"question": "a", "choices": ["b"], "answer": 7}), "its `answer` is `7`"),
        (json!({"messages": []}), "its `messages` is empty"),
    ] {
        let found = examples(&row).unwrap_err();
        assert!(found.starts_with(reason), "{row}: {found}");
    }
}

#[test]
fn recorded_episodes_are_learnt_turn_by_turn() {
    let record = |finish: &str, source: &str| {
        json!({
            "id": "r1", "created": 0, "policy": "p", "large_model": "m", "question": "Who?",
            "conversation": [], "answer": "Ana", "answer_source": source, "finish_reason": finish,
            "trajectory": {"turns": [
                {"text": "…", "think": "ask", "action": {"kind": "prompt", "text": "Who is it?"},
                 "observation": {"reply": "Ana."}},
                {"text": "…", "think": null, "action": {"kind": "answer", "text": "Ana"}, "observation": null},
            ]},
        })
    };
    let Ok(Example::Episode(shown)) = examples(&record("answered", "policy")) else { panic!() };
    assert_eq!((shown.task.id.as_str(), shown.task.question.as_str()), ("r1", "Who?"));
    assert_eq!(
        shown.turns,
        [
            DemoTurn {
                think: "ask".into(),
                action: Action::Prompt("Who is it?".into()),
                reply: Some("Ana.".into())
            },
            DemoTurn { think: String::new(), action: Action::Answer("Ana".into()), reply: None },
        ]
    );
    for (finish, source) in [("turn_limit", "policy"), ("answered", "large_model")] {
        let reason = examples(&record(finish, source)).unwrap_err();
        assert_eq!(reason, "its episode did not end with an answer by the policy");
    }
}
