//! Bodies of maximal length, each filled with something else.

use std::io::Write;
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use prompt_r1::json_size::parsed_bytes;
use serde_json::Value;

use crate::loopback::Recorded;

/// The length of a body, bytes.
static LIMIT: LazyLock<usize> = LazyLock::new(|| mebibytes() << 20);
pub const CHAT: &str = "/v1/chat/completions";
pub const SOLVE: &str = "/v1/solve";
pub const RESPONSES: &str = "/v1/responses";
pub const MESSAGES: &str = "/v1/messages";
const JSON: &str = "application/json";
/// What the JSON of a request may take in memory, `server.bounds.json_bytes` by default, less some
/// for the frame of one.
const STRUCTURE: usize = 16 * 1024 * 1024 - 16 * 1024;

/// The length of a body, MiB: the server's default limit, or less for slow development builds.
pub fn mebibytes() -> usize {
    std::env::var("PROMPT_R1_TEST_MIB").map_or(1, |number| number.parse().unwrap())
}

/// A request.
pub struct Sent {
    pub path: &'static str,
    pub kind: &'static str,
    pub is_gzip: bool,
    pub body: Vec<u8>,
}

impl Sent {
    pub fn json(path: &'static str, body: String) -> Self {
        assert!(body.len() <= *LIMIT, "{}", body.len());
        Self { path, kind: JSON, is_gzip: false, body: body.into_bytes() }
    }

    /// A request of negligible cost.
    pub fn small() -> Self {
        Self::json(SOLVE, "{\"question\": \"q\"}".to_owned())
    }

    fn zipped(self) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&self.body).unwrap();
        Self { is_gzip: true, body: encoder.finish().unwrap(), ..self }
    }
}

/// The endpoint's replies: as a policy, a prompt full of references, and then an answer; for JSON,
/// a long list.
pub fn reply_to(request: &Recorded) -> &'static str {
    const EXPANDING: &str = "<interaction_prompt><question/><question/><question/><question/><question/><question/><question/><question/><question/><question/><question/><question/><question/><question/><question/><question/></interaction_prompt>";
    static LIST: LazyLock<String> =
        LazyLock::new(|| format!("{{\"a\":[{}0]}}", "0,".repeat(300_000)));
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    match body["messages"].as_array().map(Vec::len) {
        Some(1) if body["stop"][0] == "</interaction_prompt>" => EXPANDING,
        Some(_) if body["stop"][0] == "</interaction_prompt>" => "<answer>ok</answer>",
        _ if !body["response_format"].is_null() => &LIST,
        _ => "ok",
    }
}

/// `unit` repeated up to the length.
fn fill(before: &str, unit: &str, after: &str) -> String {
    let times = (*LIMIT - before.len() - after.len()) / unit.len();
    format!("{before}{}{after}", unit.repeat(times))
}

/// The same, separated by commas.
pub fn list(before: &str, unit: &str, after: &str) -> String {
    let times = (*LIMIT - before.len() - after.len()) / (unit.len() + 1);
    format!("{before}{}{after}", vec![unit; times].join(","))
}

/// As many units as may be, with commas between, each of its number and as much text as there is
/// room for.
pub fn spread(before: &str, unit: impl Fn(usize, &str) -> String, after: &str) -> String {
    let room = *LIMIT - before.len() - after.len();
    let bare = unit(100_000, "").len() + 1;
    let some: Vec<_> = (0..1_000).map(|number| unit(number, "x")).collect();
    let one = parsed_bytes(format!("{before}{}{after}", some.join(",")).as_bytes()) / 1_000 + 1;
    few(before, (STRUCTURE / one).min(room / bare), unit, after)
}

/// As many of the same value as may be, with commas between, and a text that fills the rest.
pub fn few_of(before: &str, unit: &str, after: &str) -> String {
    let frame = before.len() + after.len() + "\"\",".len();
    let one = parsed_bytes(format!("[{}]", vec![unit; 1_000].join(",")).as_bytes()) / 1_000 + 1;
    let count = (STRUCTURE / one).min((*LIMIT - frame) / (unit.len() + 1));
    let text = "x".repeat(*LIMIT - frame - count * (unit.len() + 1));
    format!("{before}\"{text}\",{}{after}", vec![unit; count].join(","))
}

/// The same as [`spread`] with so many units.
fn few(before: &str, count: usize, unit: impl Fn(usize, &str) -> String, after: &str) -> String {
    let bare = unit(count, "").len() + 1;
    let text = "x".repeat((*LIMIT - before.len() - after.len()) / count - bare);
    let units: Vec<_> = (0..count).map(|number| unit(number, &text)).collect();
    format!("{before}{}{after}", units.join(","))
}

pub const DIRECT: &str = r#""model":"prompt-r1","prompt_r1":{"policy":"direct"},"#;
const ASKED: &str = r#""messages":[{"role":"user","content":"q"}]"#;

/// A chat request without a policy, with this before and after the filling.
fn chat(before: &str) -> String {
    format!("{{{DIRECT}{ASKED},{before}")
}

fn question(policy: &str, unit: &str) -> Sent {
    let before = format!("{{\"policy\":\"{policy}\",\"question\":\"Is it? ");
    Sent::json(SOLVE, fill(&before, unit, "\"}"))
}

fn local(unit: &str) -> Sent {
    let before = "{\"policy\":\"direct\",\"large_model\":\"atlas\",\"question\":\"Is it? ";
    Sent::json(SOLVE, fill(before, unit, "\"}"))
}

fn passed(path: &'static str, body: String) -> Sent {
    Sent::json(path, body)
}

fn schema(body: &str) -> Sent {
    let before =
        "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"s\",\"schema\":";
    let body = format!("{}{body}}}}}}}", chat(before));
    Sent::json(CHAT, body)
}

/// Given turns, the first with a long reply, the second with a prompt full of references.
fn references(reply: usize, unit: &str) -> Sent {
    let reply = "y".repeat(reply);
    let before = format!(
        "{{\"policy\":\"direct\",\"question\":\"q\",\"turns\":[{{\"interaction_prompt\":\"a\",\"interaction_response\":\"{reply}\"}},{{\"interaction_prompt\":\""
    );
    Sent::json(SOLVE, fill(&before, unit, "\"}]}"))
}

type Make = fn() -> Sent;
/// The same in a box.
type Boxed = Box<dyn Fn() -> Sent>;

/// All of them by name.
pub fn all() -> Vec<(String, Boxed)> {
    let texts: Vec<(&'static str, Make)> = vec![
        ("a long word", || question("direct", "x")),
        ("words of one letter", || question("direct", "a ")),
        ("line breaks", || question("direct", "\\n")),
        ("escaped characters", || question("direct", "\\u00e9")),
        ("escaped halves of characters", || question("direct", "\\ud83d\\ude00")),
        ("lone halves of characters", || question("direct", "\\ud83d")),
        ("quotation marks", || question("direct", "\\\"")),
        ("letters that grow in lower case", || question("direct", "\u{130} ")),
        ("angle brackets", || question("direct", "<")),
        ("ampersands", || question("direct", "&amp;")),
        ("our tags", || question("direct", "<answer>")),
        ("our tags, escaped", || question("direct", "&lt;question/>")),
        ("references in a question", || question("direct", "<question/><reply 1/>")),
        ("marks of a template", || question("direct", "{{ question }}")),
        ("characters that mark text", || question("direct", "\u{fdd0}\u{fdd1}")),
        ("a question to a policy here", || question("policy", "x ")),
        ("control tokens to a policy here", || question("policy", "<|end|>")),
        ("a question to a policy elsewhere", || question("remote", "x ")),
        ("our tags to a policy elsewhere", || question("remote", "<answer>")),
        ("a question to a large model here", || local("x ")),
        ("control tokens to a large model here", || local("<|end|>")),
        ("a question, zipped", || question("direct", "x ").zipped()),
        ("random letters", || {
            let mut state = 1u32;
            let letters = std::iter::repeat_with(|| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                char::from(b'a' + (state >> 24) as u8 % 26)
            });
            let text: String = letters.take(*LIMIT - 100).collect();
            Sent::json(SOLVE, format!("{{\"policy\":\"direct\",\"question\":\"{text}\"}}"))
        }),
    ];
    let turns: Vec<(&'static str, Make)> = vec![
        ("references to a long reply", || references(*LIMIT / 2, "<reply 1/>")),
        ("references to a short reply", || references(100, "<reply 1/>")),
        ("references to no reply", || references(100, "<reply 2/>")),
        ("spaces in references", || references(100, "<reply  ")),
        ("a long prompt in a given turn", || references(1, "a ")),
        ("tags in a given turn", || references(1, "</interaction_prompt><answer>")),
        ("control tokens in a given turn", || {
            let before =
                "{\"policy\":\"policy\",\"question\":\"q\",\"turns\":[{\"interaction_prompt\":\"";
            Sent::json(SOLVE, fill(before, "<|end|>", "\"}]}"))
        }),
    ];
    let values: Vec<(&'static str, Make)> = vec![
        ("metadata of long texts", || {
            let unit = |number, text: &str| format!("\"k{number}\":\"{text}\"");
            Sent::json(CHAT, spread(&chat("\"metadata\":{"), unit, "}}"))
        }),
        ("metadata of objects", || {
            let unit = |number, text: &str| format!("{{\"a{number}\":\"{text}\"}}");
            Sent::json(CHAT, spread(&chat("\"metadata\":{\"x\":["), unit, "]}}"))
        }),
        ("nested lists", || Sent::json(CHAT, fill(&chat("\"metadata\":{\"x\":"), "[", ""))),
        ("nested objects", || Sent::json(CHAT, fill(&chat("\"metadata\":{\"x\":"), "{\"a\":", ""))),
        ("numbers", || Sent::json(CHAT, list(&chat("\"metadata\":{\"x\":["), "1", "]}}"))),
        ("a number of many digits", || Sent::json(CHAT, fill(&chat("\"seed\":"), "9", "}"))),
        ("a fraction of many digits", || {
            Sent::json(CHAT, fill(&chat("\"temperature\":0."), "1", "}"))
        }),
        ("an unknown field", || Sent::json(CHAT, fill(&chat("\""), "f", "\":1}"))),
        ("an unknown field of an option", || {
            let before = format!("{{\"model\":\"prompt-r1\",{ASKED},\"prompt_r1\":{{\"");
            Sent::json(CHAT, fill(&before, "f", "\":1}}"))
        }),
        ("an unknown field of a message", || {
            let before =
                format!("{{{DIRECT}\"messages\":[{{\"role\":\"user\",\"content\":\"q\",\"");
            Sent::json(CHAT, fill(&before, "f", "\":1}]}"))
        }),
        ("a model", || {
            Sent::json(CHAT, fill(&format!("{{{ASKED},\"model\":\"prompt-r1/"), "m", "\"}"))
        }),
        ("stops", || Sent::json(CHAT, list(&chat("\"stop\":["), "\"x\"", "]}"))),
        ("stops within the bound", || {
            let unit = |_, text: &str| format!("\"{text}\"");
            Sent::json(CHAT, spread(&chat("\"stop\":["), unit, "]}"))
        }),
        ("long stops", || {
            let unit = |_, text: &str| format!("\"{text}\"");
            Sent::json(CHAT, few(&chat("\"stop\":["), 4, unit, "]}"))
        }),
        ("tools", || {
            let unit = |number, text: &str| {
                format!(
                    "{{\"type\":\"function\",\"function\":{{\"name\":\"f{number}\",\"description\":\"{text}\"}}}}"
                )
            };
            Sent::json(CHAT, spread(&chat("\"tools\":["), unit, "]}"))
        }),
        ("biases", || {
            let unit = |number, text: &str| format!("\"{number}{text}\":1");
            Sent::json(CHAT, spread(&chat("\"logit_bias\":{"), unit, "}}"))
        }),
        ("two answers", || {
            let before =
                format!("{{{DIRECT}\"n\":2,\"messages\":[{{\"role\":\"user\",\"content\":\"");
            let mut body = fill(&before, "x ", "\"}]}");
            let half = before.len() + (body.len() - before.len()) / 4 * 2;
            body.replace_range(half..body.len() - 4, "");
            Sent::json(CHAT, body)
        }),
        ("sixteen answers", || {
            let text = "x ".repeat(*LIMIT / 16 / 2 - 100);
            let before =
                format!("{{{DIRECT}\"n\":16,\"messages\":[{{\"role\":\"user\",\"content\":\"");
            Sent::json(CHAT, format!("{before}{text}\"}}]}}"))
        }),
    ];
    let conversations: Vec<(&'static str, Make)> = vec![
        ("messages of one role", || {
            let unit = |_, text: &str| format!("{{\"role\":\"user\",\"content\":\"{text}\"}}");
            let before = format!("{{{DIRECT}\"messages\":[");
            Sent::json(CHAT, spread(&before, unit, "]}"))
        }),
        ("messages of one role in parts", || {
            let unit = |_, text: &str| {
                format!(
                    "{{\"role\":\"user\",\"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}}]}}"
                )
            };
            let before = format!("{{{DIRECT}\"messages\":[");
            Sent::json(CHAT, spread(&before, unit, "]}"))
        }),
        ("messages of both roles", || {
            let unit = |number: usize, text: &str| {
                let role = ["user", "assistant"][number % 2];
                format!("{{\"role\":\"{role}\",\"content\":\"{text}\"}}")
            };
            let before = format!("{{{DIRECT}\"messages\":[");
            let after = ",{\"role\":\"user\",\"content\":\"q\"}]}";
            Sent::json(CHAT, spread(&before, unit, after))
        }),
        ("system messages", || {
            let unit = |_, text: &str| format!("{{\"role\":\"system\",\"content\":\"{text}\"}}");
            let before = format!("{{{DIRECT}\"messages\":[");
            let after = ",{\"role\":\"user\",\"content\":\"q\"}]}";
            Sent::json(CHAT, spread(&before, unit, after))
        }),
        ("a long history for a policy here", || {
            let unit = |_, text: &str| format!("{{\"role\":\"assistant\",\"content\":\"{text}\"}}");
            let after = ",{\"role\":\"user\",\"content\":\"q\"}]}";
            Sent::json(SOLVE, spread("{\"messages\":[", unit, after))
        }),
        ("calls of tools", || {
            let unit = |number, text: &str| {
                format!(
                    "{{\"id\":\"{number}\",\"type\":\"function\",\"function\":{{\"name\":\"f\",\"arguments\":\"{text}\"}}}}"
                )
            };
            let before = format!(
                "{{{DIRECT}\"messages\":[{{\"role\":\"user\",\"content\":\"q\"}},{{\"role\":\"assistant\",\"content\":null,\"tool_calls\":["
            );
            let after = "]},{\"role\":\"tool\",\"tool_call_id\":\"1\",\"content\":\"r\"}]}";
            Sent::json(CHAT, spread(&before, unit, after))
        }),
        ("an image", || {
            let before = format!(
                "{{{DIRECT}\"messages\":[{{\"role\":\"user\",\"content\":[{{\"type\":\"text\",\"text\":\"q\"}},{{\"type\":\"image_url\",\"image_url\":{{\"url\":\"data:image/png;base64,"
            );
            Sent::json(CHAT, fill(&before, "iVBORw0K", "\"}}]}]}"))
        }),
        ("images", || {
            let unit = |_, text: &str| {
                format!(
                    "{{\"type\":\"image_url\",\"image_url\":{{\"url\":\"data:image/png;base64,{text}\"}}}}"
                )
            };
            let before = format!(
                "{{{DIRECT}\"messages\":[{{\"role\":\"user\",\"content\":[{{\"type\":\"text\",\"text\":\"q\"}},"
            );
            Sent::json(CHAT, spread(&before, unit, "]}]}"))
        }),
        ("an input", || {
            let before = format!("{{{DIRECT}\"input\":\"");
            Sent::json(RESPONSES, fill(&before, "x ", "\"}"))
        }),
        ("items of an input", || {
            let unit = |number: usize, text: &str| {
                let role = ["user", "assistant"][number % 2];
                format!("{{\"role\":\"{role}\",\"content\":\"{text}\"}}")
            };
            let before = format!("{{{DIRECT}\"input\":[");
            let after = ",{\"role\":\"user\",\"content\":\"q\"}]}";
            Sent::json(RESPONSES, spread(&before, unit, after))
        }),
        ("references to items", || {
            let unit = |_, text: &str| format!("{{\"type\":\"item_reference\",\"id\":\"{text}\"}}");
            let before = format!("{{{DIRECT}\"input\":[");
            Sent::json(RESPONSES, spread(&before, unit, "]}"))
        }),
        ("blocks of a message", || {
            let unit = |_, text: &str| format!("{{\"type\":\"text\",\"text\":\"{text}\"}}");
            let before = format!(
                "{{{DIRECT}\"max_tokens\":9,\"messages\":[{{\"role\":\"user\",\"content\":["
            );
            Sent::json(MESSAGES, spread(&before, unit, "]}]}"))
        }),
        ("results of tools", || {
            let unit = |number, text: &str| {
                format!(
                    "{{\"type\":\"tool_result\",\"tool_use_id\":\"t{number}\",\"content\":\"{text}\"}}"
                )
            };
            let before = format!(
                "{{{DIRECT}\"max_tokens\":9,\"messages\":[{{\"role\":\"user\",\"content\":["
            );
            Sent::json(MESSAGES, spread(&before, unit, "]}]}"))
        }),
        ("a system text", || {
            let before = format!("{{{DIRECT}\"max_tokens\":9,{ASKED},\"system\":\"");
            Sent::json(MESSAGES, fill(&before, "s ", "\"}"))
        }),
    ];
    let schemas: Vec<(&'static str, Make)> = vec![
        ("a giant enumeration", || {
            let unit = |number, text: &str| format!("\"{number}{text}\"");
            let before = chat(
                "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"s\",\"schema\":{\"enum\":[",
            );
            Sent::json(CHAT, spread(&before, unit, "]}}}}"))
        }),
        ("an enumeration for each item", || {
            let values: Vec<_> = (1..20_000).map(|number| number.to_string()).collect();
            schema(&format!(
                "{{\"properties\":{{\"a\":{{\"items\":{{\"enum\":[{}]}}}}}}}}",
                values.join(",")
            ))
        }),
        ("items that are unique", || schema("{\"properties\":{\"a\":{\"uniqueItems\":true}}}")),
        ("items of many alternatives", || {
            let choices = vec!["{\"type\":\"string\"}"; 1_500].join(",");
            schema(&format!("{{\"properties\":{{\"a\":{{\"items\":{{\"anyOf\":[{choices}]}}}}}}}}"))
        }),
        ("a chain of references in a schema", || {
            let definitions: Vec<_> = (0..60)
                .map(|at| format!("\"a{at}\":{{\"items\":{{\"$ref\":\"#/$defs/a{}\"}}}}", at + 1))
                .collect();
            schema(&format!(
                "{{\"$ref\":\"#/$defs/a0\",\"$defs\":{{{},\"a60\":{{}}}}}}",
                definitions.join(",")
            ))
        }),
        ("patterns", || {
            let patterns: Vec<_> = (0..60)
                .map(|at| format!("\"p{at}\":{{\"pattern\":\"(a|b|ab)*c{{{at}}}(x+x+)+y\"}}"))
                .collect();
            schema(&format!("{{\"properties\":{{{}}}}}", patterns.join(",")))
        }),
        ("a pattern for every name", || {
            schema("{\"patternProperties\":{\"(a|aa)+$\":{\"items\":{\"pattern\":\"(0|00)+1\"}}}}")
        }),
    ];
    let others: Vec<(&'static str, Make)> = vec![
        ("passed through", || {
            passed(CHAT, fill(&format!("{{\"model\":\"m\",{ASKED},\"user\":\""), "x ", "\"}"))
        }),
        ("passed through, a stream", || {
            let before = format!("{{\"model\":\"m\",\"stream\":true,{ASKED},\"user\":\"");
            passed(CHAT, fill(&before, "x ", "\"}"))
        }),
        ("messages passed through", || {
            passed(
                CHAT,
                list(
                    "{\"model\":\"m\",\"messages\":[",
                    "{\"role\":\"user\",\"content\":\"q\"}",
                    "]}",
                ),
            )
        }),
        ("messages passed through, a stream", || {
            let before = "{\"model\":\"m\",\"stream\":true,\"messages\":[";
            passed(CHAT, list(before, "{\"role\":\"user\",\"content\":\"q\"}", "]}"))
        }),
        ("fields passed through", || {
            let before = format!("{{\"model\":\"m\",{ASKED}");
            passed(CHAT, fill(&before, ",\"\":1", "}"))
        }),
        ("names like that of the model", || {
            let before = format!("{{\"model\":\"m\",{ASKED}");
            passed(CHAT, fill(&before, ",\"Model\":1", "}"))
        }),
        ("nested lists passed through", || {
            let before = format!("{{\"model\":\"m\",{ASKED},\"x\":");
            passed(CHAT, fill(&before, "[", ""))
        }),
        ("numbers to embed", || {
            passed("/v1/embeddings", list("{\"model\":\"m\",\"input\":[", "1", "]}"))
        }),
        ("a model that is passed through", || {
            passed(CHAT, fill(&format!("{{{ASKED},\"model\":\""), "m", "\"}"))
        }),
        ("parts of a form", || {
            let part = "--b\r\ncontent-disposition: form-data; name=\"m\"\r\n\r\n\r\n";
            let body = fill(
                "--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nm\r\n",
                part,
                "--b--\r\n",
            );
            let kind = "multipart/form-data; boundary=b";
            Sent { kind, ..passed("/v1/audio/transcriptions", body) }
        }),
        ("a head of a form", || {
            let before = "--b\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b\r\ncontent-disposition: ";
            let body = fill(before, ";name", "\r\n\r\nx\r\n--b--\r\n");
            let kind = "multipart/form-data; boundary=b";
            Sent { kind, ..passed("/v1/audio/transcriptions", body) }
        }),
        ("no JSON", || Sent::json(CHAT, fill("", "x", ""))),
        ("spaces", || Sent::json(CHAT, fill("", " ", ""))),
        ("a zipped bomb", || {
            let body = vec![b' '; 8 * *LIMIT];
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&body).unwrap();
            let body = encoder.finish().unwrap();
            Sent { is_gzip: true, body, ..Sent::small() }
        }),
        ("nothing, zipped over and over", || {
            let empty = GzEncoder::new(Vec::new(), Compression::fast()).finish().unwrap();
            let body = empty.repeat(*LIMIT / empty.len());
            Sent { is_gzip: true, body, ..Sent::small() }
        }),
        ("letters, each zipped by itself", || {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
            encoder.write_all(b" ").unwrap();
            let one = encoder.finish().unwrap();
            let body = one.repeat(*LIMIT / one.len());
            Sent { is_gzip: true, body, ..Sent::small() }
        }),
    ];
    let all = [texts, turns, values, conversations, schemas, others].into_iter().flatten();
    all.map(|(name, make)| (name.to_owned(), Box::new(make) as Boxed)).collect()
}
