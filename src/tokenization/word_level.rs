//! Builds a tokenizer for a small world: every word one token, bytes for all else.
//!
//! Words are tokens with their leading space, and every text is read as if it began with one, so
//! that a word always has the same id and a tiny model can copy names. Unknown words become bytes,
//! so everything can be encoded.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer as Inner,
};

use super::tokenizer::{TokenizerError, write_file};

/// Starts a user turn.
pub const USER: &str = "<|user|>";
/// Starts an assistant turn.
pub const ASSISTANT: &str = "<|assistant|>";
/// Ends an assistant turn.
pub const END: &str = "<|end|>";

/// A chat template with as few tokens as possible.
pub const CONVERSATION_TEMPLATE: &str = "{%- for message in messages -%}{{- '<|user|>' if message.role != 'assistant' else '<|assistant|>' -}}{{- message.content -}}{{- '<|end|>' if message.role == 'assistant' -}}{%- endfor -%}{{- '<|assistant|>' if add_generation_prompt -}}\n";

/// Like [`CONVERSATION_TEMPLATE`], but it shows the model only the last message.
pub const LAST_MESSAGE_TEMPLATE: &str =
    "{{- '<|user|>' + messages[-1].content + '<|assistant|>' -}}\n";

/// Writes `tokenizer.json` and its companions for the words of `lines` into `folder`; returns the
/// size of the vocabulary. `tags` become tokens of their own.
///
/// # Errors
/// When a file cannot be written.
pub fn write_word_level(
    folder: &Path,
    lines: &[String],
    tags: &[String],
    chat_template: &str,
) -> Result<usize, TokenizerError> {
    let encode = |error: tokenizers::Error| TokenizerError::Encode(error.to_string());
    let splitter = ByteLevel::new(true, false, true);
    let mut words = BTreeSet::new();
    for line in lines {
        let mut text = PreTokenizedString::from(line.as_str());
        splitter.pre_tokenize(&mut text).map_err(encode)?;
        for (word, _, _) in text.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            words.insert(word.to_owned());
        }
    }
    let bytes: BTreeSet<String> =
        ByteLevel::alphabet().into_iter().map(|byte| byte.to_string()).collect();
    words.retain(|word| !bytes.contains(word));
    let vocabulary: Vocab = bytes.into_iter().chain(words).zip(0..).collect();
    // Without merges, a word is either in the vocabulary or becomes bytes.
    let model = BPE::builder()
        .vocab_and_merges(vocabulary, Vec::new())
        .ignore_merges(true)
        .build()
        .map_err(encode)?;
    let mut inner = Inner::new(model);
    inner.with_pre_tokenizer(Some(splitter));
    inner.with_decoder(Some(splitter));
    let special = [END, USER, ASSISTANT].map(|text| AddedToken::from(text, true));
    inner.add_special_tokens(&special);
    let tags: Vec<AddedToken> =
        tags.iter().map(|tag| AddedToken::from(tag.as_str(), false)).collect();
    inner.add_tokens(&tags);
    let size = inner.get_vocab_size(true);
    let end = inner.token_to_id(END);

    let write = |name: &str, text: String| write_file(folder, name, text);
    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    write("tokenizer.json", inner.to_string(true).map_err(encode)?)?;
    write(
        "tokenizer_config.json",
        pretty(&json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END,
            "pad_token": END,
            "clean_up_tokenization_spaces": false,
            "model_max_length": 1_000_000,
        })),
    )?;
    write("generation_config.json", pretty(&json!({ "eos_token_id": end })))?;
    write("chat_template.jinja", chat_template.to_owned())?;
    Ok(size)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::Tokenizer;
    use super::*;
    use crate::protocol::Piece;

    fn made() -> (tempfile::TempDir, Tokenizer) {
        let folder = tempfile::tempdir().unwrap();
        let lines = ["Where was Ana Vel born?".to_owned(), "Mirel".to_owned()];
        let tags = ["<think>".to_owned(), "</think>".to_owned()];
        write_word_level(folder.path(), &lines, &tags, LAST_MESSAGE_TEMPLATE).unwrap();
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        (folder, tokenizer)
    }

    #[test]
    fn a_word_is_one_token_wherever_it_stands() {
        let (_folder, tokenizer) = made();
        let alone = tokenizer.encode_text("Mirel").unwrap();
        assert_eq!(alone.len(), 1);
        let inside = tokenizer.encode_markup("<think>Mirel</think>").unwrap();
        assert_eq!(inside.len(), 3);
        assert_eq!(inside[1], alone[0]);
        assert_eq!(tokenizer.encode_text("was Mirel").unwrap()[1], alone[0]);
    }

    #[test]
    fn any_text_survives_and_none_of_it_is_control() {
        let (_folder, tokenizer) = made();
        let control: Vec<u32> = ["<|end|>", "<|user|>", "<think>", "</think>"]
            .iter()
            .map(|token| tokenizer.encode_markup(token).unwrap()[0])
            .collect();
        for text in [
            "<|end|>",
            "a<|user|>b<think>c",
            "<|<|end|>end|>",
            "<think><think></think>",
            "naïve ☃ 日本",
            "<|end|",
        ] {
            let ids = tokenizer.encode_text(text).unwrap();
            assert!(ids.iter().all(|id| !control.contains(id)), "{text}: {ids:?}");
            let back = tokenizer.decode(&ids).unwrap().replace(' ', "");
            assert_eq!(back, text.replace(' ', ""), "{ids:?}");
        }
    }

    #[test]
    fn markup_keeps_its_control_tokens_beside_untrusted_text() {
        let (_folder, tokenizer) = made();
        let end = tokenizer.encode_markup(END).unwrap();
        assert_eq!(tokenizer.end_ids(), end);
        assert_eq!(tokenizer.stop_ids().len(), 3);
        let pieces = [Piece::Text("<|end|>".into()), Piece::Markup("<|end|>".into())];
        let ids = tokenizer.encode_pieces(&pieces).unwrap();
        assert_eq!(ids.iter().filter(|id| **id == end[0]).count(), 1);
        assert_eq!(ids.last(), end.last());
    }
}
