#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::json;

use super::*;
use crate::large_model::endpoint::upstream_error::parse_error;

const NONE: fn() -> Redactor<'static> = || Redactor::new(None);

fn completion(message: Value, finish_reason: Value) -> Value {
    json!({
        "id": "x", "object": "chat.completion", "new_field": {"a": 1},
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    })
}

fn parse(body: &Value) -> Result<ParsedReply, ReplyError> {
    parse_completion(body.to_string().as_bytes(), NONE())
}

#[test]
fn a_reply_keeps_what_it_is_not_asked_about() {
    let message =
        json!({"role": "assistant", "content": "hi", "annotations": [1], "refusal": null});
    let reply = parse(&completion(message, json!("stop"))).unwrap();
    assert_eq!(reply.message.as_text(), "hi");
    assert_eq!(reply.message.extra["annotations"], json!([1]));
    assert_eq!(reply.finish_reason, "stop");
    assert_eq!(
        reply.usage,
        Some(TokenUsage { prompt_tokens: 7, completion_tokens: 3, ..TokenUsage::default() })
    );
}

#[test]
fn what_may_be_missing() {
    let reply = parse(&json!({"choices": [{"message": {"content": ""}}]})).unwrap();
    assert_eq!(reply.message, ChatMessage::text("assistant", ""));
    assert_eq!(reply.finish_reason, "stop");
    assert_eq!(reply.usage, None);
    let usage = json!({"choices": [{"message": {"content": ""}}], "error": null,
                       "usage": {"prompt_tokens": null, "completion_tokens": 2}});
    let expected = TokenUsage { prompt_tokens: 0, completion_tokens: 2, ..TokenUsage::default() };
    assert_eq!(parse(&usage).unwrap().usage, Some(expected));
}

#[test]
fn content_in_parts_and_tool_calls() {
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let reply = parse(&completion(json!({"content": parts}), json!("stop"))).unwrap();
    assert_eq!(reply.message.content, json!("ab"));
    let calls = json!([{"id": "c1", "type": "function",
                        "function": {"name": "f", "arguments": "{}"}}]);
    let message = json!({"role": "assistant", "content": null, "tool_calls": calls});
    let reply = parse(&completion(message, json!("tool_calls"))).unwrap();
    assert_eq!(reply.message.extra["tool_calls"], calls);
    assert_eq!((reply.finish_reason.as_str(), reply.message.content), ("tool_calls", Value::Null));
}

#[test]
fn bodies_that_are_no_reply() {
    let malformed = [
        ("", "the body is empty"),
        (" \n", "the body is empty"),
        ("<!doctype html><p>Sign in", "the body is HTML: `<!doctype html><p>Sign in`"),
        ("\n <html>", "the body is HTML: `<html>`"),
        ("{\"choices\": [{\"mess", "the body is not valid JSON: `{\"choices\": [{\"mess`"),
        ("hello", "the body is not valid JSON: `hello`"),
        ("[]", "it has no choices: `[]`"),
        ("7", "the JSON is no completion: `7`"),
        ("{\"choices\": {}}", "the JSON is no completion: `{\"choices\": {}}`"),
        ("{\"choices\": [{\"message\": [7]}]}", "the JSON is no completion"),
        ("{\"choices\": [{\"delta\": \"a\"}]}", "the JSON is no completion"),
        ("{}", "it has no choices: `{}`"),
        ("{\"choices\": []}", "it has no choices: `{\"choices\": []}`"),
        ("{\"choices\": null}", "it has no choices: `{\"choices\": null}`"),
        ("{\"choices\": [{}]}", "its first choice has no message: `{\"choices\": [{}]}`"),
        (
            "{\"choices\": [{\"message\": {\"content\": 7}}]}",
            "the content of its message is a number or a boolean",
        ),
        (
            "{\"choices\": [{\"message\": {\"content\": {}}}]}",
            "the content of its message is an object",
        ),
    ];
    for (body, expected) in malformed {
        match parse_completion(body.as_bytes(), NONE()) {
            Err(ReplyError::Malformed(reason)) => {
                assert!(reason.starts_with(expected), "{body}: {reason}")
            }
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn an_empty_list_is_an_object_without_fields() {
    let whole = json!({
        "choices": [{"message": {"content": "a"}, "logprobs": [], "error": []}],
        "usage": [], "error": [],
    });
    let reply = parse(&whole).unwrap();
    assert_eq!((&*reply.message.as_text(), reply.logprobs, reply.usage), ("a", None, None));
    assert_eq!(parse(&json!({"choices": [{"message": []}]})).unwrap().message.as_text(), "");
    let first = json!({"choices": [{"delta": {"content": "a"}, "logprobs": []}], "usage": []});
    let last = json!({"choices": [{"delta": [], "logprobs": [], "finish_reason": "stop"}]});
    let (texts, reply) = assemble(&[first, last], false).unwrap();
    assert_eq!((texts, reply.logprobs), (vec!["a".to_owned()], None));
}

#[test]
fn a_reply_of_too_many_calls_is_none() {
    for count in [MAX_CALLS, MAX_CALLS + 1, 100_000] {
        let calls: Vec<_> = (0..count).map(|number| json!({"id": number.to_string()})).collect();
        let result = parse(&completion(json!({"tool_calls": calls}), json!("tool_calls")));
        match result {
            Ok(reply) => {
                assert_eq!((count, reply.finish_reason.as_str()), (MAX_CALLS, "tool_calls"))
            }
            Err(fault) => {
                assert!(count > MAX_CALLS);
                assert_eq!(fault, TooManyCalls.into());
            }
        }
    }
}

#[test]
fn a_reply_without_content_says_why() {
    for reason in ["stop", "length", "content_filter"] {
        let thoughts = json!({"content": null, "reasoning_content": "hm"});
        let reply = parse(&completion(thoughts, json!(reason))).unwrap();
        assert_eq!(reply.message.content, json!(""), "{reason}");
        assert_eq!(reply.finish_reason, reason);
        assert_eq!(reply.message.extra["reasoning_content"], json!("hm"), "{reason}");
    }
}

#[test]
fn an_error_inside_a_good_response() {
    for nothing in
        [json!(""), json!(false), json!(null), json!({}), json!({"code": 0, "message": ""})]
    {
        let body = json!({"choices": [{"message": {"content": "a"}}], "error": nothing});
        assert_eq!(parse(&body).unwrap().message.as_text(), "a", "{nothing}");
    }
    let table = [
        (json!({"error": {"message": "busy", "code": 429}}), 429, "busy", true),
        (json!({"error": {"message": "busy", "code": "overloaded"}}), 502, "busy", true),
        (json!({"error": {"code": 200}}), 502, "{\"code\":200}", true),
        (json!({"error": {"message": "busy", "code": "429"}}), 429, "busy", true),
        (
            json!({"choices": [{"error": {"message": "busy"}}], "error": {"message": "busy"}}),
            502,
            "busy",
            true,
        ),
        (json!({"error": "busy", "choices": []}), 502, "busy", false),
    ];
    for (body, status, message, object) in table {
        let Err(ReplyError::Upstream(error)) = parse(&body) else { panic!("{body} passed") };
        assert_eq!((error.status, error.message.as_str()), (status, message), "{body}");
        assert_eq!(error.body, object.then(|| body["error"].clone()), "{body}");
    }
}

#[test]
fn errors_of_many_shapes() {
    let table = [
        ("{\"error\": {\"message\": \"m\", \"code\": 400}}", "m"),
        ("{\"error\": \"m\"}", "m"),
        ("{\"message\": \"m\"}", "m"),
        ("{\"detail\": \"m\"}", "m"),
        ("[{\"error\": {\"message\": \"m\", \"code\": 400}}]", "m"),
        ("{\"error\": {\"type\": \"t\"}}", "{\"type\":\"t\"}"),
        ("<h1>Bad\n gateway</h1>", "<h1>Bad gateway</h1>"),
        ("", "no message"),
        ("{}", "{}"),
        ("null", "null"),
    ];
    for (body, message) in table {
        let error = parse_error(503, body.as_bytes(), NONE());
        assert_eq!((error.status, error.message.as_str()), (503, message), "{body}");
    }
    let secret = Redactor::new(Some("Bearer sk-planted-secret"));
    let body =
        b"{\"error\": {\"message\": \"no key sk-planted-secret\", \"key\": \"sk-planted-secret\"}}";
    let error = parse_error(401, body, secret);
    assert_eq!(error.message, "no key [redacted]");
    assert!(!format!("{error:?}").contains("planted"));
}

fn named(name: &str, data: &str) -> Event {
    Event { name: name.to_owned(), data: data.into() }
}

fn assemble(events: &[Value], marked: bool) -> Result<(Vec<String>, ParsedReply), ReplyError> {
    let mut assembly = ReplyAssembler::default();
    let mut texts = Vec::new();
    for event in events {
        let text = assembly.push(&named("", &event.to_string()), NONE())?;
        if !text.is_empty() {
            texts.push(text);
        }
    }
    Ok((texts, assembly.finish(marked)?))
}

fn delta(delta: Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}], "usage": null})
}

#[test]
fn a_stream_becomes_the_same_reply() {
    let end = json!({"choices": [{"delta": {}, "finish_reason": "length"}]});
    let billed = json!({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}});
    let other = json!({"choices": [{"index": 1, "delta": {"content": "no"}}]});
    let (texts, reply) = assemble(
        &[
            delta(json!({"role": "assistant", "content": "", "reasoning_content": "r1"})),
            delta(json!({"content": "a", "reasoning_content": "r2"})),
            other,
            delta(json!({"content": "b"})),
            end,
            billed,
        ],
        true,
    )
    .unwrap();
    assert_eq!(texts, ["a", "b"]);
    assert_eq!(reply.message.as_text(), "ab");
    assert_eq!(reply.message.extra["reasoning_content"], json!("r1r2"));
    assert_eq!(reply.finish_reason, "length");
    assert_eq!(
        reply.usage,
        Some(TokenUsage { prompt_tokens: 7, completion_tokens: 3, ..TokenUsage::default() })
    );
}

#[test]
fn how_a_stream_may_end() {
    let text = delta(json!({"content": "a"}));
    let end = json!({"choices": [{"delta": {}, "finish_reason": "stop"}]});
    let table = [
        ("marked and finished", vec![text.clone(), end.clone()], true, true),
        ("finished", vec![text.clone(), end.clone()], false, true),
        ("marked", vec![text.clone()], true, true),
        ("neither", vec![text], false, false),
        ("nothing in it", vec![], true, false),
        ("no message", vec![json!({"choices": []})], true, false),
        ("a message without content", vec![end], true, true),
    ];
    for (name, events, marked, good) in table {
        let result = assemble(&events, marked);
        assert_eq!(result.is_ok(), good, "{name}: {result:?}");
        if !good {
            assert!(matches!(result, Err(ReplyError::Malformed(_))), "{name}: {result:?}");
        }
    }
}

#[test]
fn a_finish_reason_with_every_chunk_ends_nothing() {
    let usage = |written: u64| json!({"prompt_tokens": 7, "completion_tokens": written});
    for said in ["", "null", "stop"] {
        let mut assembly = ReplyAssembler::default();
        for (number, text) in ["a", "b", "c"].into_iter().enumerate() {
            let event = json!({"choices": [{"delta": {"content": text}, "finish_reason": said}],
                               "usage": usage(number as u64 + 1)});
            assembly.push(&named("", &event.to_string()), NONE()).unwrap();
            // The first may be the only one.
            assert_eq!(assembly.is_settled(), said == "stop" && number == 0, "{said}");
            assert!(!assembly.is_over(), "{said}");
        }
        assert!(!assembly.is_whole(), "{said}: it may have been cut off here");
        let billed = json!({"choices": [], "usage": usage(9)});
        assembly.push(&named("", &billed.to_string()), NONE()).unwrap();
        assert_eq!(assembly.is_over(), said == "stop");
        let reply = assembly.finish(true).unwrap();
        assert_eq!((&*reply.message.as_text(), &*reply.finish_reason), ("abc", "stop"));
        assert_eq!(reply.usage.unwrap().completion_tokens, 9, "{said}");
    }
}

#[test]
fn a_message_after_its_deltas_only_fills_what_is_missing() {
    let whole = |delta: Option<Value>| {
        json!({"choices": [{
            "delta": delta,
            "message": {"role": "assistant", "content": "ab", "citations": [1]},
            "finish_reason": "stop",
        }]})
    };
    let (a, b) = (delta(json!({"content": "a"})), delta(json!({"content": "b"})));
    let role = delta(json!({"role": "assistant", "content": ""}));
    let table = [
        ("after deltas", vec![a.clone(), b.clone(), whole(None)], vec!["a", "b"]),
        (
            "beside an empty delta",
            vec![a.clone(), b.clone(), whole(Some(json!({})))],
            vec!["a", "b"],
        ),
        ("beside the last delta", vec![a, whole(Some(json!({"content": "b"})))], vec!["a", "b"]),
        ("alone", vec![whole(None)], vec!["ab"]),
        ("after the role", vec![role, whole(None)], vec!["ab"]),
    ];
    for (name, events, expected) in table {
        let (texts, reply) = assemble(&events, true).unwrap();
        assert_eq!(texts, expected, "{name}");
        assert_eq!(reply.message.as_text(), "ab", "{name}");
        assert_eq!(reply.message.extra["citations"], json!([1]), "{name}");
    }
}

#[test]
fn an_error_after_the_last_word_takes_nothing_back() {
    let error = json!({"error": {"message": "no usage", "code": 500}});
    let text = delta(json!({"content": "a"}));
    let end = |reason: &str| json!({"choices": [{"delta": {}, "finish_reason": reason}]});
    let (texts, reply) = assemble(&[text.clone(), end("stop"), error.clone()], false).unwrap();
    assert_eq!((texts, reply.usage), (vec!["a".to_owned()], None));
    for unfinished in [vec![text.clone(), error.clone()], vec![text, end("error"), error]] {
        let failed = assemble(&unfinished, true);
        assert!(matches!(failed, Err(ReplyError::Interrupted(..))), "{failed:?}");
    }
}

#[test]
fn a_reply_that_its_endpoint_gave_up_is_none() {
    let usage = json!({"prompt_tokens": 7, "completion_tokens": 3});
    for reason in ["error", "ERROR", "abort", "insufficient_system_resource", "network_error"] {
        let end = json!({"choices": [{"delta": {}, "finish_reason": reason}], "usage": usage});
        let streamed = assemble(&[delta(json!({"content": "Half an"})), end], true).err();
        let body = completion(json!({"content": "Half an"}), json!(reason));
        for fault in [streamed, parse(&body).err()] {
            match &fault {
                Some(ReplyError::Interrupted(error, part)) => {
                    assert!(error.message.contains(reason) && error.status == 502, "{error:?}");
                    assert_eq!(part.message.as_text(), "Half an");
                    assert_eq!(part.usage.map(|usage| usage.completion_tokens), Some(3));
                }
                other => panic!("{reason}: {other:?}"),
            }
        }
        // Nothing was written: another try may help.
        let end = json!({"choices": [{"delta": {"content": ""}, "finish_reason": reason}]});
        let fault = assemble(&[end], true).err();
        assert!(matches!(fault, Some(ReplyError::Upstream(_))), "{reason}: {fault:?}");
    }
}

#[test]
fn what_came_before_an_error_is_kept_for_its_bill() {
    let gone = json!({"message": "gone", "code": 502});
    let error = json!({"error": gone});
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 9000});
    let said = json!({"content": "part"});
    let call = json!({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]});
    // What was said and how many tokens were reported, where anything may be billed.
    let streams = [
        (vec![error.clone()], None),
        (vec![delta(json!({"role": "assistant", "content": ""})), error.clone()], None),
        (vec![delta(json!({"reasoning_content": "hm"})), error.clone()], Some(("", None))),
        (vec![delta(call), error.clone()], Some(("", None))),
        (vec![delta(said.clone()), error.clone()], Some(("part", None))),
        (vec![json!({"choices": [], "error": gone, "usage": usage})], Some(("", Some(9000)))),
    ];
    let streams = streams.map(|(events, expected)| (assemble(&events, true).err(), expected));
    let bodies = [
        (
            json!({"choices": [{"message": {"role": "assistant", "content": ""}, "error": gone}]}),
            None,
        ),
        (json!({"choices": [{"message": said, "error": gone}]}), Some(("part", None))),
        (
            json!({"choices": [{"message": said}], "error": gone, "usage": usage}),
            Some(("part", Some(9000))),
        ),
        (json!({"choices": [], "error": gone, "usage": usage}), Some(("", Some(9000)))),
        (json!({"object": "error", "message": "gone", "usage": usage}), Some(("", Some(9000)))),
    ];
    let bodies = bodies.map(|(body, expected)| (parse(&body).err(), expected));
    for (fault, expected) in streams.into_iter().chain(bodies) {
        match (&fault, expected) {
            (Some(ReplyError::Upstream(_)), None) => {}
            (Some(ReplyError::Interrupted(error, part)), Some((text, written))) => {
                assert_eq!((error.status, &*error.message), (502, "gone"));
                let found = part.usage.map(|usage| usage.completion_tokens);
                assert_eq!((&*part.message.as_text(), found), (text, written), "{part:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn events_that_break_a_stream() {
    let mut assembly = ReplyAssembler::default();
    let cut = assembly.push(&named("", "{\"choices\": [{\"del"), NONE());
    assert!(matches!(cut, Err(ReplyError::Malformed(reason)) if reason.contains("[{\"del")));
    let error =
        assembly.push(&named("", "{\"error\": {\"message\": \"gone\", \"code\": 503}}"), NONE());
    assert!(matches!(error, Err(ReplyError::Upstream(error)) if error.status == 503));
}
