//! A large model that scores answers.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use minijinja::context;
use serde_json::{Map, Value};

use crate::chat::ChatMessage;
use crate::hint::Hint;
use crate::large_model::{Call, CallUsage, LargeModel, LargeModelError, Reply};
use crate::prompt_template::{Template, TemplateError, last_marked};
use crate::task::Task;

const PROMPT: &str = include_str!("judge.j2");
const VARIABLES: &str = "`question`, `golds`, `answer` and `source`";

/// Characters of an answer that the judge is shown.
const MAX_SHOWN_CHARS: usize = 20_000;

/// A score, and what it cost to get it.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// 0 to 1, or why there is none.
    pub value: Result<f64, String>,
    /// Whether a call was made; an open circuit breaker prevents it.
    pub was_asked: bool,
    /// Whether the call was or may have been billed: a failed one often was, a cached reply was
    /// not.
    pub may_be_billed: bool,
    /// What the judge used.
    pub usage: CallUsage,
}

/// A judge that cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// Its template cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Its template cannot be read.
    #[error("cannot use `{path}`: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Hint for JudgeError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Template(error) => error.hint(),
            Self::Read { .. } => None,
        }
    }
}

/// A judge. The same answer always makes the same request, so its replies can be cached; one
/// without a score is not.
pub struct Judge {
    model: Arc<dyn LargeModel>,
    template: Template,
    params: Map<String, Value>,
    deadline: Duration,
}

impl Judge {
    /// Asks `model` by the template in `prompt`, or the built-in one; `deadline` is for one
    /// answer.
    ///
    /// # Errors
    /// Where the template cannot be read, or does not ask about the answer.
    pub fn new(
        model: Arc<dyn LargeModel>,
        prompt: Option<&Path>,
        deadline: Duration,
    ) -> Result<Self, JudgeError> {
        let (name, source) = match prompt {
            None => ("judge.j2".to_owned(), PROMPT.to_owned()),
            Some(file) => {
                let source = std::fs::read_to_string(file).map_err(|source| {
                    let path = file.display().to_string();
                    JudgeError::Read { path, source }
                })?;
                (file.display().to_string(), source)
            }
        };
        let template = Template::new(&name, source, VARIABLES)?;
        let judge = Self { model, template, params: Map::new(), deadline };
        // Finds a template that fails now, not when answers are to be judged.
        let mark = "\u{1}";
        let asked = judge.ask(&Task { golds: vec!["x".into()], ..Task::default() }, mark)?;
        match asked.contains(mark) {
            true => Ok(judge),
            false => Err(judge.template.wrong("it leaves the answer out".to_owned()).into()),
        }
    }

    /// Sends these fields with every call.
    pub fn with_params(self, params: Map<String, Value>) -> Self {
        Self { params, ..self }
    }

    /// The name of the large model.
    pub fn model(&self) -> &str {
        self.model.name()
    }

    fn ask(&self, task: &Task, answer: &str) -> Result<String, TemplateError> {
        let Task { question, golds, .. } = task;
        let source = &*task.source;
        self.template.render(context! { question, golds, source, answer })
    }

    /// Scores an answer. The value is an error when the model fails or gives no score.
    ///
    /// # Errors
    /// Where the template fails.
    pub async fn score(&self, task: &Task, answer: &str) -> Result<Judgement, JudgeError> {
        let shown =
            answer.char_indices().nth(MAX_SHOWN_CHARS).map_or(answer, |(end, _)| &answer[..end]);
        let call = Call {
            messages: vec![ChatMessage::text("user", self.ask(task, shown)?)],
            params: self.params.clone(),
            deadline: Some(Instant::now() + self.deadline),
            is_usable: Some(has_verdict),
            ..Call::default()
        };
        let reply = self.model.complete(&call).await;
        let usage = CallUsage::of_call(&*self.model, &call, &reply).counted();
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                let was_asked = !matches!(error, LargeModelError::CircuitOpen { .. });
                let may_be_billed = error.may_be_billed();
                let value = Err(error.to_string());
                return Ok(Judgement { value, was_asked, may_be_billed, usage });
            }
        };
        let text = reply.message.as_text();
        let value = verdict(&text).ok_or_else(|| {
            let head: String = text.chars().take(200).collect();
            format!("the judge's reply has no last line `Score: N` with N from 0 to 1: `{head}`")
        });
        let may_be_billed = usage.tokens != Default::default();
        Ok(Judgement { value, was_asked: true, may_be_billed, usage })
    }
}

fn has_verdict(reply: &Reply) -> bool {
    verdict(&reply.message.as_text()).is_some()
}

/// The score in a judge's reply: `Score: 1`, `Score: 1/1`, `Score: 1 (fully right)`.
fn verdict(reply: &str) -> Option<f64> {
    let marked = last_marked(reply, "score:")?.replace(['*', '_', '`'], "");
    let (score, rest) = leading_number(&marked)?;
    let scale = ["/", "out of"].into_iter().find_map(|mark| rest.strip_prefix(mark));
    let (scale, rest) = match scale {
        Some(scale) => leading_number(scale)?,
        None => (1.0, rest),
    };
    // A remark with figures may name another scale: `1 (out of 5)`.
    let is_remark = rest.starts_with('(') && !rest.contains(|c: char| c.is_ascii_digit());
    let is_score = scale == 1.0 && (0.0..=1.0).contains(&score) && (rest.is_empty() || is_remark);
    is_score.then_some(score)
}

/// The number that a text begins with, and the rest without spaces around it.
fn leading_number(text: &str) -> Option<(f64, &str)> {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    Some((number.trim_end_matches('.').parse().ok()?, rest.trim()))
}

#[cfg(test)]
mod tests {
    use super::verdict;

    #[test]
    fn what_a_judge_says() {
        for (reply, score) in [
            ("They agree.\nScore: 1", Some(1.0)),
            ("**Score:** 0.5", Some(0.5)),
            ("Score: 1\nNo.\n- score: 0.", Some(0.0)),
            ("Final score: 0.25\n\n", Some(0.25)),
            ("**Score: 1**", Some(1.0)),
            ("**Score: 1/1**", Some(1.0)),
            ("Score: **0.5** / 1.0.", Some(0.5)),
            ("Score: 0 out of 1", Some(0.0)),
            ("Score: 1 (fully right)", Some(1.0)),
            ("Score: 1/1 (fully right).", Some(1.0)),
            ("Score: 1/10", None),
            ("Score: 1 out of 5", None),
            ("Score: 1 (out of 5)", None),
            ("Score: 0-1", None),
            ("Score: 1/", None),
            ("Score: 7 (good)", None),
            ("Score: 7", None),
            ("Score: -0.5", None),
            ("Score: NaN", None),
            ("Score: good", None),
            ("It scores 1", None),
            ("", None),
        ] {
            assert_eq!(verdict(reply), score, "{reply:?}");
        }
    }
}
