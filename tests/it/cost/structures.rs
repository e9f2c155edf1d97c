//! Bodies full of small values, as many as are let in, in every place that takes any.

use super::bodies::{CHAT, DIRECT, MESSAGES, RESPONSES, SOLVE, Sent, few_of, list, spread};

/// Values over and over.
fn units() -> Vec<(&'static str, String)> {
    let deep = format!("{}1{}", "{\"a\":".repeat(60), "}".repeat(60));
    let wide: Vec<_> = (0..8).map(|at| format!("\"k{at}\":{at}")).collect();
    [
        ("empty lists", "[]".to_owned()),
        ("empty objects", "{}".to_owned()),
        ("nulls", "null".to_owned()),
        ("fractions", "1.5".to_owned()),
        ("short texts", "\"a\"".to_owned()),
        ("lists of one", "[1]".to_owned()),
        ("objects of one", "{\"a\":1}".to_owned()),
        ("deep objects", deep),
        ("deep lists", format!("{}1{}", "[".repeat(60), "]".repeat(60))),
        ("wide objects", format!("{{{}}}", wide.join(","))),
    ]
    .into()
}

/// Where values may stand: a route, what stands before them and after.
fn places() -> Vec<(&'static str, &'static str, String, &'static str)> {
    let user = "\"messages\":[{\"role\":\"user\",\"content\":\"q\"";
    let tool =
        "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"x\":[";
    let call = "{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{\"x\":[";
    [
        ("tools", CHAT, format!("{{{DIRECT}{user}}}],{tool}"), "]}}}]}"),
        ("a field of a message", CHAT, format!("{{{DIRECT}{user},\"x\":["), "]}]}"),
        ("template arguments", CHAT, format!("{{{DIRECT}{user}}}],\"chat_template_kwargs\":{{\"x\":["), "]}}"),
        ("an unknown field", CHAT, format!("{{{DIRECT}{user}}}],\"x\":["), "]}"),
        (
            "a part",
            CHAT,
            format!("{{{DIRECT}\"messages\":[{{\"role\":\"user\",\"content\":[{{\"type\":\"text\",\"text\":\"q\"}},{{\"type\":\"x\",\"x\":["),
            "]}]}]}",
        ),
        (
            "a call of a tool",
            CHAT,
            format!("{{{DIRECT}{user}}},{{\"role\":\"assistant\",\"content\":null,\"tool_calls\":["),
            "]},{\"role\":\"user\",\"content\":\"q\"}]}",
        ),
        ("a field of a message to solve", SOLVE, format!("{{\"policy\":\"direct\",{user},\"x\":["), "]}]}"),
        ("metadata of a response", RESPONSES, format!("{{{DIRECT}\"input\":\"q\",\"metadata\":{{\"x\":["), "]}}"),
        (
            "tools of a response",
            RESPONSES,
            format!("{{{DIRECT}\"input\":\"q\",\"tools\":[{{\"type\":\"function\",\"name\":\"f\",\"parameters\":{{\"x\":["),
            "]}}]}",
        ),
        ("an item", RESPONSES, format!("{{{DIRECT}\"input\":[{{\"role\":\"user\",\"content\":\"q\",\"x\":["), "]}]}"),
        (
            "tools of a message",
            MESSAGES,
            format!("{{{DIRECT}\"max_tokens\":9,{user}}}],\"tools\":[{{\"name\":\"f\",\"input_schema\":{{\"x\":["),
            "]}}]}",
        ),
        (
            "a block",
            MESSAGES,
            format!("{{{DIRECT}\"max_tokens\":9,{user}}},{{\"role\":\"assistant\",\"content\":[{call}"),
            "]}}]},{\"role\":\"user\",\"content\":\"q\"}]}",
        ),
    ]
    .into()
}

/// A request to be made: each takes memory of ours.
type Make = Box<dyn Fn() -> Sent>;

/// All of them by their names.
pub fn all() -> Vec<(String, Make)> {
    let mut all: Vec<(String, Make)> = Vec::new();
    let mut add = |name: String, make: Make| all.push((name, make));
    let metadata = format!(
        "{{{DIRECT}\"messages\":[{{\"role\":\"user\",\"content\":\"q\"}}],\"metadata\":{{\"x\":["
    );
    for (name, unit) in units() {
        let (metadata, own) = (metadata.clone(), unit.clone());
        let within = move || Sent::json(CHAT, few_of(&metadata, &own, "]}}"));
        add(format!("{name} in metadata"), Box::new(within));
        let passed = "{\"model\":\"test\",\"messages\":[],\"x\":[";
        let passed = move || Sent::json(CHAT, list(passed, &unit, "]}"));
        add(format!("{name}, passed through"), Box::new(passed));
    }
    for (place, path, before, after) in places() {
        for (name, unit) in units() {
            if matches!(name, "objects of one" | "deep objects") {
                let before = before.clone();
                let make = move || Sent::json(path, few_of(&before, &unit, after));
                add(format!("{name} in {place}"), Box::new(make));
            }
        }
    }
    let turn = |number: usize, text: &str| {
        format!("{{\"interaction_prompt\":\"p{number}\",\"interaction_response\":\"{text}\"}}")
    };
    let turns = "{\"policy\":\"direct\",\"question\":\"q\",\"turns\":[";
    let turns = move || Sent::json(SOLVE, spread(turns, turn, "]}"));
    add("given turns".to_owned(), Box::new(turns));
    all
}
