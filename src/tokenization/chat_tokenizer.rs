//! The text side of a model folder: how conversations become ids.

use std::borrow::Cow;
use std::path::Path;

use aho_corasick::AhoCorasick;

use crate::gguf::Gguf;
use crate::hint::Reason;
use crate::protocol::{Piece, TAGS, THINK};

use super::chat_template::{ChatFormat, ChatTemplate, SpecialTokens, TemplateMessage};
use super::gguf::special_tokens;
use super::token_settings::read_settings;
use super::tokenizer::{Tokenizer, TokenizerError};

/// Opens a thought.
const THINK_OPEN: &str = "<think>";

/// Conversations that together show what a chat template writes around messages, by their roles.
const FRAMED: [&[&str]; 3] = [&["user"], &["system", "user"], &["user", "assistant", "user"]];

/// A model's tokenizer and chat template.
#[derive(Debug)]
pub struct ChatTokenizer {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The chat template.
    pub template: ChatTemplate,
    /// Or why the template has none.
    format: Result<ChatFormat, String>,
    folder: String,
    has_lent_template: bool,
}

impl ChatTokenizer {
    /// Reads tokenizer and chat template from a model's folder or GGUF file.
    ///
    /// # Errors
    /// When one of them is missing or cannot be used.
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        if Gguf::is_path(path) {
            return Self::from_gguf(&Gguf::open(path)?);
        }
        Self::new(Tokenizer::load(path)?, ChatTemplate::load(path)?, path.display().to_string())
    }

    /// The same for a model with an adapter, if one is given: where the model has no chat template,
    /// as one that was not trained to chat, with that in the adapter's folder.
    ///
    /// # Errors
    /// As [`ChatTokenizer::load`].
    pub fn load_for(path: &Path, adapter: Option<&Path>) -> Result<Self, TokenizerError> {
        let lends = |adapter: &&Path| !ChatTemplate::is_in(path) && ChatTemplate::is_in(adapter);
        let Some(adapter) = adapter.filter(lends) else { return Self::load(path) };
        let (tokenizer, tokens) = if Gguf::is_path(path) {
            let file = Gguf::open(path)?;
            (Tokenizer::from_gguf(&file)?, special_tokens(&file)?)
        } else {
            (Tokenizer::load(path)?, SpecialTokens::of(&read_settings(path)?))
        };
        let template = ChatTemplate::load_with(adapter, &tokens)?;
        let (model, adapter) = (path.display(), adapter.display());
        tracing::info!(%model, %adapter, "the model has no chat template: its adapter's is used");
        let text = Self::new(tokenizer, template, model.to_string())?;
        Ok(Self { has_lent_template: true, ..text })
    }

    /// Whether the chat template is an adapter's.
    pub fn has_lent_template(&self) -> bool {
        self.has_lent_template
    }

    /// Reads tokenizer and chat template from an open GGUF file.
    ///
    /// # Errors
    /// As [`ChatTokenizer::load`].
    pub fn from_gguf(file: &Gguf) -> Result<Self, TokenizerError> {
        let template = ChatTemplate::from_gguf(file)?;
        Self::new(Tokenizer::from_gguf(file)?, template, file.path().to_owned())
    }

    fn new(
        mut tokenizer: Tokenizer,
        template: ChatTemplate,
        folder: String,
    ) -> Result<Self, TokenizerError> {
        // A model that reads the last message only has no such format, and cannot be a policy.
        let format = template.format().map_err(|error| match error {
            TokenizerError::Template { reason, .. } => reason,
            other => other.to_string(),
        });
        let mut framed = Vec::new();
        for roles in FRAMED {
            let messages: Vec<TemplateMessage> =
                roles.iter().map(|&role| TemplateMessage::markup(role, "a")).collect();
            // A template can refuse some roles.
            for piece in template.render(&messages).unwrap_or_default() {
                if let Piece::Markup(text) = piece {
                    framed.extend(tokenizer.encode_markup(&text)?);
                }
            }
        }
        let between = match &format {
            Ok(format) => tokenizer.encode_markup(&format.before_user)?,
            Err(_) => Vec::new(),
        };
        tokenizer.set_frame(&framed, &between)?;
        Ok(Self { tokenizer, template, format, folder, has_lent_template: false })
    }

    /// Fails where the template cannot carry a conversation of several turns, as a policy's must.
    ///
    /// # Errors
    /// Says why it cannot.
    pub fn check_turns(&self) -> Result<(), TokenizerError> {
        self.format().map(|_| ())
    }

    /// Fails if a model with so many embeddings has none for an id that it can be given. It needs
    /// none for control tokens that nothing writes: Gemma 3's tokenizer has one for images, which
    /// its models of text lack.
    ///
    /// # Errors
    /// Names the largest id.
    pub fn check_size(&self, embeddings: usize) -> Result<(), Reason> {
        let largest = self.framed_ids().chain(self.tokenizer.largest_of_texts()).max();
        match largest {
            Some(id) if id as usize >= embeddings => Err(reason!(
                "the tokenizer of `{}` has ids up to {id}, but the model has {embeddings} embeddings", self.folder;
                hint: "is it the tokenizer of another model?"
            )),
            _ => Ok(()),
        }
    }

    /// What the chat template puts around messages, and the end of a turn.
    fn framed_ids(&self) -> impl Iterator<Item = u32> {
        // A template that fails here fails for every request, which says why.
        let opened = self.conversation_ids(&[TemplateMessage::markup("user", "a")]);
        let frames =
            self.format.iter().flat_map(|format| [&format.before_user, &format.after_user]);
        let frames = frames.map(|frame| self.tokenizer.encode_markup(frame));
        let ids = std::iter::once(opened).chain(frames).flatten().flatten();
        ids.chain(self.turn_end()).collect::<Vec<_>>().into_iter()
    }

    /// What stands between turns.
    fn format(&self) -> Result<&ChatFormat, TokenizerError> {
        self.format.as_ref().map_err(|reason| TokenizerError::Template {
            path: self.folder.clone(),
            reason: reason.clone(),
        })
    }

    /// The token that ends a turn of the model: the one that the template writes there, where that
    /// is a special token; else the first of those that the folder names.
    pub fn turn_end(&self) -> Option<u32> {
        let framed = self
            .format
            .as_ref()
            .ok()
            .and_then(|format| self.tokenizer.encode_markup(&format.before_user).ok())
            .and_then(|ids| ids.first().copied())
            .filter(|id| self.tokenizer.stop_ids().contains(id));
        framed.or_else(|| self.tokenizer.end_ids().first().copied())
    }

    /// Ids of a turn as the model is to write it, its end token included. What the frame opens by
    /// itself is left out; of the control tokens only the protocol's tags become tokens.
    ///
    /// # Errors
    /// Fails where the tokenizer refuses the text.
    pub fn turn_ids(&self, turn: &str) -> Result<Vec<u32>, TokenizerError> {
        let turn = self.after_frame(turn);
        let begins = self.turn_begins()?;
        let mut ids = self.tokenizer.encode_part(&turn, begins)?;
        if ids.iter().any(|&id| self.tokenizer.is_frame(id)) {
            let mut pieces = Vec::new();
            let mut read = 0;
            for tag in tag_finder()?.find_iter(turn.as_ref()) {
                pieces.push(Piece::Text(turn[read..tag.start()].to_owned()));
                pieces.push(Piece::Markup(turn[tag.range()].to_owned()));
                read = tag.end();
            }
            pieces.push(Piece::Text(turn[read..].to_owned()));
            ids = self.tokenizer.encode_unescaped(&pieces, begins)?;
        }
        ids.extend(self.turn_end());
        Ok(ids)
    }

    /// Whether a turn's first word has the space that SentencePiece puts before a text: models
    /// write it there, unless the frame ends in whitespace, or in a token after which there is
    /// none.
    fn turn_begins(&self) -> Result<bool, TokenizerError> {
        let frame = self.format.as_ref().map_or("", |format| &format.after_user);
        Ok(match self.tokenizer.encode_markup(frame)?.last() {
            Some(&id) if self.tokenizer.is_added(id) => self.tokenizer.begins_after(id),
            _ => !frame.ends_with(char::is_whitespace),
        })
    }

    /// What is left to write of `turn` where the frame opens the think element itself.
    fn after_frame<'t>(&self, turn: &'t str) -> Cow<'t, str> {
        let Some((_, space)) = self.think_opened() else { return turn.into() };
        match turn.trim_start().strip_prefix(THINK_OPEN) {
            Some(rest) => rest.strip_prefix(space).unwrap_or(rest).into(),
            // A turn without a thought closes the element at once.
            None => format!("{space}</{THINK}>\n\n{}", turn.trim_start()).into(),
        }
    }

    /// What stands before and after the think tag at the end of the frame.
    fn think_opened(&self) -> Option<(&str, &str)> {
        let frame = self.format.as_ref().ok()?.after_user.as_str();
        frame.rsplit_once(THINK_OPEN).filter(|(_, space)| space.trim().is_empty())
    }

    /// Ids that begin an episode: the opening as a user turn, ready for the policy to write.
    ///
    /// # Errors
    /// When the template fails, or the tokenizer cannot encode a text.
    pub fn opening_ids(&self, opening: &[Piece]) -> Result<Vec<u32>, TokenizerError> {
        self.conversation_ids(&[TemplateMessage { role: "user", content: opening.to_vec() }])
    }

    /// Ids of a conversation, ready for the model to write the next turn.
    ///
    /// # Errors
    /// When the template fails, or the tokenizer cannot encode a text.
    pub fn conversation_ids(
        &self,
        messages: &[TemplateMessage],
    ) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.with_begin_token(self.tokenizer.encode_pieces(&self.template.render(messages)?)?))
    }

    /// The same for a large model: text is read as it is, as the protocol's tags mean nothing to
    /// it.
    ///
    /// # Errors
    /// When the template fails, or the tokenizer cannot encode a text.
    pub fn unescaped_ids(&self, messages: &[TemplateMessage]) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.with_begin_token(
            self.tokenizer.encode_unescaped(&self.template.render(messages)?, true)?,
        ))
    }

    /// The ids of a conversation, with the token that begins every one.
    fn with_begin_token(&self, mut ids: Vec<u32>) -> Vec<u32> {
        let begin = self.tokenizer.begin().filter(|begin| ids.first() != Some(begin));
        ids.splice(..0, begin);
        ids
    }

    /// Ids that follow a sampled turn ending in `last`: the rest of the frame around it, the
    /// observation as a user turn, and the frame up to where the policy writes.
    ///
    /// # Errors
    /// When the tokenizer cannot encode a text.
    pub fn observation_ids(
        &self,
        last: Option<u32>,
        observation: &[Piece],
    ) -> Result<Vec<u32>, TokenizerError> {
        let ChatFormat { before_user, after_user } = self.format()?;
        // Some templates write a space before the stop token; the turn has ended without it.
        let ended = before_user.trim_start();
        let first = self.tokenizer.encode_markup(ended)?.first().copied();
        let has_stopped = first.is_some_and(|id| self.tokenizer.stop_ids().contains(&id));
        let before =
            if has_stopped && first == last { ended.to_owned() } else { before_user.clone() };
        let mut pieces = vec![Piece::Markup(before)];
        pieces.extend_from_slice(observation);
        pieces.push(Piece::Markup(after_user.clone()));
        let mut ids = self.tokenizer.encode_pieces_after(last, &pieces)?;
        // The turn's own stop token is part of the frame: it must not stand there twice.
        if last.is_some() && !before_user.is_empty() && ids.first().copied() == last {
            ids.remove(0);
        }
        Ok(ids)
    }

    /// What the frame makes every turn start with: some templates open the think tag themselves.
    pub fn turn_prefix(&self) -> String {
        self.think_opened().map_or_else(String::new, |_| THINK_OPEN.to_owned())
    }
}

/// Finds the protocol's tags, opening and closing.
fn tag_finder() -> Result<AhoCorasick, TokenizerError> {
    let tags = TAGS.iter().flat_map(|tag| [format!("<{tag}>"), format!("</{tag}>")]);
    AhoCorasick::new(tags).map_err(|error| TokenizerError::Encode(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::hint::Hint;
    use crate::tokenization::word_level::write_word_level;

    /// A folder with this template, in which `<|im_end|>` and the protocol's tags are special,
    /// and another token is the only end that its files name.
    fn text(template: &str) -> ChatTokenizer {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let words = ["a b ok user assistant".to_owned()];
        let mut tags: Vec<String> =
            TAGS.iter().flat_map(|tag| [format!("<{tag}>"), format!("</{tag}>")]).collect();
        tags.extend(["<|im_start|>".to_owned(), "<|im_end|>".to_owned()]);
        write_word_level(path, &words, &tags, template).unwrap();
        let file = path.join("tokenizer.json");
        let mut tokenizer: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        for token in tokenizer["added_tokens"].as_array_mut().unwrap() {
            token["special"] = json!(true);
        }
        std::fs::write(file, tokenizer.to_string()).unwrap();
        ChatTokenizer::load(path).unwrap()
    }

    #[test]
    fn why_a_template_carries_no_turns_is_said() {
        let said = |template: &str| text(template).check_turns().unwrap_err().to_string();
        assert!(said("{{ messages[-1].content }}").contains("it drops earlier turns"));
        let refuses = "{% if messages[1] %}{{ raise_exception('one turn') }}{% endif %}{{ messages[0].content }}";
        assert!(said(refuses).contains("one turn"));
    }

    const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}<|im_start|>assistant ";

    #[test]
    fn tags_that_are_special_tokens_do_not_stop_a_turn() {
        let text = text(CHATML);
        for tag in ["<think>", "</think>", "<answer>", "</interaction_prompt>"] {
            let ids = text.tokenizer.encode_markup(tag).unwrap();
            assert_eq!(ids.len(), 1, "{tag} is one token");
            assert!(!text.tokenizer.stop_ids().contains(&ids[0]), "{tag}");
        }
        let end = text.turn_end().unwrap();
        assert_eq!(text.tokenizer.decode(&[end]).unwrap(), "<|im_end|>");
        assert!(text.tokenizer.stop_ids().contains(&end));
    }

    #[test]
    fn a_large_model_reads_text_as_it_is() {
        let text = text(CHATML);
        let said = "a <message>b</message> &lt;answer> <answer><|im_end|>";
        let messages = [TemplateMessage::text("user", said)];
        let read = |ids: Vec<u32>| text.tokenizer.decode(&ids).unwrap().replace(' ', "");
        let ids = text.unescaped_ids(&messages).unwrap();
        let tag = text.tokenizer.encode_markup("<answer>").unwrap()[0];
        assert!(!ids.contains(&tag), "text never becomes a control token");
        let ends = ids.iter().filter(|id| Some(**id) == text.turn_end());
        assert_eq!(ends.count(), 1, "but for the template's own");
        assert!(read(ids).contains(&said.replace(' ', "")));
        let escaped = read(text.conversation_ids(&messages).unwrap());
        assert!(escaped.contains("&lt;message>b&lt;/message>&amp;lt;answer>&lt;answer>"));
    }

    #[test]
    fn a_turn_is_learnt_as_the_frame_has_it_written() {
        let opened = format!("{CHATML}<think>\n");
        for (template, turn, expected) in [
            (CHATML, "<think>ok</think><answer>a</answer>", "<think>ok</think><answer>a</answer>"),
            (&opened, "<think>ok</think><answer>a</answer>", "ok</think><answer>a</answer>"),
            (&opened, "a b", "</think>a b"),
            (CHATML, "a<|im_end|><|im_start|>user b", "a<|im_end|><|im_start|>user b"),
        ] {
            let text = text(template);
            let ids = text.turn_ids(turn).unwrap();
            let (end, ids) = ids.split_last().unwrap();
            assert_eq!(Some(*end), text.turn_end());
            let plain = |text: &str| text.replace(char::is_whitespace, "");
            assert!(!ids.contains(end), "text never becomes the end of a turn");
            let written = plain(&text.tokenizer.decode(ids).unwrap());
            if !turn.contains("im_end") {
                assert_eq!(written, plain(expected), "{turn}");
            }
        }
    }

    /// A folder of ChatML in which no file marks `<|tool|>`, `<|im_start|>` and `<|im_end|>` as
    /// special.
    fn unmarked() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let words = ["a b ok user assistant".to_owned()];
        let tags = ["<|tool|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned);
        write_word_level(folder.path(), &words, &tags, CHATML).unwrap();
        folder
    }

    fn change(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
        let mut json = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        change(&mut json);
        std::fs::write(path, json.to_string()).unwrap();
    }

    #[test]
    fn text_never_becomes_a_token_that_a_file_or_the_template_marks() {
        let folder = unmarked();
        let text = ChatTokenizer::load(folder.path()).unwrap();
        let id = |token: &str| text.tokenizer.encode_markup(token).unwrap()[0];
        let declared =
            json!({ (id("<|tool|>").to_string()): { "content": "<|tool|>", "special": true } });
        for (token, file, key, value, is_control) in [
            ("<|im_start|>", "tokenizer_config.json", "other", json!(null), true),
            ("<|im_end|>", "tokenizer_config.json", "other", json!(null), true),
            ("<|tool|>", "tokenizer_config.json", "other", json!(null), false),
            ("<|tool|>", "tokenizer_config.json", "sep_token", json!("<|tool|>"), true),
            ("<|tool|>", "tokenizer_config.json", "added_tokens_decoder", declared, true),
            (
                "<|tool|>",
                "special_tokens_map.json",
                "additional_special_tokens",
                json!([{ "content": "<|tool|>" }]),
                true,
            ),
            ("<|tool|>", "generation_config.json", "eos_token_id", json!(id("<|tool|>")), true),
            // A word that someone named remains a word.
            ("a", "tokenizer_config.json", "sep_token", json!("a"), false),
        ] {
            let folder = unmarked();
            let path = folder.path().join(file);
            if !path.exists() {
                std::fs::write(&path, "{}").unwrap();
            }
            change(&path, |json| json[key] = value);
            let text = ChatTokenizer::load(folder.path()).unwrap();
            let count = |said: &str| {
                let ids = text.opening_ids(&[Piece::Text(said.to_owned())]).unwrap();
                ids.into_iter().filter(|&of| of == id(token)).count()
            };
            let added = count(&format!("ok {token}")) - count("ok");
            assert_eq!(added == 0, is_control, "{token} of {file}: {key}");
            let stops = text.tokenizer.stop_ids().contains(&id(token));
            assert_eq!(stops, is_control, "{token} of {file}: {key}");
        }
    }

    #[test]
    fn what_is_in_the_place_of_a_tokenizer_is_said() {
        let folder = unmarked();
        let path = folder.path().join("tokenizer.json");
        let said = || ChatTokenizer::load(folder.path()).unwrap_err().explained();
        std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\n").unwrap();
        assert!(said().contains("a pointer of Git LFS") && said().contains("`git lfs pull`"));
        std::fs::remove_file(&path).unwrap();
        assert!(said().contains("with transformers"), "{}", said());
    }

    #[test]
    fn tokens_that_the_configuration_adds_are_added() {
        let folder = unmarked();
        let ids = |folder: &tempfile::TempDir| {
            let text = ChatTokenizer::load(folder.path())?;
            text.opening_ids(&[Piece::Text("a <|im_end|> b".into())])
        };
        let expected = ids(&folder).unwrap();
        let mut declared = json!({});
        change(&folder.path().join("tokenizer.json"), |json| {
            for token in json["added_tokens"].as_array_mut().unwrap().split_off(4) {
                let id = token["id"].to_string();
                declared[id] = token;
            }
        });
        assert_eq!(declared.as_object().unwrap().len(), 2);
        assert_ne!(ids(&folder).unwrap(), expected);
        let path = folder.path().join("tokenizer_config.json");
        change(&path, |json| json["added_tokens_decoder"] = declared.clone());
        assert_eq!(ids(&folder).unwrap(), expected);
        for (id, token, message) in [
            ("7", json!({ "content": "<|im_start|>" }), "`<|im_start|>` has the id 7, but"),
            ("x", json!({ "content": "<|x|>" }), "`x` is not a token id"),
            ("7", json!({}), "the token 7 has no text"),
        ] {
            change(&path, |json| json["added_tokens_decoder"] = json!({ (id): token }));
            let error = ids(&folder).unwrap_err().to_string();
            assert!(error.contains("tokenizer_config.json") && error.contains(message), "{error}");
        }
    }
}
