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
    pub variables: &'static str,
}

impl Hint for TemplateError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(format!("the variables are {}", self.variables).into())
    }
}

/// A template that was rendered successfully once.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    name: String,
    source: String,
    /// The variables that it may use, for errors.
    variables: &'static str,
}

impl Template {
    /// `variables` names the variables that the template may use, for errors.
    ///
    /// # Errors
    /// When it is not a valid template.
    pub fn new(name: &str, source: String, variables: &'static str) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let added = environment.add_template_owned(name.to_owned(), source.clone());
        let template = Self { environment, name: name.to_owned(), source, variables };
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
        TemplateError { name: self.name.clone(), reason, variables: self.variables }
    }
}

/// What follows `mark` in the last line that begins with it, ignoring emphasis; if nothing follows
/// it, the next line that is not empty. `mark` is in lower case.
pub fn last_marked<'r>(reply: &'r str, mark: &str) -> Option<&'r str> {
    let lines: Vec<&str> = reply.lines().collect();
    let marked = (0..lines.len()).rev().filter_map(|at| {
        let below = lines[at + 1..].iter().copied();
        let mut texts = std::iter::once(after_mark(lines[at], mark)?).chain(below).map(bare_text);
        Some(texts.find(|text| !text.is_empty()).unwrap_or_default())
    });
    // A mark without text counts as an empty answer only if no other mark has text.
    let mut found = None;
    for text in marked {
        found = Some(text);
        if !text.is_empty() {
            break;
        }
    }
    found
}

/// What follows `mark` at the beginning of a line, perhaps behind `final` or `my`.
fn after_mark<'l>(line: &'l str, mark: &str) -> Option<&'l str> {
    let mut rest = line.trim_start_matches(['*', '#', '-', '>', '_', ' ', '\t']);
    while let Some(behind) =
        ["the ", "my ", "final "].iter().find_map(|word| without_prefix(rest, word))
    {
        rest = behind;
    }
    without_prefix(rest, mark).map(|rest| rest.trim_start_matches(['*', '_']))
}

/// What follows a prefix (in lower case) between whose characters emphasis may stand.
fn without_prefix<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let mut rest = text;
    for wanted in prefix.chars() {
        rest = rest.trim_start_matches(['*', '_']);
        let found = rest.chars().next()?;
        rest = Some(&rest[found.len_utf8()..]).filter(|_| found.eq_ignore_ascii_case(&wanted))?;
    }
    Some(rest)
}

/// The text without emphasis.
pub fn bare_text(text: &str) -> &str {
    text.trim().trim_matches('*').trim()
}

#[cfg(test)]
mod tests {
    use super::last_marked;

    #[test]
    fn the_marked_text_is_found() {
        for (reply, found) in [
            ("Answer: Paris", Some("Paris")),
            ("First 3.\n**Answer:** Paris\n\nThat is all.", Some("Paris")),
            ("**Answer: Paris**", Some("Paris")),
            ("Answer: Rome\nAnswer: Paris", Some("Paris")),
            ("Answer:\nParis", Some("Paris")),
            ("**Answer:**\n\nParis", Some("Paris")),
            ("Answer: Paris\nAnswer:", Some("Paris")),
            ("Answer:", Some("")),
            ("Final answer: Paris", Some("Paris")),
            ("FINAL ANSWER: Paris", Some("Paris")),
            ("*Answer*: Paris", Some("Paris")),
            ("__Answer:__ Paris", Some("Paris")),
            ("**Final Answer**: Paris", Some("Paris")),
            ("My answer: Paris", Some("Paris")),
            ("The final answer: Paris", Some("Paris")),
            ("### Answer: Paris", Some("Paris")),
            ("> Answer: Paris", Some("Paris")),
            ("An answer: Paris", None),
            ("Answer Paris", None),
            ("", None),
        ] {
            assert_eq!(last_marked(reply, "answer:"), found, "{reply}");
        }
    }
}
