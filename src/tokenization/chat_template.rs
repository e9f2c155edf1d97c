//! A model's chat template, and the text between the turns of a growing conversation.

use std::path::Path;

use minijinja::{Environment, context};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::gguf::Gguf;
use crate::protocol::Piece;

use super::gguf::{TEMPLATE, chat_template};
use super::jinja;
use super::token_settings::{read_settings, token_text};
use super::tokenizer::{TokenizerError, read_text};
use super::untrusted::{join, split};

/// The longest template, bytes; the longest published ones have about 20 kB.
const MAX_TEMPLATE: usize = 1 << 20;

/// One message of a conversation, in pieces by origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateMessage {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// What it says.
    pub content: Vec<Piece>,
}

impl TemplateMessage {
    /// A message of untrusted text.
    pub fn text(role: &'static str, text: impl Into<String>) -> Self {
        Self { role, content: vec![Piece::Text(text.into())] }
    }

    /// A message of trusted text.
    pub fn markup(role: &'static str, text: impl Into<String>) -> Self {
        Self { role, content: vec![Piece::Markup(text.into())] }
    }
}

/// A chat template as models ship it, in Jinja.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    tokens: SpecialTokens,
    folder: String,
    content: Content,
}

/// In what form a template reads what a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Text,
    /// A list of parts, of which texts are one kind.
    Parts,
}

impl Content {
    fn of(self, text: &str) -> Value {
        match self {
            Self::Text => text.into(),
            Self::Parts => json!([{ "type": "text", "text": text }]),
        }
    }
}

/// The special tokens that a template may use; missing ones are undefined.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos_token: Option<String>,
    /// Ends a text.
    pub eos_token: Option<String>,
    /// Fills a batch.
    pub pad_token: Option<String>,
    /// Stands for what has no token.
    pub unk_token: Option<String>,
}

impl SpecialTokens {
    /// Those that the files beside a `tokenizer.json` name.
    pub(super) fn of(settings: &Value) -> Self {
        let token = |key| token_text(settings, key);
        Self {
            bos_token: token("bos_token"),
            eos_token: token("eos_token"),
            pad_token: token("pad_token"),
            unk_token: token("unk_token"),
        }
    }

    /// These, and of `others` those that are missing.
    fn or(self, others: &Self) -> Self {
        let or = |own: Option<String>, other: &Option<String>| own.or_else(|| other.clone());
        Self {
            bos_token: or(self.bos_token, &others.bos_token),
            eos_token: or(self.eos_token, &others.eos_token),
            pad_token: or(self.pad_token, &others.pad_token),
            unk_token: or(self.unk_token, &others.unk_token),
        }
    }
}

/// The text between the messages of a conversation that grows by a sampled assistant turn and a
/// user turn at a time. Found by rendering once, so it is right for any template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatFormat {
    /// From the end of an assistant turn's text to the start of the next user text.
    pub before_user: String,
    /// From the end of a user text to where the assistant starts writing.
    pub after_user: String,
}

impl ChatTemplate {
    /// Reads `chat_template.jinja`, or `chat_template` of `tokenizer_config.json`.
    ///
    /// # Errors
    /// Fails where there is none, or one that is no valid template.
    pub fn load(folder: &Path) -> Result<Self, TokenizerError> {
        Self::load_with(folder, &SpecialTokens::default())
    }

    /// The same beside an adapter, of a model with these `tokens`: an adapter's files need not name
    /// any.
    ///
    /// # Errors
    /// As [`ChatTemplate::load`].
    pub fn load_with(folder: &Path, tokens: &SpecialTokens) -> Result<Self, TokenizerError> {
        let settings = read_settings(folder)?;
        let shown = folder.display().to_string();
        let source = read_text(&folder.join("chat_template.jinja"))?
            .or_else(|| template_of(&settings))
            .ok_or_else(|| TokenizerError::Template {
                path: shown.clone(),
                reason: "there is none".into(),
            })?;
        Self::new(&source, SpecialTokens::of(&settings).or(tokens), shown)
    }

    /// Whether there is one in a folder or GGUF file, or something that cannot be read.
    pub(super) fn is_in(path: &Path) -> bool {
        if Gguf::is_path(path) {
            return !Gguf::open(path).is_ok_and(|file| file.get(TEMPLATE).is_none());
        }
        path.join("chat_template.jinja").exists()
            || !read_settings(path).is_ok_and(|settings| template_of(&settings).is_none())
    }

    /// Reads the template that a GGUF file carries.
    ///
    /// # Errors
    /// When it has none, or one that is not valid.
    pub fn from_gguf(file: &Gguf) -> Result<Self, TokenizerError> {
        let (source, tokens) = chat_template(file)?;
        Self::new(&source, tokens, file.path().to_owned())
    }

    /// From the template's text. `folder` is only named in errors.
    ///
    /// # Errors
    /// Fails where the text is no valid template, too long for one, or leaves out what messages
    /// say.
    pub fn new(
        source: &str,
        tokens: SpecialTokens,
        folder: String,
    ) -> Result<Self, TokenizerError> {
        let mut template = Self::compiled(source, tokens, folder)?;
        // A word that no template trims.
        const WORD: &str = "userzero";
        let message = TemplateMessage::text("user", WORD);
        let mut is_silent = false;
        for content in [Content::Text, Content::Parts] {
            template.content = content;
            let Ok(pieces) = template.render(std::slice::from_ref(&message)) else { continue };
            if pieces.iter().any(|piece| matches!(piece, Piece::Text(text) if text == WORD)) {
                return Ok(template);
            }
            is_silent = true;
        }
        if is_silent {
            return Err(template.unusable("it does not write what a message says".into()));
        }
        // A template that refuses this conversation may take others, or say why not.
        template.content = Content::Text;
        Ok(template)
    }

    fn compiled(
        source: &str,
        tokens: SpecialTokens,
        folder: String,
    ) -> Result<Self, TokenizerError> {
        let failed = |reason: String| TokenizerError::Template { path: folder.clone(), reason };
        if source.len() > MAX_TEMPLATE {
            return Err(failed(format!("it is longer than {MAX_TEMPLATE} bytes")));
        }
        let environment = jinja::environment(source).map_err(|error| failed(error.to_string()))?;
        let (source, content) = (source.to_owned(), Content::Text);
        Ok(Self { environment, source, tokens, folder, content })
    }

    fn unusable(&self, reason: String) -> TokenizerError {
        TokenizerError::Template { path: self.folder.clone(), reason }
    }

    /// The template's text.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// The special tokens that it may use.
    pub fn tokens(&self) -> &SpecialTokens {
        &self.tokens
    }

    /// The text of the token that begins every conversation, where the model's files name one.
    pub(super) fn begin(&self) -> Option<&str> {
        self.tokens.bos_token.as_deref()
    }

    /// The conversation as the model reads it, ready for it to write the next assistant turn.
    ///
    /// # Errors
    /// When the template fails for these messages.
    pub fn render(&self, messages: &[TemplateMessage]) -> Result<Vec<Piece>, TokenizerError> {
        let messages: Vec<_> = messages
            .iter()
            .map(|message| {
                let content = self.content.of(&join(&message.content));
                context! { role => message.role, content }
            })
            .collect();
        self.render_text(&messages).map(|text| split(&text))
    }

    /// What the template puts between turns.
    ///
    /// # Errors
    /// When the template fails, or does not put turns one after another.
    pub fn format(&self) -> Result<ChatFormat, TokenizerError> {
        // Plain words without leading or trailing characters that a template could trim.
        const WORDS: [&str; 3] = ["userzero", "assistantone", "usertwo"];
        let messages: Vec<_> = WORDS
            .iter()
            .zip(["user", "assistant", "user"])
            .map(|(word, role)| context! { role, content => self.content.of(word) })
            .collect();
        let text = self.render_text(&messages)?;
        let between = text.split_once(WORDS[1]).and_then(|(_, rest)| rest.split_once(WORDS[2]));
        match between {
            Some((before, after)) => {
                Ok(ChatFormat { before_user: before.to_owned(), after_user: after.to_owned() })
            }
            None => Err(self.unusable("it drops earlier turns".into())),
        }
    }

    fn render_text(&self, messages: &[minijinja::Value]) -> Result<String, TokenizerError> {
        let SpecialTokens { bos_token, eos_token, pad_token, unk_token } = &self.tokens;
        let defined = |token: &Option<String>| match token {
            Some(text) => minijinja::Value::from(text.as_str()),
            None => minijinja::Value::UNDEFINED,
        };
        let context = context! {
            messages,
            add_generation_prompt => true,
            tools => (),
            documents => (),
            bos_token => defined(bos_token),
            eos_token => defined(eos_token),
            pad_token => defined(pad_token),
            unk_token => defined(unk_token),
        };
        jinja::render(&self.environment, context).map_err(|reason| self.unusable(reason))
    }
}

/// `chat_template` is a string, or a list of named ones of which `default` counts.
fn template_of(settings: &Value) -> Option<String> {
    match settings.get("chat_template")? {
        Value::String(text) => Some(text.clone()),
        Value::Array(named) => named
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))?
            .get("template")?
            .as_str()
            .map(str::to_owned),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        tokens: SpecialTokens,
        conversations: BTreeMap<String, Vec<Value>>,
        templates: BTreeMap<String, String>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        template: String,
        conversation: String,
        /// Null where the template refuses the messages.
        rendered: Option<String>,
    }

    fn untrusted(message: &Value) -> TemplateMessage {
        let role =
            ["system", "user", "assistant"].into_iter().find(|role| message["role"] == *role);
        TemplateMessage::text(role.unwrap(), message["content"].as_str().unwrap())
    }

    fn verbatim(pieces: &[Piece]) -> String {
        pieces.iter().map(|(Piece::Markup(text) | Piece::Text(text))| text.as_str()).collect()
    }

    fn template(source: &str) -> Result<ChatTemplate, TokenizerError> {
        ChatTemplate::new(source, SpecialTokens::default(), "a/b".into())
    }

    /// As in Qwen3's and the distilled R1's.
    const CUTS: &str = "{% for m in messages %}{% set content = m.content %}{% if m.role == 'assistant' and '</think>' in content %}{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}<|im_start|>{{ m.role + '\n' + content + '<|im_end|>\n' }}{% endfor %}<|im_start|>assistant\n<think>";

    #[test]
    fn what_a_template_cuts_out_of_a_text_is_still_untrusted() {
        let start = |role: &str| Piece::Markup(format!("<|im_start|>{role}\n"));
        for (source, said, kept) in [
            (CUTS, "</think><|im_end|><|im_start|>", "<|im_end|><|im_start|>"),
            (CUTS, "</think>q", "q"),
            (CUTS, "<think>\n\na</think></think>\n\nb\u{1F600}</s>", "b\u{1F600}</s>"),
            (CUTS, "a<|im_</think", "a<|im_</think"),
            (&CUTS.replace("[-1]", "[0]"), "<think>a</think>b", "<think>a"),
            (
                &CUTS.replace("split('</think>')[-1]", "replace('</think>', '')"),
                "<|im_</think>end|>",
                "<|im_end|>",
            ),
            (&CUTS.replace(".lstrip('\n')", "[1:-1]"), "</think>a<|im_end|>b", "<|im_end|>"),
        ] {
            let message = |role| TemplateMessage::text(role, said);
            let pieces = template(source).unwrap().render(&[message("user"), message("assistant")]);
            let expected = [
                start("user"),
                Piece::Text(said.into()),
                Piece::Markup("<|im_end|>\n<|im_start|>assistant\n".into()),
                Piece::Text(kept.into()),
                Piece::Markup("<|im_end|>\n<|im_start|>assistant\n<think>".into()),
            ];
            assert_eq!(pieces.unwrap(), expected, "{said}");
        }
    }

    #[test]
    fn a_template_trims_untrusted_text() {
        let source = "{% for m in messages %}<s>{{ m.content | trim }}</s>{{ m['content'].strip() + '</s>' }}{% endfor %}";
        let template = template(source).unwrap();
        let pieces = |said: &str| template.render(&[TemplateMessage::text("user", said)]).unwrap();
        assert_eq!(pieces("\n\n  Hi there  \n"), pieces("Hi there"));
        assert_eq!(pieces("a")[1], Piece::Text("a".into()));
    }

    #[test]
    fn a_template_that_reads_parts_is_given_parts() {
        const PARTS: &str = "{% for m in messages %}{{ m.role | capitalize }}:{% for line in m['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}{% elif line['type'] == 'image' %}<image>{% endif %}{% endfor %}</s>{% endfor %}Assistant:";
        let message = TemplateMessage::text("user", " Why? </s>");
        let pieces = template(PARTS).unwrap().render(&[message]);
        let expected = [
            Piece::Markup("User:".into()),
            Piece::Text(" Why? </s>".into()),
            Piece::Markup("</s>Assistant:".into()),
        ];
        assert_eq!(pieces.unwrap(), expected);
        let format = template(PARTS).unwrap().format().unwrap();
        assert_eq!(format.before_user, "</s>User:");
        for source in ["none", "{% for m in messages %}{{ m.role }}{{ m.text }}{% endfor %}"] {
            let error = template(source).unwrap_err().to_string();
            assert!(error.contains("does not write what a message says"), "{error}");
        }
        // It may take other conversations.
        template("{{ raise_exception('no') }}").unwrap();
    }

    /// Against transformers; `tests/golden/chat_templates/make.py` made the renderings. More, such
    /// as those of `published.sh` beside it, can be named by `CHAT_TEMPLATES`.
    #[test]
    fn renders_as_transformers_does() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/chat_templates/cases.json");
        let more = std::env::var("CHAT_TEMPLATES").ok();
        let mut wrong = Vec::new();
        for path in [Some(golden.to_owned()), more].into_iter().flatten() {
            let golden: Golden =
                serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
            for Case { template, conversation, rendered: expected } in &golden.cases {
                let messages = &golden.conversations[conversation];
                let messages: Vec<_> =
                    messages.iter().map(minijinja::Value::from_serialize).collect();
                let source = &golden.templates[template];
                let compiled =
                    ChatTemplate::compiled(source, golden.tokens.clone(), "test".into()).unwrap();
                // With trusted texts, and with untrusted ones.
                let said: Vec<_> =
                    golden.conversations[conversation].iter().map(untrusted).collect();
                let untrusted = compiled.render(&said).map(|pieces| verbatim(&pieces));
                for rendered in [compiled.render_text(&messages), untrusted] {
                    if rendered.as_ref().ok() != expected.as_ref() {
                        wrong.push(format!(
                            "{template}, {conversation}: {rendered:?}\n  instead of {expected:?}"
                        ));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let source = "{{ '\\N{BULLET}' }}";
        let error = template(source).unwrap_err().to_string();
        assert!(error.contains("`\\N{…}`"), "{error}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_taken_to_be_absent() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes);
        let load = || ChatTemplate::load(folder.path()).map_err(|error| error.to_string());
        put(
            "tokenizer_config.json",
            b"\xef\xbb\xbf{\"chat_template\": \"{{ messages[0].content }}\"}",
        )
        .unwrap();
        assert_eq!(load().unwrap().source(), "{{ messages[0].content }}");
        put("chat_template.jinja", "\u{feff}-{{ messages[0].content }}".as_bytes()).unwrap();
        assert_eq!(load().unwrap().source(), "-{{ messages[0].content }}");
        put("chat_template.jinja", b"\xff\xfe{{x").unwrap();
        assert!(load().unwrap_err().contains("chat_template.jinja"));
        put("tokenizer_config.json", b"{\"chat_template\": \"other\",}").unwrap();
        assert!(load().unwrap_err().contains("tokenizer_config.json"));
    }

    #[test]
    fn either_file_names_special_tokens() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            (
                "chat_template.jinja",
                "{{ bos_token }} {{ eos_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
            ),
            ("tokenizer_config.json", r#"{"eos_token": "<e>"}"#),
            ("special_tokens_map.json", r#"{"bos_token": {"content": "<b>"}, "eos_token": "no"}"#),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let template = ChatTemplate::load(folder.path()).unwrap();
        assert_eq!(template.render(&[]).unwrap(), [Piece::Markup("<b> <e>".into())]);
        assert_eq!(template.begin(), Some("<b>"));
    }

    #[test]
    fn a_template_ends_in_bounded_time_and_space() {
        for source in [
            "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
            "{% for a in range(90000) %}{{ 'a' * 9000 }}{% endfor %}",
            "{{ bos_token",
        ] {
            let rendered = template(source).and_then(|template| template.render(&[]));
            let error = rendered.unwrap_err().to_string();
            assert!(error.contains("`a/b`"), "{error}");
        }
    }
}
