//! A model's chat template, and what follows from it for a growing conversation.

use std::path::Path;

use minijinja::{Environment, context};
use serde_json::Value;

use crate::gguf::Gguf;
use crate::protocol::Piece;
use crate::protocol::{join_pieces as join, split_pieces as split};

use super::gguf::chat_template;
use super::tokenizer::{TokenizerError, read_json, token_text};

/// One message of a conversation, its text known by origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// What it says.
    pub content: Vec<Piece>,
}

/// A chat template as models ship it, in Jinja.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    folder: String,
}

/// What stands between the messages of a conversation that grows by a sampled assistant turn and a
/// user turn at a time. Found by rendering once, so it holds for whatever the template does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatFormat {
    /// From the end of an assistant turn's text to the start of the next user text.
    pub before_user: String,
    /// From the end of a user text to where the assistant starts writing.
    pub after_user: String,
}

impl ChatTemplate {
    /// Reads `chat_template.jinja`, or `chat_template` of `tokenizer_config.json`.
    pub fn load(folder: &Path) -> Result<Self, TokenizerError> {
        let settings = read_json(&folder.join("tokenizer_config.json"));
        let shown = folder.display().to_string();
        let source = std::fs::read_to_string(folder.join("chat_template.jinja"))
            .ok()
            .or_else(|| template_of(&settings))
            .ok_or_else(|| TokenizerError::Template {
                path: shown.clone(),
                reason: "there is none".into(),
            })?;
        let bos = token_text(&settings, "bos_token").unwrap_or_default();
        let eos = token_text(&settings, "eos_token").unwrap_or_default();
        Self::new(source, bos, eos, shown)
    }

    /// Reads the template that a GGUF file carries.
    ///
    /// # Errors
    /// When it has none, or one that is not valid.
    pub fn from_gguf(file: &Gguf) -> Result<Self, TokenizerError> {
        let (source, bos, eos) = chat_template(file)?;
        Self::new(source, bos, eos, file.path().to_owned())
    }

    /// From the template's text. `folder` is only named in errors.
    pub fn new(
        source: String,
        bos: String,
        eos: String,
        folder: String,
    ) -> Result<Self, TokenizerError> {
        let mut environment = Environment::new();
        // As transformers renders: blocks leave no blank lines behind.
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, _> {
            Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, message))
        });
        // A date in the prompt would make equal requests differ; templates fall back on a constant.
        environment.add_function("strftime_now", |_format: String| "01 Jan 2025");
        let reason = |error: minijinja::Error| TokenizerError::Template {
            path: folder.clone(),
            reason: error.to_string(),
        };
        environment.add_template_owned("chat", source).map_err(reason)?;
        Ok(Self { environment, bos, eos, folder })
    }

    /// The conversation as the model reads it, ready for it to write the next assistant turn.
    pub fn render(&self, messages: &[Message]) -> Result<Vec<Piece>, TokenizerError> {
        let messages: Vec<_> = messages
            .iter()
            .map(|message| context! { role => message.role, content => join(&message.content) })
            .collect();
        self.render_text(&messages).map(|text| split(&text))
    }

    /// What the template puts between turns.
    pub fn format(&self) -> Result<ChatFormat, TokenizerError> {
        // Plain words without edges that a template could trim.
        const WORDS: [&str; 3] = ["userzero", "assistantone", "usertwo"];
        let messages: Vec<_> = WORDS
            .iter()
            .zip(["user", "assistant", "user"])
            .map(|(word, role)| context! { role, content => word })
            .collect();
        let text = self.render_text(&messages)?;
        let between = text.split_once(WORDS[1]).and_then(|(_, rest)| rest.split_once(WORDS[2]));
        match between {
            Some((before, after)) => {
                Ok(ChatFormat { before_user: before.to_owned(), after_user: after.to_owned() })
            }
            None => Err(TokenizerError::Template {
                path: self.folder.clone(),
                reason: "it drops earlier assistant turns".into(),
            }),
        }
    }

    fn render_text(&self, messages: &[minijinja::Value]) -> Result<String, TokenizerError> {
        self.environment
            .get_template("chat")
            .and_then(|template| {
                template.render(context! {
                    messages,
                    add_generation_prompt => true,
                    bos_token => self.bos,
                    eos_token => self.eos,
                })
            })
            .map_err(|error| TokenizerError::Template {
                path: self.folder.clone(),
                reason: error.to_string(),
            })
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
