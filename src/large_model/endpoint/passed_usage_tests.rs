#![allow(clippy::unwrap_used)]

use super::*;

fn read(
    request: &Value,
    is_events: bool,
    hides: bool,
    body: &str,
    size: usize,
) -> (String, (u64, u64)) {
    let passed = PassedUsage::new(&Arc::default(), request.to_string().into());
    let mut passed = passed.of_response(is_events, hides);
    let pieces = body.as_bytes().chunks(size);
    let mut shown: Vec<u8> =
        pieces.flat_map(|piece| passed.read(Bytes::copy_from_slice(piece))).collect();
    shown.extend(passed.rest());
    let usage = passed.usage();
    (String::from_utf8(shown).unwrap(), (usage.prompt_tokens, usage.completion_tokens))
}

#[test]
fn usage_is_the_endpoints_own() {
    let request = json!({"messages": [{"role": "user", "content": "x ".repeat(20)}]});
    let table = [
        (false, json!({"usage": {"prompt_tokens": 3, "completion_tokens": 4}}).to_string(), (3, 4)),
        // Text that a caller can have echoed.
        (
            false,
            json!({"usage": {"input_tokens": 100, "output_tokens": 10}, "user": null,
                   "metadata": {"usage": "x"}})
            .to_string(),
            (100, 10),
        ),
        (false, json!({"metadata": {"usage": {"prompt_tokens": 1}}, "choices": [
            {"message": {"content": "y ".repeat(20)}}]}).to_string(), (26, 19)),
        (true, "data: {\"usage\":null}\n\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":1.0,\"output_tokens\":\"2\"}}}\n\n".to_owned(), (1, 2)),
        (true, "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":9}}}\n\nevent: message_delta\ndata: {\"usage\":{\"output_tokens\":7}}\n\n".to_owned(), (9, 7)),
        (true, "data: {\"choices\":[{\"delta\":{\"content\":\"12345678\"}}]}\n\ndata: [DONE]\n\n".to_owned(), (26, 6)),
        // A message that breaks off before its end.
        (true, "data: {\"message\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\ndata: {\"delta\":{\"thinking\":\"1234\"}}\n\ndata: {\"delta\":{\"text\":\"5678\"}}\n\ndata: {\"delta\":{\"partial_json\":\"90\"}}\n\n".to_owned(), (9, 7)),
        (true, String::new(), (26, 0)),
        // As OpenRouter fails after it has begun to respond.
        (false, "{\"error\":{\"code\":502}}".to_owned(), (0, 0)),
        (true, ": PROCESSING\n\ndata: {\"error\":{\"code\":502},\"choices\":[{\"delta\":{\"content\":\"\"}}]}\n\n".to_owned(), (0, 0)),
        (true, "data: {\"choices\":[{\"delta\":{\"content\":\"12345678\"}}]}\n\ndata: {\"error\":{\"code\":502}}\n\n".to_owned(), (26, 6)),
        (false, "{\"error\":null}".to_owned(), (26, 0)),
    ];
    for (is_events, body, expected) in table {
        for size in [1, 7, 10_000] {
            let (shown, usage) = read(&request, is_events, false, &body, size);
            assert_eq!((shown, usage), (body.clone(), expected), "{body} by {size}");
        }
    }
}

#[test]
fn a_response_that_is_no_stream_is_shown_as_it_is() {
    let usage = json!({"usage": {"prompt_tokens": 3, "completion_tokens": 4}});
    let request = json!({"stream": true});
    for (body, expected) in [
        (usage.to_string(), (3, 4)),
        // Blank lines come while the client waits.
        (format!("\n\n \n{usage}"), (3, 4)),
        ("data".to_owned(), (0, 0)),
        ("dates".to_owned(), (0, 0)),
        ("\n\n".to_owned(), (0, 0)),
    ] {
        for size in [1, 3, 10_000] {
            assert_eq!(
                read(&request, false, true, &body, size),
                (body.clone(), expected),
                "{size}"
            );
        }
    }
}

#[test]
fn what_is_read_twice_counts_once() {
    let reply = |content: &str| {
        let message = format!(r#"{{"reasoning": "{}", "content": "{content}"}}"#, "x ".repeat(40));
        read(&json!({}), false, false, &format!(r#"{{"choices": [{{"message": {message}}}]}}"#), 99)
            .1
    };
    let (repaired, strict) = (reply(r"a \ud83d").1, reply("a \u{fffd}").1);
    assert!(repaired.abs_diff(strict) < 5, "{repaired}, not {strict}");
}

#[test]
fn images_are_no_text() {
    let image = json!({"type": "image_url", "image_url": {"url": "x".repeat(1_000_000)}});
    let content = json!([image, {"type": "text", "text": "x ".repeat(20)}]);
    let request = json!({"messages": [{"role": "user", "content": content}]});
    assert_eq!(read(&request, false, false, "{}", 9).1, (26, 0));
}

#[test]
fn long_requests_are_counted_without_being_kept() {
    let content = "x ".repeat(MAX_OF_REQUEST);
    let request = json!({"messages": [{"role": "user", "content": content}]}).to_string();
    let kept = PassedUsage::new(&Arc::default(), request.clone().into());
    let answered = PassedUsage::new(&Arc::default(), request.into()).answered();
    assert!(answered.request.is_empty());
    let expected = kept.usage();
    assert!(expected.prompt_tokens > 1_000);
    assert_eq!(answered.usage(), expected);
}

#[test]
fn the_chunk_that_was_not_asked_for_is_left_out() {
    let text = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n";
    let usage =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5}}\n\n";
    let body = format!("{text}: ping\n\n{usage}data: [DONE]\n\n");
    for size in [1, 7, 10_000] {
        let (shown, used) = read(&json!({}), true, true, &body, size);
        assert_eq!((shown, used), (body.replace(usage, ""), (3, 5)), "{size}");
    }
    // Said to be text: it is a stream where the request asks for one.
    let asked = json!({"stream": true});
    for size in [1, 7, 10_000] {
        let mislabelled = read(&asked, false, true, &body, size);
        assert_eq!(mislabelled, (body.replace(usage, ""), (3, 5)), "{size}");
        assert_eq!(read(&asked, false, false, &body, size), (body.clone(), (3, 5)), "{size}");
        assert_eq!(read(&json!({}), false, true, &body, size).0, body, "{size}");
    }
    let crlf = body.replace('\n', "\r\n");
    assert!(!read(&json!({}), true, true, &crlf, 7).0.contains("prompt_tokens"));
}

#[test]
fn events_end_at_a_blank_line_of_either_kind_wherever_pieces_are_cut() {
    let blanks = ["\n\n", "\r\n\r\n", "\r\n\n", "\n\r\n", "\n\n\n"];
    let bodies = blanks.iter().flat_map(|one| blanks.iter().map(move |two| (one, two)));
    for (one, two) in bodies {
        let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3}}";
        let body = format!("data: a{one}{usage}{two}data: [DONE]{one}{two}");
        // By the definition: the first end of the two, again and again.
        let (mut rest, mut expected) = (body.as_str(), Vec::new());
        while let Some(end) = ["\n\n", "\n\r\n"]
            .iter()
            .filter_map(|blank| Some(rest.find(blank)? + blank.len()))
            .min()
        {
            expected.push(&rest[..end]);
            rest = &rest[end..];
        }
        expected.retain(|event| event.trim() != usage);
        let shown = expected.concat() + rest;
        for size in [1, 2, 3, 5, 10_000] {
            assert_eq!(read(&json!({}), true, true, &body, size).0, shown, "{body:?} by {size}");
        }
    }
}

#[test]
fn many_short_events_in_one_piece_are_read_once() {
    // If each event cost as much as the rest of the piece, this would take an hour.
    let bytes = b"a\n\n".repeat(1_000_000);
    let (mut at, mut events) = (0, 0);
    while let Some(end) = event_end(&bytes[at..], 0) {
        (at, events) = (at + end, events + 1);
    }
    assert_eq!((at, events), (bytes.len(), 1_000_000));
}

#[test]
fn usage_is_asked_for_where_the_client_does_not() {
    let table = [
        (
            "{\"stream\": true, \"n\": 1.0}",
            Some("{\"stream_options\":{\"include_usage\":true},\"stream\": true, \"n\": 1.0}"),
        ),
        (
            "{\"stream\":true,\"stream_options\":null}",
            Some("{\"stream\":true,\"stream_options\":{\"include_usage\":true}}"),
        ),
        (
            "{\"stream\":true,\"stream_options\":{\"x\":1}}",
            Some("{\"stream\":true,\"stream_options\":{\"x\":1,\"include_usage\":true}}"),
        ),
        ("{\"stream\":true,\"stream_options\":{\"include_usage\":true}}", None),
        (
            "\u{feff}{\"stream\":true}",
            Some("\u{feff}{\"stream_options\":{\"include_usage\":true},\"stream\":true}"),
        ),
        (
            "{\"stream\":true,\"\\ud83d\":1,\"stream\":true}",
            Some(
                "{\"stream_options\":{\"include_usage\":true},\"stream\":true,\"\\ud83d\":1,\"stream\":true}",
            ),
        ),
        (
            "{\"stream\":true,\"stream_options\":{},\"stream_options\":{\"x\":1}}",
            Some(
                "{\"stream\":true,\"stream_options\":{},\"stream_options\":{\"x\":1,\"include_usage\":true}}",
            ),
        ),
        (
            "{\"str\\u0065am\":true,\"stream\":false}",
            Some(
                "{\"stream_options\":{\"include_usage\":true},\"str\\u0065am\":true,\"stream\":false}",
            ),
        ),
        (
            "{\"stream\":false,\"stream\":\"true\"}",
            Some(
                "{\"stream_options\":{\"include_usage\":true},\"stream\":false,\"stream\":\"true\"}",
            ),
        ),
        ("{\"Stream\":1}", Some("{\"stream_options\":{\"include_usage\":true},\"Stream\":1}")),
        (
            "{\"stream\":true,\"Stream_Options\" : {\"include_usage\":true,\"x\":1}}",
            Some("{\"stream\":true,\"stream_options\" : {\"include_usage\":true,\"x\":1}}"),
        ),
        (
            "{\"stream\":true,\"stream_options\":{\"include_usage\":true,\"Include_Usage\":false}}",
            Some("{\"stream\":true,\"stream_options\":{\"include_usage\":true}}"),
        ),
        ("{\"stream\":false}", None),
        ("{\"stream\":null,\"Stream\":0,\"stream\":-0.0}", None),
        ("{}", None),
        ("[]", None),
    ];
    for (body, expected) in table {
        let asking = asking_for_usage(&Bytes::from_static(body.as_bytes()));
        let asking = asking.map(|asking| asking.body);
        assert_eq!(asking.as_deref(), expected.map(str::as_bytes), "{body}");
    }
}

#[test]
fn long_stream_options_are_no_way_around_the_usage() {
    let options = json!({"include_usage": false, "x": "x".repeat(MAX_OPTIONS)});
    let body = json!({"stream": true, "stream_options": options}).to_string();
    let asking = asking_for_usage(&body.into()).unwrap();
    let expected = "{\"stream\":true,\"stream_options\":{\"include_usage\":true}}";
    assert_eq!(asking.body, expected);
}

#[test]
fn what_is_not_surely_a_stream_is_ambiguous() {
    let table = [
        ("{\"stream\":true}", false),
        ("{\"stream\":true,\"stream_options\":{}}", false),
        ("{\"stream\":\"false\"}", true),
        ("{\"stream\":true,\"stream\":false}", true),
        ("{\"Stream\":true}", true),
        ("{\"stream\":true,\"stream_options\":{},\"stream_options\":{}}", true),
        ("{\"stream\":true,\"Stream_Options\":{}}", true),
    ];
    for (body, expected) in table {
        let asking = asking_for_usage(&Bytes::from_static(body.as_bytes())).unwrap();
        assert_eq!(asking.is_ambiguous, expected, "{body}");
    }
}
