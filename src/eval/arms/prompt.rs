//! Arms that ask the large model by a prompt that a person wrote.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use minijinja::context;
use serde_json::{Map, json};

use crate::chat::ChatMessage;
use crate::episode::{EpisodeError, EpisodeErrorKind, EpisodeUsage};
use crate::eval::EvalError;
use crate::eval::rows::{Attempt, Step};
use crate::eval::template::{Template, bare_text, last_marked};
use crate::large_model::{Call, LargeModel, Reply};
use crate::reward::Normalization;
use crate::task::Task;

use super::Arm;

const DIRECT: &str = include_str!("prompts/direct.j2");
const CHAIN_OF_THOUGHT: &str = include_str!("prompts/cot.j2");

/// How samples are drawn when several are taken.
const TEMPERATURE: f64 = 0.7;

/// Where a literal prompt has the question.
pub const PLACE: &str = "{question}";

/// A text with a place for the question, and where the answer is in the reply to it.
#[derive(Debug)]
pub struct Prompt {
    form: Form,
    brief: bool,
    is_last_line: bool,
}

#[derive(Debug)]
enum Form {
    Template(Box<Template>),
    /// With [`PLACE`] where the question stands; nothing else in it means anything.
    Literal(String),
}

impl Prompt {
    /// The question; `brief` asks for nothing but the answer. The reply is the answer.
    pub fn direct(brief: bool) -> Result<Self, EvalError> {
        Self::new("direct.j2", DIRECT.to_owned(), brief, false)
    }

    /// The question, to be worked out step by step.
    pub fn chain_of_thought() -> Result<Self, EvalError> {
        Self::new("cot.j2", CHAIN_OF_THOUGHT.to_owned(), false, true)
    }

    /// The template in `file`. Where it asks for a line `Answer: …`, the last such line of the
    /// reply is the answer, and without one the reply's last line; else all of the reply is.
    pub fn load(file: &Path) -> Result<Self, EvalError> {
        let source = std::fs::read_to_string(file).map_err(EvalError::io(file))?;
        let has_line = source.contains("Answer:");
        Self::new(&file.display().to_string(), source, false, has_line)
    }

    /// The text as it is, with the question at [`PLACE`], or before it where it has no place. The
    /// answer is found as for [`Prompt::load`].
    pub fn literal(text: &str) -> Self {
        let text = match text.contains(PLACE) {
            true => text.to_owned(),
            false => format!("{PLACE}\n\n{text}"),
        };
        let is_last_line = text.contains("Answer:");
        Self { form: Form::Literal(text), brief: false, is_last_line }
    }

    fn new(name: &str, source: String, brief: bool, is_last_line: bool) -> Result<Self, EvalError> {
        let template = Template::new(name, source, "`question` and `source`")?;
        let prompt = Self { form: Form::Template(Box::new(template)), brief, is_last_line };
        // A template that fails is found here, not after the first thousand questions.
        let asked = prompt.render(&Task { question: "\u{1}".into(), ..Task::default() })?;
        match &prompt.form {
            Form::Template(template) if !asked.contains('\u{1}') => {
                Err(template.wrong("it leaves the question out".to_owned()))
            }
            _ => Ok(prompt),
        }
    }

    /// Its text before a question is put in.
    pub fn source(&self) -> &str {
        match &self.form {
            Form::Template(template) => template.source(),
            Form::Literal(text) => text,
        }
    }

    /// What the large model is asked.
    pub fn render(&self, task: &Task) -> Result<String, EvalError> {
        match &self.form {
            Form::Template(template) => template.render(context! {
                question => task.question, source => task.source, brief => self.brief,
            }),
            Form::Literal(text) => Ok(text.replace(PLACE, &task.question)),
        }
    }

    fn answer<'r>(&self, reply: &'r str) -> &'r str {
        if !self.is_last_line {
            return reply.trim();
        }
        let last = || reply.lines().rev().find(|line| !line.trim().is_empty()).map(bare_text);
        last_marked(reply, "answer:").or_else(last).unwrap_or_default()
    }
}

/// Asks by a prompt, once or several times.
pub struct PromptArm {
    name: String,
    identity: String,
    prompt: Prompt,
    samples: usize,
    model: Arc<dyn LargeModel>,
    deadline: Duration,
}

impl PromptArm {
    /// Asks `model` by `prompt`. Of several `samples` the most frequent answer counts, of equally
    /// frequent ones that which came first. `model_identity` is all that its replies depend on;
    /// `deadline` is for all samples together.
    pub fn new(
        name: &str,
        prompt: Prompt,
        samples: usize,
        (model, model_identity): (Arc<dyn LargeModel>, &str),
        deadline: Duration,
    ) -> Self {
        let identity = json!({
            "prompt": prompt.source(),
            "brief": prompt.brief,
            "samples": samples,
            "large_model": model_identity,
        })
        .to_string();
        Self { name: name.to_owned(), identity, prompt, samples, model, deadline }
    }
}

#[async_trait]
impl Arm for PromptArm {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> &str {
        &self.identity
    }

    async fn answer(&self, task: &Task, seed: u64) -> Result<Attempt, EpisodeError> {
        let mut usage = EpisodeUsage::default();
        let failed = |kind, usage| EpisodeError { kind, usage };
        let prompt = self.prompt.render(task);
        let prompt =
            prompt.map_err(|error| failed(EpisodeErrorKind::Protocol(error.to_string()), usage))?;
        let deadline = Instant::now() + self.deadline;
        let mut steps = vec![Step::Prompt(prompt.clone())];
        let mut answers = Vec::with_capacity(self.samples);
        for sample in 0..self.samples {
            let mut params = Map::new();
            // Endpoints take seeds as signed integers.
            let sample_seed = (seed >> 1) as i64 ^ sample as i64;
            params.insert("seed".into(), json!(sample_seed));
            if self.samples > 1 {
                params.insert("temperature".into(), json!(TEMPERATURE));
            }
            let call = Call {
                messages: vec![ChatMessage::text("user", prompt.clone())],
                params,
                deadline: Some(deadline),
                authorization: None,
            };
            let reply: Reply =
                self.model.complete(&call).await.map_err(|error| failed(error.into(), usage))?;
            usage.large_model.calls += 1;
            usage.large_model.tokens += reply.usage;
            usage.large_model.cost += self.model.prices().cost(reply.usage);
            let text = reply.message.as_text();
            answers.push(self.prompt.answer(&text).to_owned());
            steps.push(Step::Reply(text));
        }
        let answer = most_frequent(&answers).to_owned();
        Ok(Attempt { answer, finish: "answered".into(), usage, steps })
    }
}

/// The answer whose normal form is the most frequent; of equally frequent ones the first. Empty
/// answers do not vote.
fn most_frequent(answers: &[String]) -> &str {
    let mut votes: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (index, answer) in answers.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        let normal = Normalization::Strict.apply(answer);
        votes.entry(normal).or_insert((0, index)).0 += 1;
    }
    let winner = votes.into_values().max_by_key(|&(count, first)| (count, usize::MAX - first));
    winner.map_or("", |(_, first)| &answers[first])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::large_model::Scripted;

    #[test]
    fn where_the_answer_is() {
        let cot = Prompt::chain_of_thought().unwrap();
        for (reply, answer) in [
            ("First.\nAnswer: 42", "42"),
            ("Answer: 1\nno:\n**Final answer:** Rome**\n", "Rome"),
            ("Answer: 1\n  - ANSWER:   2 \n", "2"),
            ("It is so.\nRome\n\n", "Rome"),
            ("", ""),
            ("Answer:", ""),
            ("Äåö", "Äåö"),
        ] {
            assert_eq!(cot.answer(reply), answer, "{reply:?}");
        }
        assert_eq!(Prompt::direct(true).unwrap().answer(" Rome\nAnswer: x "), "Rome\nAnswer: x");
    }

    #[test]
    fn prompts_carry_the_question_as_it_is() {
        let task = Task { question: "1 < 2 & {{ x }}?".into(), ..Task::default() };
        assert_eq!(Prompt::direct(false).unwrap().render(&task).unwrap(), task.question);
        for prompt in [Prompt::direct(true).unwrap(), Prompt::chain_of_thought().unwrap()] {
            let asked = prompt.render(&task).unwrap();
            assert!(asked.starts_with("1 < 2 & {{ x }}?\n\n"), "{asked}");
        }
    }

    #[test]
    fn templates_that_cannot_be_used() {
        for (text, reason) in [
            ("{{ qestion }}", "undefined"),
            ("no", "leaves the question out"),
            ("{% if", "unexpected"),
        ] {
            let error = Prompt::new("t.j2", text.into(), false, false).unwrap_err().to_string();
            assert!(error.contains("`t.j2`") && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn the_majority_wins_and_ties_go_to_the_first() {
        let of = |answers: &[&str]| {
            let answers: Vec<String> = answers.iter().map(|&text| text.to_owned()).collect();
            most_frequent(&answers).to_owned()
        };
        assert_eq!(of(&["Rome", "the Oslo", "Oslo!"]), "the Oslo");
        assert_eq!(of(&["Rome", "Oslo"]), "Rome");
        assert_eq!(of(&["", "", "Oslo"]), "Oslo");
        assert_eq!(of(&["", ""]), "");
        assert_eq!(of(&["5.6", "56", "5.60"]), "5.6");
    }

    #[tokio::test]
    async fn samples_differ_in_seed_and_all_are_counted() {
        let model = Scripted::new("m", |call: &Call| {
            let seed = call.params["seed"].as_i64().unwrap();
            assert_eq!(call.params["temperature"], json!(TEMPERATURE));
            let mut reply = Reply::text(format!("Answer: {}", if seed < 10 { "a" } else { "b" }));
            reply.usage.completion_tokens = 3;
            Ok(reply)
        });
        let prompt = Prompt::chain_of_thought().unwrap();
        let model: Arc<dyn LargeModel> = Arc::new(model);
        let arm = PromptArm::new("x", prompt, 5, (model, "m"), Duration::from_secs(9));
        let task = Task { question: "q".into(), ..Task::default() };
        // Seeds 8, 9, 10, 11, 12.
        let attempt = arm.answer(&task, 16).await.unwrap();
        assert_eq!(attempt.answer, "b");
        assert_eq!(attempt.usage.large_model.calls, 5);
        assert_eq!(attempt.usage.large_model.tokens.completion_tokens, 15);
        assert_eq!(attempt.steps.len(), 6);
    }
}
