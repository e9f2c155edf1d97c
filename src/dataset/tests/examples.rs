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
            .map(|turn| (turn.role.to_string(), turn.content, turn.has_loss))
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
            json!({"messages": [
                {"role": "user", "content": "Why?", "id": 3, "images": []},
                {"role": "assistant", "content": "So.", "reasoning": "Hm.", "tool_call_id": null}]}),
            vec![one[0], ("assistant", "<think>\nHm.\n</think>\n\nSo.", true)],
        ),
        (
            json!({"messages": [
                {"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": false},
                {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So.", "train": true}]}),
            vec![("user", "a", false), ("assistant", "b", false), one[0], one[1]],
        ),
        (json!({"prompt": "Why?", "completion": "So.", "label": true}), one.to_vec()),
        (
            json!({"instruction": "Double it.", "input": 21, "output": "42"}),
            vec![("user", "Double it.\n\n21", false), ("assistant", "42", true)],
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
            json!({"query": "Why?", "response": "Because.\n#### 72\nThe answer is: 72"}),
            vec![one[0], ("assistant", "Because.\n#### 72\nThe answer is: 72", true)],
        ),
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
        (
            json!({"messages": [user, {"role": "assistant", "content": ""}]}),
            "a message of its assistant is empty",
        ),
        (
            json!({"messages": [user, {"role": "assistant", "content": " \n"}, user,
                   {"role": "assistant", "content": "b"}]}),
            "a message of its assistant is empty",
        ),
        (
            json!({"messages": [user, {"role": "assistant", "content": " ", "reasoning": "b"}]}),
            "a message of its assistant is empty",
        ),
        (
            json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": ""}]}),
            "a message of its assistant is empty",
        ),
        (json!({"text": "plain"}), "it has `text`; a row is `messages`"),
        (json!({"question": "a", "answer": " "}), "its `answer` is empty"),
        (json!({"question": "a", "choices": ["b"], "answer": 7}), "its `answer` is `7`"),
        (json!({"messages": []}), "its `messages` is empty"),
        (
            json!({"prompt": "a", "completion": "b", "label": false}),
            "its `label` is `false`, which marks its answer as bad",
        ),
        (
            json!({"messages": [user, {"role": "assistant", "content": "b"}], "label": false}),
            "its `label` is `false`, which marks its answer as bad",
        ),
        (
            json!({"messages": [user, {"role": "assistant", "content": "b"}], "rejected_response": "x"}),
            "it has `rejected_response`, which needs preference training",
        ),
        (
            json!({"messages": [user, {"role": "assistant", "content": "b", "mask": 1}]}),
            "message 2 of its `messages` has the unknown key `mask`",
        ),
        (
            json!({"messages": [user, {"role": "assistant", "content": "b", "train": "no"}]}),
            "message 2 of its `messages` has a `train` that is neither true nor false",
        ),
        (
            json!({"messages": [{"role": "user", "content": "a", "reasoning": "b"}]}),
            "message 1 of its `messages` has reasoning, but is not the assistant's",
        ),
        (
            json!({"messages": [user, {"role": "assistant", "content": "b"}], "images": ["a.png"]}),
            "it has `images`, and only text is read",
        ),
        (
            json!({"instruction": "a", "input": {"b": 1}, "output": "c"}),
            "its `input` is an object, not text",
        ),
    ] {
        let found = examples(&row).unwrap_err();
        assert!(found.starts_with(reason), "{row}: {found}");
    }
}

#[test]
fn an_empty_message_that_is_not_learnt_is_context() {
    let user = json!({"role": "user", "content": "a"});
    let empty = json!({"role": "assistant", "content": "", "weight": 0});
    let row = json!({"messages": [user, empty, user, {"role": "assistant", "content": "b"}]});
    let learnt: Vec<bool> = turns(&row).into_iter().map(|(_, _, has_loss)| has_loss).collect();
    assert_eq!(learnt, [false, false, false, true]);
}

#[test]
fn conversations_of_other_roles_than_in_turn_are_refused() {
    let row = |roles: &str| {
        let message = |role: &str| json!({"role": role, "content": "a"});
        json!({"messages": roles.split(", ").map(message).collect::<Vec<_>>()})
    };
    for roles in [
        "user",
        "system, user",
        "user, assistant, user",
        "assistant",
        "assistant, user, assistant",
        "system, assistant",
        "user, system, assistant",
        "user, assistant, assistant",
        "user, assistant, user, user, assistant",
        "user, assistant, system, user, assistant",
    ] {
        let found = examples(&row(roles)).unwrap_err();
        let expected = format!("end with the assistant's; their roles are {roles}");
        assert!(found.ends_with(&expected), "{found}");
    }
    for roles in ["user, assistant", "system, user, assistant", "user, assistant, user, assistant"]
    {
        assert_eq!(turns(&row(roles)).len(), roles.split(", ").count());
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
            DemoTurn::new("ask".into(), Action::Prompt("Who is it?".into()), Some("Ana.".into())),
            DemoTurn::new(String::new(), Action::Answer("Ana".into()), None),
        ]
    );
    for (finish, source) in [("turn_limit", "policy"), ("answered", "large_model")] {
        let reason = examples(&record(finish, source)).unwrap_err();
        assert_eq!(reason, "its episode did not end with an answer by the policy");
    }
    let mut with_image = record("answered", "policy");
    with_image["attachments"] = json!([{"type": "image_url"}]);
    assert_eq!(examples(&with_image).unwrap_err(), "its question is not text alone");
}

/// The flags of a recorded turn say what the policy wrote itself, and what it was shown.
#[test]
fn recorded_episodes_are_learnt_as_the_policy_saw_them() {
    let record = |finish: &str, given: bool, truncated: bool, repeated: bool| {
        let seen = json!({"reply": "Ana.", "truncated": truncated, "repeated": repeated});
        let prompt = json!({"kind": "prompt", "text": "Who is it?"});
        let answer = json!({"kind": "answer", "text": "Ana"});
        examples(&json!({
            "id": "r1", "question": "Who?", "answer": "Ana", "answer_source": "policy",
            "finish_reason": "answered",
            "trajectory": {"turns": [
                {"think": "ask", "action": prompt, "finish": "stop", "is_given": given, "observation": seen},
                {"think": "so", "action": answer, "finish": finish, "observation": null},
            ]},
        }))
    };
    for (given, repeated) in [(false, false), (true, false), (false, true), (true, true)] {
        let Ok(Example::Episode(shown)) = record("stop", given, false, repeated) else { panic!() };
        let flags = shown.turns.iter().map(|turn| (turn.has_loss, turn.is_repeated));
        assert_eq!(flags.collect::<Vec<_>>(), [(!given, repeated), (true, false)]);
    }
    let in_part = record("stop", false, true, false).unwrap_err();
    assert_eq!(in_part, "one of its replies was shown in part");
    let cut = record("length", false, false, false).unwrap_err();
    assert_eq!(cut, "one of its turns was cut off at its limit");
}

#[test]
fn sources_kinds_and_the_context_are_chosen_for_conversations_too() {
    let rows = [
        json!({"question": "q1", "answer": "a", "source": "s", "kind": "x", "context": "It rained."}),
        json!({"question": "q2", "answer": "a", "source": "t", "kind": "x", "context": "It snowed."}),
        json!({"messages": [{"role": "system", "content": "Be."}, {"role": "user", "content": "q3"},
               {"role": "assistant", "content": "a"}], "source": "s", "kind": "y", "context": "It froze."}),
    ];
    let text = rows.map(|row| row.to_string()).join("\n");
    let (_folder, path) = write("set.jsonl", text.as_bytes());
    let asked = |options: &ReadOptions| {
        read_examples(&path, options).map(|outcome| {
            let question = |example: &Example| match example {
                Example::Chat(turns) => {
                    turns.iter().find(|turn| turn.role == ChatRole::User).unwrap().content.clone()
                }
                Example::Episode(_) => panic!("{example:?}"),
            };
            outcome.rows.iter().map(question).collect::<Vec<_>>()
        })
    };
    let all = ReadOptions::default();
    assert_eq!(asked(&all).unwrap(), ["q1", "q2", "q3"]);
    let of_s = ReadOptions { sources: vec!["s".into()], ..all.clone() };
    assert_eq!(asked(&of_s).unwrap(), ["q1", "q3"]);
    let of_y = ReadOptions { kinds: vec!["y".into()], ..all.clone() };
    assert_eq!(asked(&of_y).unwrap(), ["q3"]);
    let none = ReadOptions { kinds: vec!["z".into()], ..all.clone() };
    let error = asked(&none).unwrap_err().to_string();
    assert!(error.ends_with("it has `s/x`, `s/y`, `t/x`"), "{error}");
    let with_context = ReadOptions { context: Some("context".into()), ..all.clone() };
    assert_eq!(
        asked(&with_context).unwrap(),
        ["It rained.\n\nq1", "It snowed.\n\nq2", "It froze.\n\nq3"]
    );
    let missing = ReadOptions { context: Some("nonexistent".into()), ..all.clone() };
    let error = asked(&missing).unwrap_err().to_string();
    assert!(error.contains("it has no text in `nonexistent`"), "{error}");
    let warnings = read_examples(&path, &all).unwrap().summary.warnings();
    assert_eq!(
        warnings,
        ["3 rows: its passage is left out (set `context` to its column to show it)"]
    );
}
