//! Strict templates of prompts, checked before use, and the parsing of marked lines in replies.

use std::borrow::Cow;

use minijinja::value::Value;
use minijinja::{Environment, UndefinedBehavior};

use crate::hint::Hint;

/// A template that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the template `{name}` does not render: {reason}")]
pub struct TemplateError {
    /// The file.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
    /// The variables that it may use.
    pub knows: &'static str,
}

impl Hint for TemplateError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(format!("the variables are {}", self.knows).into())
    }
}

/// A template that was rendered successfully once.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    name: String,
    source: String,
    /// The variables that it may use, for errors.
    knows: &'static str,
}

impl Template {
    /// `knows` lists the variables for errors.
    ///
    /// # Errors
    /// When it is not a valid template.
    pub fn new(name: &str, source: String, knows: &'static str) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let added = environment.add_template_owned(name.to_owned(), source.clone());
        let template = Self { environment, name: name.to_owned(), source, knows };
        match added {
            Ok(()) => Ok(template),
            Err(error) => Err(template.wrong(error.to_string())),
        }
    }

    /// The template's source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders it, without surrounding white space.
    ///
    /// # Errors
    /// When it uses a variable that `values` lacks.
    pub fn render(&self, values: Value) -> Result<String, TemplateError> {
        let rendered = self.environment.get_template(&self.name).and_then(|t| t.render(values));
        Ok(rendered.map_err(|error| self.wrong(error.to_string()))?.trim().to_owned())
    }

    /// An error about this template.
    pub fn wrong(&self, reason: String) -> TemplateError {
        TemplateError { name: self.name.clone(), reason, knows: self.knows }
    }
}

/// What follows `mark` in the last line that begins with it, ignoring emphasis; `mark` is in lower
/// case.
pub fn last_marked<'r>(reply: &'r str, mark: &str) -> Option<&'r str> {
    reply.lines().rev().find_map(|line| {
        let bare = line.trim_start_matches(['*', '#', '-', '>', ' ', '\t']);
        let bare =
            ["Final ", "final "].iter().find_map(|word| bare.strip_prefix(word)).unwrap_or(bare);
        let head = bare.get(..mark.len())?;
        head.eq_ignore_ascii_case(mark).then(|| bare_text(&bare[mark.len()..]))
    })
}

/// The text without emphasis.
pub fn bare_text(text: &str) -> &str {
    text.trim().trim_matches('*').trim()
}
