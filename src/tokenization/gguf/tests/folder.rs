//! Folders made from GGUF files, and GGUF files made from folders.

use std::path::Path;

use serde_json::Value;

use super::{bpe, file, golden, texts};
use crate::gguf::Entry;
use crate::protocol::Piece;
use crate::tokenization::{
    ChatTokenizer, GgufTokenizer, Tokenizer, TokenizerError, gguf_entries, write_text_files,
};

/// What is exported of the text side of a folder.
fn entries_of(
    folder: &Path,
    vocabulary: usize,
    wanted: GgufTokenizer,
) -> Result<Vec<(String, Entry)>, TokenizerError> {
    gguf_entries(folder, &ChatTokenizer::load(folder)?, vocabulary, wanted)
}

#[test]
fn what_other_files_of_a_folder_add_is_exported() {
    let folder = tempfile::tempdir().unwrap();
    let golden = golden("bpe.json");
    write_text_files(&file(&bpe(&golden, "smollm")), folder.path()).unwrap();
    let change = |name: &str, change: &dyn Fn(&mut Value)| {
        let path = folder.path().join(name);
        let mut json = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        change(&mut json);
        std::fs::write(&path, json.to_string()).unwrap();
    };
    change("tokenizer.json", &|json| {
        json["added_tokens"].as_array_mut().unwrap().retain(|token| token["id"] != 1);
    });
    change("tokenizer_config.json", &|json| {
        json["added_tokens_decoder"] =
            serde_json::json!({ "1": { "content": "<|im_start|>", "special": true } });
    });
    let tokens = golden["tokens"].as_array().unwrap().len();
    let entries = entries_of(folder.path(), tokens, GgufTokenizer::Texts).unwrap();
    let (_, kinds) = entries.iter().find(|(key, _)| key == "tokenizer.ggml.token_type").unwrap();
    assert!(matches!(kinds, Entry::I32s(kinds) if kinds[..3] == [3; 3]));
}

#[test]
fn the_files_made_from_a_file_give_the_same_ids_and_so_does_a_file_made_from_them() {
    let golden = golden("bpe.json");
    let texts = texts(&golden["texts"]);
    for begins in [false, true] {
        let mut settings = bpe(&golden, "smollm");
        settings.retain(|(key, _)| *key != "ggml.add_bos_token");
        settings.push(("ggml.add_bos_token", Entry::Bool(begins)));
        let source = file(&settings);
        let folder = tempfile::tempdir().unwrap();
        write_text_files(&source, folder.path()).unwrap();
        let tokens = golden["tokens"].as_array().unwrap().len();
        let entries = entries_of(folder.path(), tokens + 2, GgufTokenizer::Texts).unwrap();
        let entries: Vec<(&str, Entry)> = entries
            .iter()
            .map(|(key, entry)| (key.strip_prefix("tokenizer.").unwrap(), entry.clone()))
            .collect();
        let again = file(&entries);
        assert_eq!(again.text("tokenizer.ggml.pre").unwrap(), Some("smollm"));
        assert_eq!(again.flag("tokenizer.ggml.add_bos_token").unwrap(), Some(begins));

        let source = ChatTokenizer::from_gguf(&source).unwrap();
        let sides = [ChatTokenizer::load(folder.path()), ChatTokenizer::from_gguf(&again)]
            .map(Result::unwrap);
        for side in &sides {
            for text in &texts {
                let ids = |side: &ChatTokenizer| {
                    let tokenizer = &side.tokenizer;
                    (tokenizer.encode_markup(text).unwrap(), tokenizer.encode_text(text).unwrap())
                };
                assert_eq!(ids(side), ids(&source), "{text:?}");
            }
            let opening = [Piece::Text("hi".into())];
            assert_eq!(side.opening_ids(&opening).unwrap(), source.opening_ids(&opening).unwrap());
            assert_eq!(side.turn_end(), source.turn_end());
            assert_eq!(side.tokenizer.stop_ids(), source.tokenizer.stop_ids());
        }
    }
}

/// As of SmolLM2, whose conversations begin with its BOS token, `<|im_start|>`.
#[test]
fn a_file_puts_a_token_before_texts_where_the_folder_does() {
    let folder = tempfile::tempdir().unwrap();
    let golden = golden("bpe.json");
    let mut settings = bpe(&golden, "smollm");
    settings.retain(|(key, _)| *key != "ggml.bos_token_id");
    settings.push(("ggml.bos_token_id", Entry::U32(1)));
    write_text_files(&file(&settings), folder.path()).unwrap();
    let change = |name: &str, key: &str, value: Value| {
        let path = folder.path().join(name);
        let mut json: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        json[key] = value;
        std::fs::write(&path, json.to_string()).unwrap();
    };
    let tokens = golden["tokens"].as_array().unwrap().len();
    let begins = || {
        let entries = entries_of(folder.path(), tokens, GgufTokenizer::Texts).unwrap();
        let (_, entry) =
            entries.into_iter().find(|(key, _)| key == "tokenizer.ggml.add_bos_token").unwrap();
        matches!(entry, Entry::Bool(true))
    };
    assert!(!begins());
    change("tokenizer_config.json", "add_bos_token", Value::Null);
    assert!(!begins());
    let processor = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [
            { "SpecialToken": { "id": "<|im_start|>", "type_id": 0 } },
            { "Sequence": { "id": "A", "type_id": 0 } },
        ],
        "pair": [
            { "Sequence": { "id": "A", "type_id": 0 } },
            { "Sequence": { "id": "B", "type_id": 1 } },
        ],
        "special_tokens": {
            "<|im_start|>": { "id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"] },
        },
    });
    change("tokenizer.json", "post_processor", processor);
    assert!(begins());
    change("tokenizer_config.json", "add_bos_token", false.into());
    assert!(!begins());
    change("tokenizer_config.json", "add_bos_token", true.into());
    assert!(begins());
}

#[test]
fn a_tokenizer_that_files_cannot_hold_is_named() {
    let policy = Path::new("models/policy");
    let ids_only = entries_of(policy, 1000, GgufTokenizer::IdsOnly).unwrap();
    let tokens = ids_only.iter().find(|(key, _)| key == "tokenizer.ggml.tokens").unwrap();
    assert!(matches!(&tokens.1, Entry::Texts(tokens) if tokens.len() == 1000));
    let error = entries_of(policy, 1000, GgufTokenizer::Texts).unwrap_err().to_string();
    assert!(error.contains("puts a space before texts"), "{error}");
}

/// As with Gemma 3's tokenizer of images in its models of text.
#[test]
fn a_control_token_that_nothing_writes_needs_no_embedding() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = file(&bpe(&golden("bpe.json"), "default"));
    write_text_files(&gguf, folder.path()).unwrap();
    let size = ChatTokenizer::load(folder.path()).unwrap().tokenizer.size();
    let path = folder.path().join("tokenizer.json");
    let json = std::fs::read_to_string(&path).unwrap();
    let with = |content: &str, special: bool| {
        let mut json: Value = serde_json::from_str(&json).unwrap();
        json["added_tokens"].as_array_mut().unwrap().push(serde_json::json!({
            "id": size, "content": content, "special": special, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false,
        }));
        std::fs::write(&path, json.to_string()).unwrap();
        let text = ChatTokenizer::load(folder.path()).unwrap();
        assert_eq!(text.tokenizer.size(), size + 1);
        text.check_size(size)
    };
    assert_eq!(with("<image_soft_token>", true), Ok(()));
    // Text, a tag, a part of the template.
    for (content, special) in [("<zz>", false), ("<think>", true), ("assistant\n", true)] {
        let error = with(content, special).unwrap_err();
        assert!(error.text.contains(&format!("ids up to {size},")), "{content}: {error}");
    }
}

#[test]
fn settings_that_cannot_be_read_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = file(&bpe(&golden("bpe.json"), "default"));
    write_text_files(&gguf, folder.path()).unwrap();
    let path = folder.path().join("generation_config.json");
    let ends = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Tokenizer::load(folder.path()).map(|tokenizer| tokenizer.end_ids().to_vec())
    };
    let without = ends("{}").unwrap();
    assert!(!without.contains(&5) && !without.contains(&6));
    assert_eq!(ends("{\"eos_token_id\": null}").unwrap(), without);
    let both = ends("\u{feff}{\"eos_token_id\": [5, 6]}").unwrap();
    assert!(both.contains(&5) && both.contains(&6));
    assert!(ends("{\"eos_token_id\": 5}").unwrap().contains(&5));
    for text in [
        "{\"eos_token_id\": 5,}",
        "[]",
        "",
        "{\"eos_token_id\": \"5\"}",
        "{\"eos_token_id\": [[5]]}",
        "{\"eos_token_id\": [4294967301]}",
        "{\"eos_token_id\": -5}",
    ] {
        let error = ends(text).unwrap_err().to_string();
        assert!(error.contains("generation_config.json"), "{text}: {error}");
        if text.contains("\"eos_token_id\"") && !text.contains(",}") {
            assert!(error.contains("`eos_token_id` is "), "{text}: {error}");
        }
    }
}
