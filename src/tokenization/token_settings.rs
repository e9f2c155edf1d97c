//! What the files beside `tokenizer.json` say of tokens and of how they are sampled.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer as Inner};

use crate::gguf::Gguf;

use super::tokenizer::{TokenizerError, is_ordinary, read_json, unreadable};

/// The keys of `tokenizer_config.json` and `special_tokens_map.json` that name one token.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Those that name several.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// Adds the tokens of `added_tokens_decoder` that `tokenizer.json` lacks, and returns those that
/// are marked as special there.
pub(super) fn add_declared(
    inner: &mut Inner,
    path: &Path,
    settings: &Value,
) -> Result<BTreeSet<u32>, TokenizerError> {
    let wrong = |reason: String| unreadable(path, format!("`added_tokens_decoder`: {reason}"));
    let mut declared = BTreeMap::new();
    for (id, token) in settings["added_tokens_decoder"].as_object().into_iter().flatten() {
        let number: u32 = id.parse().map_err(|_| wrong(format!("`{id}` is not a token id")))?;
        declared.insert(number, token);
    }
    let mut special = BTreeSet::new();
    let mut missing = Vec::new();
    for (&id, &token) in &declared {
        let text = text_of(token).ok_or_else(|| wrong(format!("the token {id} has no text")))?;
        let flag = |key: &str| token[key].as_bool();
        let is_special = flag("special").unwrap_or_default();
        if is_special {
            special.insert(id);
        }
        if inner.get_added_vocabulary().get_vocab().get(&text) != Some(&id) {
            let added = AddedToken::from(text.clone(), is_special)
                .normalized(flag("normalized").unwrap_or(!is_special))
                .single_word(flag("single_word").unwrap_or_default())
                .lstrip(flag("lstrip").unwrap_or_default())
                .rstrip(flag("rstrip").unwrap_or_default());
            missing.push((id, added));
        }
    }
    let tokens: Vec<AddedToken> = missing.iter().map(|(_, token)| token.clone()).collect();
    inner.add_tokens(&tokens);
    for (id, token) in missing {
        let text = &token.content;
        let found = inner.token_to_id(text);
        if found != Some(id) {
            let found = found.map_or_else(|| "none".to_owned(), |id| id.to_string());
            return Err(wrong(format!(
                "`{text}` has the id {id}, but by `tokenizer.json` it is {found}"
            )));
        }
    }
    Ok(special)
}

/// Adds the named special tokens that are in the vocabulary alone, and returns the ids of all.
pub(super) fn add_named(inner: &mut Inner, settings: &Value) -> BTreeSet<u32> {
    let one = NAMES.iter().filter_map(|key| settings.get(key));
    let several = LISTS.iter().filter_map(|key| settings.get(key)).flat_map(|value| match value {
        Value::Array(values) => values.iter().collect::<Vec<_>>(),
        Value::Object(values) => values.values().collect(),
        _ => Vec::new(),
    });
    let texts = one.chain(several).filter_map(text_of);
    let named: BTreeMap<u32, String> = texts
        .filter(|text| !is_ordinary(text))
        .filter_map(|text| Some((inner.token_to_id(&text)?, text)))
        .collect();
    let added = inner.get_added_tokens_decoder();
    let new = named.iter().filter(|(id, _)| !added.contains_key(id));
    let new: Vec<AddedToken> = new.map(|(_, text)| AddedToken::from(text.as_str(), true)).collect();
    inner.add_special_tokens(&new);
    named.into_keys().collect()
}

/// Settings of `generation_config.json` that change what is sampled, each with the number that has
/// no effect, if one has none. Requests set temperature, `top_p`, `top_k` and the length.
const SAMPLING: [(&str, Option<f64>); 29] = [
    ("repetition_penalty", Some(1.0)),
    ("suppress_tokens", None),
    ("bad_words_ids", None),
    ("forced_bos_token_id", None),
    ("forced_eos_token_id", None),
    ("no_repeat_ngram_size", Some(0.0)),
    ("begin_suppress_tokens", None),
    ("constraints", None),
    ("diversity_penalty", Some(0.0)),
    ("dola_layers", None),
    ("encoder_no_repeat_ngram_size", Some(0.0)),
    ("encoder_repetition_penalty", Some(1.0)),
    ("epsilon_cutoff", Some(0.0)),
    ("eta_cutoff", Some(0.0)),
    ("exponential_decay_length_penalty", None),
    ("force_words_ids", None),
    ("forced_decoder_ids", None),
    ("guidance_scale", Some(1.0)),
    ("min_length", Some(0.0)),
    ("min_new_tokens", Some(0.0)),
    ("min_p", Some(0.0)),
    ("num_beams", Some(1.0)),
    ("penalty_alpha", Some(0.0)),
    ("sequence_bias", None),
    ("stop_strings", None),
    ("token_healing", None),
    ("top_h", None),
    ("typical_p", Some(1.0)),
    ("watermarking_config", None),
];
/// What the settings of sampling in a GGUF file begin with.
const SAMPLING_OF_FILES: &str = "general.sampling.";
/// Those that requests set, and those that only shape another one.
const NOT_ALONE: [&str; 8] = [
    "temp",
    "top_k",
    "top_p",
    "sequence",
    "xtc_threshold",
    "penalty_last_n",
    "mirostat_tau",
    "mirostat_eta",
];

/// Settings of `generation_config.json` that would change what is sampled, and are not applied.
pub(super) fn not_applied(settings: &Value) -> Vec<&'static str> {
    let has_effect = |(key, neutral): &(&str, Option<f64>)| match &settings[*key] {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => neutral.is_none() || number.as_f64() != *neutral,
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(values) => !values.is_empty(),
    };
    SAMPLING.iter().filter(|setting| has_effect(setting)).map(|(key, _)| *key).collect()
}

/// The same of a GGUF file.
pub(super) fn not_applied_of_file(file: &Gguf) -> Vec<&str> {
    let has_effect = |key: &&str| {
        let Some(name) = key.strip_prefix(SAMPLING_OF_FILES) else { return false };
        let neutral = if name == "penalty_repeat" { 1.0 } else { 0.0 };
        let number = file.get(key).and_then(|value| value.as_f64());
        !NOT_ALONE.contains(&name) && number != Some(neutral)
    };
    file.keys().filter(has_effect).collect()
}

/// The token ids that the `settings` in `path` have below `key`: one, or a list of them.
pub(super) fn ids_of(path: &Path, settings: &Value, key: &str) -> Result<Vec<u32>, TokenizerError> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let Some(value) = settings.get(key).filter(|value| !value.is_null()) else {
        return Ok(Vec::new());
    };
    let ids = match value {
        Value::Array(ids) => ids.iter().map(id).collect(),
        one => id(one).map(|id| vec![id]),
    };
    ids.ok_or_else(|| {
        unreadable(path, format!("`{key}` is {value}, not a token id, or a list of them"))
    })
}

/// `tokenizer_config.json`, with the special tokens that only `special_tokens_map.json` names.
pub(super) fn read_settings(folder: &Path) -> Result<Value, TokenizerError> {
    let mut settings = read_json(&folder.join("tokenizer_config.json"))?;
    let named = read_json(&folder.join("special_tokens_map.json"))?;
    for key in NAMES.into_iter().chain(LISTS) {
        if let (None, Some(token)) = (settings.get(key), named.get(key)) {
            settings[key] = token.clone();
        }
    }
    Ok(settings)
}

/// A token named in [`read_settings`].
pub(super) fn token_text(settings: &Value, key: &str) -> Option<String> {
    text_of(settings.get(key)?)
}

/// The text of a token in a file: a string, or an object with `content`.
fn text_of(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::gguf::{Entry, Writer};

    #[test]
    fn settings_of_sampling_that_are_not_applied_are_named() {
        for (settings, named) in [
            (json!(null), &[][..]),
            (json!({ "eos_token_id": 2, "repetition_penalty": 1.0, "bad_words_ids": null }), &[]),
            (json!({ "no_repeat_ngram_size": 0, "suppress_tokens": [] }), &[]),
            (json!({ "repetition_penalty": 1.1 }), &["repetition_penalty"]),
            (
                json!({ "forced_eos_token_id": 2, "no_repeat_ngram_size": 3, "suppress_tokens": [1] }),
                &["suppress_tokens", "forced_eos_token_id", "no_repeat_ngram_size"],
            ),
            (
                json!({ "forced_bos_token_id": 0, "bad_words_ids": [[5]] }),
                &["bad_words_ids", "forced_bos_token_id"],
            ),
            (
                json!({
                    "stop_strings": ["</s>"], "min_p": 0.1, "begin_suppress_tokens": [2],
                    "sequence_bias": [[[5], -1.0]], "min_new_tokens": 4, "guidance_scale": 1.5,
                    "encoder_repetition_penalty": 1.2, "typical_p": 0.9, "num_beams": 4,
                    "exponential_decay_length_penalty": [15, 1.6], "token_healing": true,
                }),
                &[
                    "begin_suppress_tokens",
                    "encoder_repetition_penalty",
                    "exponential_decay_length_penalty",
                    "guidance_scale",
                    "min_new_tokens",
                    "min_p",
                    "num_beams",
                    "sequence_bias",
                    "stop_strings",
                    "token_healing",
                    "typical_p",
                ],
            ),
            (
                json!({
                    "stop_strings": null, "min_p": 0, "sequence_bias": {}, "min_new_tokens": 0,
                    "encoder_repetition_penalty": 1, "typical_p": 1.0, "num_beams": 1,
                    "token_healing": false, "temperature": 0.6, "top_p": 0.95, "max_length": 20,
                }),
                &[],
            ),
        ] {
            assert_eq!(not_applied(&settings), named, "{settings}");
        }
    }

    #[test]
    fn settings_of_sampling_in_a_file_are_named() {
        for (key, value, is_named) in [
            ("penalty_repeat", 1.3, true),
            ("penalty_repeat", 1.0, false),
            ("min_p", 0.05, true),
            ("min_p", 0.0, false),
            ("mirostat", 2.0, true),
            ("mirostat_tau", 5.0, false),
            ("temp", 0.7, false),
            ("new", 0.5, true),
        ] {
            let key = format!("general.sampling.{key}");
            let mut writer = Writer::default();
            writer.set("general.name", Entry::Text("m".into()));
            writer.set(&key, Entry::F32(value));
            let mut bytes = Vec::new();
            writer.write(&mut bytes).unwrap();
            let file = Gguf::parse(bytes, "model.gguf").unwrap();
            let named = if is_named { vec![key.as_str()] } else { Vec::new() };
            assert_eq!(not_applied_of_file(&file), named, "{key}");
        }
    }
}
