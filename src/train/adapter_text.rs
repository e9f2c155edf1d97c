//! Tokenizer and chat template beside an adapter, as other trainers save them there: what is used
//! are those of its base, so they must say the same.

use std::path::Path;

use serde_json::Value;

use crate::gguf::Gguf;
use crate::model::ADAPTER_CONFIG;
use crate::tokenization::{
    ChatTemplate, ChatTokenizer, Fingerprint, Tokenizer, written_conversation,
};

use super::error::TrainError;
use super::start::BASE;

/// Fails if an adapter was trained with another chat template or other tokens than `text`, which
/// are those of the model at `base`. Warns if it names another model as its base.
///
/// # Errors
/// Says what differs.
pub fn check_text(adapter: &Path, text: &ChatTokenizer, base: &Path) -> Result<(), TrainError> {
    check_template(adapter, text, base)?;
    check_tokens(adapter, text)?;
    // With a hash of the base weights, names say nothing more.
    if let Some(named) = base_name(adapter).filter(|_| !adapter.join(BASE).is_file())
        && is_another(&named, base)
    {
        tracing::warn!(
            adapter = %adapter.display(),
            base = %base.display(),
            named,
            "the adapter names another model as its base"
        );
    }
    Ok(())
}

fn check_template(adapter: &Path, text: &ChatTokenizer, base: &Path) -> Result<(), TrainError> {
    let Some(own) = template_of(adapter) else { return Ok(()) };
    if template_of(base) == Some(own) {
        return Ok(());
    }
    // Published copies of one template differ in comments and spaces.
    let expected = Fingerprint::of(text)?;
    let template = ChatTemplate::load_with(adapter, text.template.tokens())?;
    if written_conversation(&template, expected.begin.as_deref())? == expected.conversation {
        return Ok(());
    }
    Err(TrainError::Config(reason!(
        "the chat template beside the adapter `{}` is another than that of its base `{}`",
        adapter.display(),
        base.display();
        hint: "where the adapter was trained with it, put it into the base's folder; otherwise remove it from the adapter's"
    )))
}

/// The chat template in a folder or GGUF file as it stands there, if there is one.
fn template_of(path: &Path) -> Option<Value> {
    if Gguf::is_path(path) {
        let file = Gguf::open(path).ok()?;
        return Some(file.text("tokenizer.chat_template").ok()??.into());
    }
    if let Ok(text) = std::fs::read_to_string(path.join("chat_template.jinja")) {
        return Some(text.into());
    }
    let settings = std::fs::read_to_string(path.join("tokenizer_config.json")).ok()?;
    let settings: Value = serde_json::from_str(&settings).ok()?;
    settings.get("chat_template").filter(|template| !template.is_null()).cloned()
}

/// Compares ids of the whole vocabulary, among them all that training usually adds: special tokens,
/// and those at its end.
fn check_tokens(adapter: &Path, text: &ChatTokenizer) -> Result<(), TrainError> {
    const SPREAD: usize = 256;
    const LAST: usize = 64;
    if !adapter.join("tokenizer.json").is_file() {
        return Ok(());
    }
    let own = Tokenizer::load(adapter)?;
    let size = own.size();
    let spread = (0..size).step_by((size / SPREAD).max(1));
    let ids = spread.chain(size.saturating_sub(LAST)..size).map(|id| id as u32);
    for id in ids.chain(own.stop_ids().iter().copied()) {
        let token = own.decode(&[id]).unwrap_or_default();
        // A part of a character shows as no text of its own.
        let is_text = !token.trim().is_empty() && !token.contains(char::REPLACEMENT_CHARACTER);
        let known = text.tokenizer.decode(&[id]).unwrap_or_default();
        if is_text && known.trim() != token.trim() {
            return Err(TrainError::Config(reason!(
                "the token {id} is `{token}` beside the adapter `{}`, and `{known}` in its base",
                adapter.display();
                hint: "the adapter was made for another model, or with added tokens, which are not supported; remove its `tokenizer.json` if it was not trained with it"
            )));
        }
    }
    Ok(())
}

/// The base that an adapter names.
fn base_name(adapter: &Path) -> Option<String> {
    let settings = std::fs::read_to_string(adapter.join(ADAPTER_CONFIG)).ok()?;
    let settings: Value = serde_json::from_str(&settings).ok()?;
    settings["base_model_name_or_path"].as_str().map(str::to_owned)
}

/// Whether this is plainly the name of another model than the one at `path`: neither name is a part
/// of the other. Quantised copies have their type behind the name.
fn is_another(named: &str, path: &Path) -> bool {
    let plain = |name: &str| {
        let name = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let name = name.strip_suffix(".gguf").unwrap_or(name).to_lowercase();
        name.chars().filter(|c| c.is_alphanumeric()).collect::<String>()
    };
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut parts = path.iter().map(|part| part.to_string_lossy());
    // In the cache of the hub, the folder of a revision is below that of its model.
    let cached = parts.clone().find_map(|part| {
        part.strip_prefix("models--").and_then(|id| Some(id.rsplit_once("--")?.1.to_owned()))
    });
    let found =
        cached.or_else(|| parts.next_back().map(|part| part.into_owned())).unwrap_or_default();
    let (named, found) = (plain(named), plain(&found));
    !named.is_empty() && !named.contains(&found) && !found.contains(&named)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::PathBuf;

    use super::*;
    use crate::tokenization::word_level::{CONVERSATION_TEMPLATE, write_word_level};

    fn model(folder: &Path, name: &str, words: &str, template: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::create_dir(&path).unwrap();
        write_word_level(&path, &[words.to_owned()], &[], template).unwrap();
        path
    }

    #[test]
    fn what_lies_beside_an_adapter_says_the_same_as_its_base() {
        let folder = tempfile::tempdir().unwrap();
        let base = model(folder.path(), "base", "a b c", CONVERSATION_TEMPLATE);
        let text = ChatTokenizer::load(&base).unwrap();
        let commented = format!("{CONVERSATION_TEMPLATE}{{# the same #}}");
        let longer = format!("{CONVERSATION_TEMPLATE} a");
        let raising = "{{ raise_exception('no') }}".to_owned();
        for (name, words, template, said) in [
            ("same", "a b c", CONVERSATION_TEMPLATE, None),
            ("commented", "a b c", &commented, None),
            ("longer", "a b c", &longer, Some("the chat template beside the adapter")),
            ("raising", "a b c", &raising, Some("chat template")),
            ("words", "a b c d", CONVERSATION_TEMPLATE, Some("beside the adapter")),
        ] {
            let adapter = model(folder.path(), name, words, template);
            let found = check_text(&adapter, &text, &base).map_err(|error| error.to_string());
            match said {
                None => assert_eq!(found, Ok(()), "{name}"),
                Some(said) => assert!(found.unwrap_err().contains(said), "{name}"),
            }
        }
        // In the older place.
        let adapter = folder.path().join("older");
        std::fs::create_dir(&adapter).unwrap();
        check_text(&adapter, &text, &base).unwrap();
        let settings = serde_json::json!({ "chat_template": longer }).to_string();
        std::fs::write(adapter.join("tokenizer_config.json"), settings).unwrap();
        let error = check_text(&adapter, &text, &base).unwrap_err().to_string();
        assert!(error.contains("chat template"), "{error}");
    }

    #[test]
    fn names_of_other_models() {
        let cached = "/c/models--Qwen--Qwen2.5-7B-Instruct/snapshots/0123abcd";
        for (named, path, expected) in [
            ("Qwen/Qwen2.5-7B-Instruct", "/models/Qwen2.5-7B-Instruct-Q4_K_M.gguf", false),
            ("unsloth/qwen2.5-7b-instruct-bnb-4bit", "/models/Qwen2.5-7B-Instruct", false),
            ("Qwen/Qwen2.5-7B-Instruct", cached, false),
            ("Qwen/Qwen2.5-3B-Instruct", cached, true),
            ("Qwen/Qwen2.5-7B", "/models/SmolLM2-135M-Instruct", true),
            ("", "/models/SmolLM2-135M-Instruct", false),
        ] {
            assert_eq!(is_another(named, Path::new(path)), expected, "{named} {path}");
        }
    }
}
