//! A large model that says what an answer is worth.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use minijinja::context;

use crate::chat::ChatMessage;
use crate::episode::RoleUsage;
use crate::eval::EvalError;
use crate::eval::template::{Template, last_marked};
use crate::large_model::{Call, LargeModel};
use crate::task::Task;

use super::Score;

const PROMPT: &str = include_str!("judge.j2");
const KNOWS: &str = "`question`, `golds`, `answer` and `source`";

/// Characters of an answer that the judge is shown.
const SHOWN: usize = 20_000;

/// A judge. What it is asked is the same for the same answer, so its replies can be kept.
pub struct Judge {
    model: Arc<dyn LargeModel>,
    template: Template,
    deadline: Duration,
}

impl Judge {
    /// Asks `model` by the template in `prompt`, or the built-in one; `deadline` is for one
    /// answer.
    ///
    /// # Errors
    /// When the template cannot be read or does not render.
    pub fn new(
        model: Arc<dyn LargeModel>,
        prompt: Option<&Path>,
        deadline: Duration,
    ) -> Result<Self, EvalError> {
        let (name, source) = match prompt {
            None => ("judge.j2".to_owned(), PROMPT.to_owned()),
            Some(file) => {
                let source = std::fs::read_to_string(file).map_err(EvalError::io(file))?;
                (file.display().to_string(), source)
            }
        };
        let judge = Self { model, template: Template::new(&name, source, KNOWS)?, deadline };
        // A template that fails is found here, not when the answers are there.
        let mark = "\u{1}";
        let asked = judge.ask(&Task { golds: vec!["x".into()], ..Task::default() }, mark)?;
        match asked.contains(mark) {
            true => Ok(judge),
            false => Err(judge.template.wrong("it leaves the answer out".to_owned())),
        }
    }

    /// The name of the large model.
    pub fn model(&self) -> &str {
        self.model.name()
    }

    fn ask(&self, task: &Task, answer: &str) -> Result<String, EvalError> {
        let Task { question, golds, source, .. } = task;
        self.template.render(context! { question, golds, source, answer })
    }

    /// What the answer is worth; no value where the model fails or gives none.
    pub(super) async fn score(&self, task: &Task, answer: &str) -> Result<Score, EvalError> {
        let shown = answer.char_indices().nth(SHOWN).map_or(answer, |(end, _)| &answer[..end]);
        let call = Call {
            messages: vec![ChatMessage::text("user", self.ask(task, shown)?)],
            deadline: Some(Instant::now() + self.deadline),
            ..Call::default()
        };
        let mut judge = RoleUsage { calls: 1, ..RoleUsage::default() };
        let reply = match self.model.complete(&call).await {
            Ok(reply) => reply,
            Err(error) => return Ok(Score { value: Err(error.to_string()), judge }),
        };
        judge.tokens = reply.usage;
        judge.cost = reply.cost;
        let text = reply.message.as_text();
        let value = verdict(&text).ok_or_else(|| {
            let head: String = text.chars().take(200).collect();
            format!("the judge's reply has no last line `Score: N` with N from 0 to 1: `{head}`")
        });
        Ok(Score { value, judge })
    }
}

/// The score in a judge's reply.
fn verdict(reply: &str) -> Option<f64> {
    let score: f64 = last_marked(reply, "score:")?.trim_end_matches('.').parse().ok()?;
    (0.0..=1.0).contains(&score).then_some(score)
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
