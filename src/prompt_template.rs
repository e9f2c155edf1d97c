//! Templates of prompts: strict, and tried before they are used. Replies to them are read by the
//! line that they ask for.

use minijinja::value::Value;
use minijinja::{Environment, UndefinedBehavior};

/// A template that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the template `{name}` does not render: {reason}\nhint: it knows {knows}")]
pub struct TemplateError {
    /// The file.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
    /// What it may ask for.
    pub knows: &'static str,
}

/// A template that is known to render.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    name: String,
    source: String,
    /// What it may ask for, for errors.
    knows: &'static str,
}

impl Template {
    /// `knows` lists the variables for errors.
    ///
    /// # Errors
    /// Where it is no template.
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

    /// The template's own text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text it makes, without white space around it.
    ///
    /// # Errors
    /// Where it asks for something that `values` lacks.
    pub fn render(&self, values: Value) -> Result<String, TemplateError> {
        let rendered = self.environment.get_template(&self.name).and_then(|t| t.render(values));
        Ok(rendered.map_err(|error| self.wrong(error.to_string()))?.trim().to_owned())
    }

    /// An error about this template.
    pub fn wrong(&self, reason: String) -> TemplateError {
        TemplateError { name: self.name.clone(), reason, knows: self.knows }
    }
}

/// What the last line that says `mark` says after it, however it is set off; `mark` is in lower
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

/// The text without what emphasises it.
pub fn bare_text(text: &str) -> &str {
    text.trim().trim_matches('*').trim()
}
