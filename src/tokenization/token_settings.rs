//! What the files beside `tokenizer.json` say of tokens and of how they are sampled.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer as Inner};

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

/// Settings of `generation_config.json` that would change what is sampled, and are not applied.
pub(super) fn not_applied(settings: &Value) -> Vec<&'static str> {
    const KEYS: [&str; 6] = [
        "repetition_penalty",
        "suppress_tokens",
        "bad_words_ids",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "no_repeat_ngram_size",
    ];
    let has_effect = |key: &&str| match &settings[*key] {
        Value::Null => false,
        Value::Array(values) => !values.is_empty(),
        value if *key == "repetition_penalty" => value.as_f64() != Some(1.0),
        value if *key == "no_repeat_ngram_size" => value.as_f64() != Some(0.0),
        _ => true,
    };
    KEYS.into_iter().filter(has_effect).collect()
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
    use serde_json::json;

    use super::*;

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
        ] {
            assert_eq!(not_applied(&settings), named, "{settings}");
        }
    }
}
