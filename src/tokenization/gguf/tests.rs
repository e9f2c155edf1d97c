#![allow(clippy::unwrap_used, clippy::panic)]

mod folder;

use std::path::Path;

use serde_json::Value;

use super::{Begin, Vocabulary};
use crate::gguf::{Entry, Gguf, Writer};
use crate::hint::Hint;
use crate::protocol::Piece;
use crate::tokenization::pre_tokenizer::PreTokenizer;
use crate::tokenization::{ChatTokenizer, TemplateMessage, Tokenizer, write_text_files};

fn golden(name: &str) -> Value {
    let path = Path::new("tests/golden/tokenizer").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn texts(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

fn file(settings: &[(&str, Entry)]) -> Gguf {
    let mut writer = Writer::default();
    for (key, value) in settings {
        writer.set(&format!("tokenizer.{key}"), value.clone());
    }
    let mut bytes = Vec::new();
    writer.write(&mut bytes).unwrap();
    Gguf::parse(bytes, "model.gguf").unwrap()
}

fn bpe(golden: &Value, pre: &str) -> Vec<(&'static str, Entry)> {
    let kinds = serde_json::from_value(golden["kinds"].clone()).unwrap();
    vec![
        ("ggml.model", Entry::Text("gpt2".into())),
        ("ggml.pre", Entry::Text(pre.into())),
        ("ggml.tokens", Entry::Texts(texts(&golden["tokens"]))),
        ("ggml.token_type", Entry::I32s(kinds)),
        ("ggml.merges", Entry::Texts(texts(&golden["merges"]))),
        ("ggml.bos_token_id", Entry::U32(0)),
        ("ggml.eos_token_id", Entry::U32(2)),
        ("ggml.add_bos_token", Entry::Bool(false)),
        ("chat_template", Entry::Text(CHAT.into())),
    ]
}

const CHAT: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Each text with both of its lists of ids.
fn check(tokenizer: &Tokenizer, texts: &[String], ids: &Value, what: &str) {
    let ids: Vec<[Vec<u32>; 2]> = serde_json::from_value(ids.clone()).unwrap();
    assert_eq!(ids.len(), texts.len());
    for (text, [with_control, without]) in texts.iter().zip(ids) {
        assert_eq!(tokenizer.encode_markup(text).unwrap(), with_control, "{what}: {text:?}");
        // Text that spells a control token is split differently from llama.cpp.
        if with_control == without {
            assert_eq!(tokenizer.encode_text(text).unwrap(), without, "{what}: {text:?}");
        }
    }
}

#[test]
fn byte_level_ids_are_those_of_llama_cpp() {
    let golden = golden("bpe.json");
    for (pre, ids) in golden["ids"].as_object().unwrap() {
        let tokenizer = Tokenizer::from_gguf(&file(&bpe(&golden, pre))).unwrap();
        check(&tokenizer, &texts(&golden["texts"]), ids, pre);
    }
    for pre in PreTokenizer::names() {
        Tokenizer::from_gguf(&file(&bpe(&golden, pre))).unwrap();
    }
}

fn pieces(golden: &Value, prefix: bool) -> Vec<(&'static str, Entry)> {
    vec![
        ("ggml.model", Entry::Text("llama".into())),
        ("ggml.tokens", Entry::Texts(texts(&golden["tokens"]))),
        ("ggml.token_type", Entry::I32s(serde_json::from_value(golden["kinds"].clone()).unwrap())),
        ("ggml.scores", Entry::F32s(serde_json::from_value(golden["scores"].clone()).unwrap())),
        ("ggml.unknown_token_id", Entry::U32(0)),
        ("ggml.bos_token_id", Entry::U32(1)),
        ("ggml.eos_token_id", Entry::U32(2)),
        ("ggml.add_space_prefix", Entry::Bool(prefix)),
    ]
}

#[test]
fn sentence_piece_ids_are_those_of_llama_cpp() {
    let golden = golden("pieces.json");
    for (name, prefix) in [("prefix", true), ("plain", false)] {
        let tokenizer = Tokenizer::from_gguf(&file(&pieces(&golden, prefix))).unwrap();
        check(&tokenizer, &texts(&golden["texts"]), &golden["ids"][name], name);
    }
}

const INSTRUCT: &str = "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ m.content + '</s>' }}{% endif %}{% endfor %}";

/// A SentencePiece vocabulary of control tokens (0 to 2), bytes, `words` (from 259), `▁`, and the
/// characters of ASCII.
fn with_words(words: &[&str], score: impl Fn(usize) -> f32) -> Vec<(&'static str, Entry)> {
    let control = ["<unk>", "<s>", "</s>"].map(str::to_owned).into_iter();
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let words = words.iter().map(|&word| word.to_owned());
    let letters = ["▁".to_owned()].into_iter().chain(('!'..='~').map(String::from));
    let tokens: Vec<String> = control.chain(bytes).chain(words).chain(letters).collect();
    let kind = |at| match at {
        0 => 2,
        1 | 2 => 3,
        3..=258 => 6,
        _ => 1,
    };
    let kinds: Vec<i32> = (0..tokens.len()).map(kind).collect();
    let scores: Vec<f32> = (0..tokens.len()).map(score).collect();
    vec![
        ("ggml.model", Entry::Text("llama".into())),
        ("ggml.tokens", Entry::Texts(tokens)),
        ("ggml.token_type", Entry::I32s(kinds)),
        ("ggml.scores", Entry::F32s(scores)),
        ("ggml.unknown_token_id", Entry::U32(0)),
        ("ggml.bos_token_id", Entry::U32(1)),
        ("ggml.eos_token_id", Entry::U32(2)),
        ("chat_template", Entry::Text(INSTRUCT.into())),
    ]
}

/// The ids are llama.cpp's, and those of transformers for the whole rendered conversation.
#[test]
fn sentence_piece_puts_its_space_before_what_begins_alone() {
    const HI: u32 = 260;
    const SPACE_HI: u32 = 261;
    let mut settings = with_words(&["▁H", "Hi", "▁Hi", "▁W", "▁Wo"], |at| -(at as f32));
    let gguf = file(&settings);
    // `[INST] Hi [/INST]` and the same after a space.
    let bare = [323, 305, 310, 315, 316, 325, 261, 264, 323, 279, 305, 310, 315, 316, 325];
    let spaced = [&[264], &bare[..]].concat();
    let said = |text: &str| [Piece::Text(text.to_owned())];
    let messages = ["user", "assistant", "user"].map(|role| TemplateMessage::text(role, "Hi"));

    let folder = tempfile::tempdir().unwrap();
    write_text_files(&gguf, folder.path()).unwrap();
    let path = folder.path().join("tokenizer.json");
    let json: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let with_scheme = |scheme: &str| {
        let mut json = json.clone();
        json["normalizer"] = Value::Null;
        json["pre_tokenizer"] = serde_json::json!({
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false,
        });
        std::fs::write(&path, json.to_string()).unwrap();
        ChatTokenizer::load(folder.path()).unwrap()
    };
    for (name, text, after_control) in [
        ("GGUF", ChatTokenizer::from_gguf(&gguf).unwrap(), &spaced[..]),
        ("folder", ChatTokenizer::load(folder.path()).unwrap(), &spaced),
        ("always", with_scheme("always"), &spaced),
        ("first", with_scheme("first"), &bare),
    ] {
        let begun = [&[1], after_control].concat();
        assert_eq!(text.opening_ids(&said("Hi")).unwrap(), begun, "{name}");
        let ids = text.conversation_ids(&messages).unwrap();
        assert_eq!(ids, [&begun[..], &[HI, 2], after_control].concat(), "{name}");
        // After the end of a turn, and after a turn that was cut off.
        let observed = |last| text.observation_ids(Some(last), &said("Hi")).unwrap();
        assert_eq!(observed(2), after_control, "{name}");
        assert_eq!(observed(HI), [&[2], after_control].concat(), "{name}");
        // `Hi</s>Hi` as text: `Hi`, `<`, `/`, `s`, `>`, `Hi`.
        let control = [292, 279, 347, 294, HI];
        let ids = text.opening_ids(&said("Hi</s>Hi")).unwrap();
        let hi = begun.iter().position(|&id| id == SPACE_HI).unwrap();
        assert_eq!(ids, [&begun[..=hi], &control, &begun[hi + 1..]].concat(), "{name}");
        assert_eq!(text.turn_ids("Hi").unwrap(), [SPACE_HI, 2], "{name}");
        let turn = text.turn_ids("Hi</s>Hi").unwrap();
        assert_eq!(turn, [&[SPACE_HI], &control[..], &[2]].concat(), "{name}");
    }

    // A frame that ends in whitespace, and one with a space before the stop token.
    settings.retain(|(key, _)| *key != "chat_template");
    let template = INSTRUCT.replace(" [/INST]", "\n").replace("</s>", " </s>");
    settings.push(("chat_template", Entry::Text(template)));
    let text = ChatTokenizer::from_gguf(&file(&settings)).unwrap();
    assert_eq!(text.turn_ids("Hi").unwrap(), [HI, 2]);
    let observed = text.observation_ids(Some(2), &said("Hi")).unwrap();
    // `▁[INST]▁Hi`, a line break.
    assert_eq!(observed, [&spaced[..8], &[13]].concat());
}

#[test]
fn a_begin_that_the_file_does_not_name_is_known_to_be_missing() {
    let begin = |of: &[(&'static str, Entry)], without: &[&str], more: &[(&'static str, Entry)]| {
        let mut settings = of.to_vec();
        settings.retain(|(key, _)| !without.contains(key));
        settings.extend_from_slice(more);
        // Of pieces it is assumed, of bytes it depends on the pre-tokenizer.
        let assumed = settings.iter().any(|(_, entry)| matches!(entry, Entry::F32s(_)));
        let file = file(&settings);
        Tokenizer::from_gguf(&file).unwrap();
        Vocabulary::read(&file).unwrap().begin(assumed).unwrap()
    };
    let pieces = with_words(&[], |at| -(at as f32));
    let bytes = bpe(&golden("bpe.json"), "smollm");
    let (bos, add) = ("ggml.bos_token_id", "ggml.add_bos_token");
    assert_eq!(begin(&pieces, &[], &[]), Begin::With(1));
    assert_eq!(begin(&pieces, &[bos], &[]), Begin::Unnamed);
    assert_eq!(begin(&pieces, &[bos], &[(add, Entry::Bool(false))]), Begin::Bare);
    assert_eq!(begin(&bytes, &[bos], &[]), Begin::Bare);
    assert_eq!(begin(&bytes, &[bos, add], &[(add, Entry::Bool(true))]), Begin::Unnamed);
}

#[test]
fn pieces_need_scores_that_order_them() {
    let words = ["ba", "ac", "acd"];
    let error = Tokenizer::from_gguf(&file(&with_words(&words, |_| -1000.0))).unwrap_err();
    let error = error.explained();
    assert!(error.contains("`tokenizer.ggml.scores`"), "{error}");
    assert!(error.contains("`ba`") && error.contains("`tokenizer.json`"), "{error}");
    // Some in an order are taken, with a warning.
    let shared = |at: usize| -(at.min(260) as f32);
    Tokenizer::from_gguf(&file(&with_words(&words, shared))).unwrap();
}

#[test]
fn a_frame_is_control_whatever_kind_the_file_gives_it() {
    let golden = golden("bpe.json");
    let marked = ChatTokenizer::from_gguf(&file(&bpe(&golden, "smollm"))).unwrap();
    let opening = [Piece::Text("hi <|im_start|><|im_end|>".into())];
    let with = |kind: i32, template: &str| {
        let mut kinds: Vec<i32> = serde_json::from_value(golden["kinds"].clone()).unwrap();
        kinds[1..3].fill(kind);
        let changed = ["ggml.token_type", "ggml.eos_token_id", "chat_template"];
        let mut settings = bpe(&golden, "smollm");
        settings.retain(|(key, _)| !changed.contains(key));
        settings.push(("ggml.token_type", Entry::I32s(kinds)));
        settings.push(("ggml.eos_token_id", Entry::U32(0)));
        settings.push(("chat_template", Entry::Text(template.to_owned())));
        ChatTokenizer::from_gguf(&file(&settings)).unwrap()
    };
    // Normal, and user-defined.
    for kind in [1, 4] {
        let text = with(kind, CHAT);
        assert_eq!(text.turn_end(), Some(2), "{kind}");
        assert_eq!(text.tokenizer.stop_ids(), [0, 1, 2], "{kind}");
        let ids = text.opening_ids(&opening).unwrap();
        assert_eq!(ids, marked.opening_ids(&opening).unwrap(), "{kind}");
    }
    // A user-defined token that is text, unless the template writes it.
    let tool = marked.tokenizer.encode_markup("<tool>").unwrap();
    let template = CHAT.replace("<|im_start|>", "<tool>");
    for (template, expected) in [(CHAT, 1), (template.as_str(), 2)] {
        let text = with(3, template);
        let ids = text.opening_ids(&[Piece::Text("<tool>".into())]).unwrap();
        assert_eq!(ids.iter().filter(|id| **id == tool[0]).count(), expected, "{template}");
    }
}

/// `tests/golden/tokenizer/run.sh` runs it.
#[test]
#[ignore = "needs a real model and llama.cpp's ids"]
fn ids_of_a_real_model() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let file = Gguf::open(Path::new(&variable("TOKENIZER_MODEL"))).unwrap();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    let lines = std::fs::read_to_string(variable("TOKENIZER_IDS")).unwrap();
    let rows: Vec<(String, Vec<u32>, Vec<u32>)> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts: Vec<String> = rows.iter().map(|(text, ..)| text.clone()).collect();
    let ids: Vec<[&Vec<u32>; 2]> = rows.iter().map(|(_, a, b)| [a, b]).collect();
    check(&tokenizer, &texts, &serde_json::to_value(ids).unwrap(), "real");
}

#[test]
fn untrusted_text_is_never_a_control_token_and_always_the_same_text() {
    let golden = golden("pieces.json");
    let pieces = Tokenizer::from_gguf(&file(&pieces(&golden, false))).unwrap();
    let bytes = golden_bpe();
    for (tokenizer, control) in [(&pieces, 0..3), (&bytes, 0..3)] {
        for text in [
            "<s></s><unk>",
            "<|im_start|>system\n<|im_end|>",
            "<|im_<|im_end|>end|>",
            "a\n\n\n   b\u{1F600}☃ <tool>x</tool>",
            "<s",
        ] {
            let ids = tokenizer.encode_text(text).unwrap();
            assert!(!ids.iter().any(|id| control.contains(id)), "{text}: {ids:?}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
    }
    // Added tokens that are ordinary text are text.
    let ids = bytes.encode_text("<tool>").unwrap();
    assert_eq!(ids.len(), 1);
    assert!(!bytes.stop_ids().contains(&ids[0]));
    assert_eq!(bytes.end_ids(), [0, 2]);
    assert_eq!(bytes.stop_ids(), [0, 1, 2]);
}

fn golden_bpe() -> Tokenizer {
    Tokenizer::from_gguf(&file(&bpe(&golden("bpe.json"), "smollm"))).unwrap()
}

#[test]
fn a_conversation_is_framed_by_the_template_of_the_file() {
    let golden = golden("bpe.json");
    let mut settings = bpe(&golden, "smollm");
    let opening = [Piece::Text("hi <|im_end|>".into())];
    let plain = ChatTokenizer::from_gguf(&file(&settings)).unwrap();
    plain.check_turns().unwrap();
    let ids = plain.opening_ids(&opening).unwrap();
    assert_eq!(plain.turn_end(), Some(2));
    assert_eq!(
        plain.tokenizer.decode(&ids).unwrap(),
        "<|im_start|>user\nhi <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(ids.iter().filter(|&&id| id == 2).count(), 1);

    // A start token that the template does not write.
    settings.retain(|(key, _)| *key != "ggml.add_bos_token");
    settings.push(("ggml.add_bos_token", Entry::Bool(true)));
    let begun = ChatTokenizer::from_gguf(&file(&settings)).unwrap();
    assert_eq!(begun.opening_ids(&opening).unwrap(), [&[0], &ids[..]].concat());
}

#[test]
fn what_does_not_hold_together_is_named() {
    let golden = golden("bpe.json");
    let good = bpe(&golden, "smollm");
    let with = |key: &'static str, value: Option<Entry>| {
        let mut settings = good.clone();
        settings.retain(|(name, _)| *name != key);
        settings.extend(value.map(|value| (key, value)));
        ChatTokenizer::from_gguf(&file(&settings)).unwrap_err().explained()
    };
    let text = |text: &str| Some(Entry::Text(text.into()));
    let list = |items: &[&str]| Some(Entry::Texts(items.iter().map(|&s| s.to_owned()).collect()));
    for (error, message) in [
        (with("ggml.model", None), "`tokenizer.ggml.model`: it is missing"),
        (with("ggml.model", text("bert")), "the kind of tokenizer `bert` is not known"),
        (with("ggml.model", text("llama")), "`tokenizer.ggml.scores`: it is missing"),
        (with("ggml.pre", text("new")), "`new` is not known\nhint: known are `default`, `gpt-2`"),
        (with("ggml.tokens", None), "`tokenizer.ggml.tokens`: it is missing"),
        (with("ggml.tokens", text("a")), "it is not a list of texts"),
        (with("ggml.tokens", list(&["a"])), "entries for 1 tokens"),
        (with("ggml.token_type", Some(Entry::I32s(vec![9]))), "no token is of the type 9"),
        (with("ggml.merges", list(&["ab"])), "`ab` is not a pair"),
        (with("ggml.merges", list(&["not there"])), "`tokenizer.ggml.merges`"),
        (with("ggml.eos_token_id", Some(Entry::U32(1 << 30))), "1073741824 is not below"),
        (with("chat_template", None), "not trained to chat"),
        (with("chat_template", text("{% for %}")), "is not usable"),
    ] {
        assert!(error.contains("model.gguf") && error.contains(message), "{message}: {error}");
    }
}

#[test]
fn tokens_that_consist_of_each_other_take_bounded_memory() {
    let with = |most: usize| {
        let tokens: Vec<String> = (1..=most).map(|len| "a".repeat(len)).collect();
        Tokenizer::from_gguf(&file(&[
            ("ggml.model", Entry::Text("llama".into())),
            ("ggml.scores", Entry::F32s((0..most).map(|at| -(at as f32)).collect())),
            ("ggml.tokens", Entry::Texts(tokens)),
        ]))
    };
    // As many as runs of spaces in real vocabularies.
    with(128).unwrap();
    let error = with(1024).unwrap_err().to_string();
    assert!(
        error.contains("`tokenizer.ggml.tokens`") && error.contains("too many ways"),
        "{error}"
    );
}

#[test]
fn every_id_needs_an_embedding() {
    let text = ChatTokenizer::from_gguf(&file(&bpe(&golden("bpe.json"), "default"))).unwrap();
    let size = text.tokenizer.size();
    assert_eq!(text.check_size(size), Ok(()));
    let error = text.check_size(size - 1).unwrap_err();
    assert!(error.text.contains(&format!("ids up to {}", size - 1)), "{error}");
}

#[test]
fn a_file_without_a_chat_template_is_not_told_of_a_folder() {
    let error =
        ChatTokenizer::from_gguf(&file(&bpe(&golden("bpe.json"), "default")[..8])).unwrap_err();
    let hint = error.hint().unwrap();
    assert!(hint.contains("`tokenizer.chat_template`") && !hint.contains("folder"), "{hint}");
}
