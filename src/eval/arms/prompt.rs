//! Arms that ask the large model by a hand-written prompt.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use minijinja::context;
use serde_json::{Map, json};

use crate::chat::ChatMessage;
use crate::episode::{EpisodeError, EpisodeErrorKind, EpisodeUsage};
use crate::eval::EvalError;
use crate::eval::data::{Question, has_number, majorities};
use crate::eval::metric_choice::Metric;
use crate::eval::rows::{AnswerStep, ArmAnswer, CutTexts};
use crate::hint::Hint;
use crate::large_model::{Call, CallUsage, LargeModel};
use crate::prompt_template::{Template, bare_text, last_marked};
use crate::reward::{AnswerMetric, Normalization, Number, chosen_label};
use crate::task::Task;

use super::Arm;

const DIRECT: &str = include_str!("prompts/direct.j2");
const CHAIN_OF_THOUGHT: &str = include_str!("prompts/cot.j2");

/// Sampling parameters when several samples are taken.
const TEMPERATURE: f64 = 0.7;

/// The placeholder of the question in a literal prompt.
pub const PLACEHOLDER: &str = "{question}";

/// The data sets in which a short answer is requested. In the others the gold answers are numbers
/// or formulas and not compared as texts: a model that has to compute is not asked for the answer
/// alone, and if its reply does not have the requested form, its last number counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BriefSources {
    asked: BTreeSet<String>,
    /// Those that are scored by the chosen option, by which samples vote there.
    choices: BTreeSet<String>,
}

impl BriefSources {
    /// Those among the data sets of `questions`: by their metric, or else by what most golds are.
    pub fn among(questions: &[Question]) -> Self {
        let computed = majorities(questions.iter().map(|Question { task, metric }| {
            let is_number = || !metric.is_textual() && has_number(task);
            (&*task.source, metric.is_computed() || is_number())
        }));
        let worded = computed.into_iter().filter(|(_, is_computed)| !is_computed);
        let is_choice =
            |question: &&Question| question.metric == Metric::Text(AnswerMetric::Choice);
        Self {
            asked: worded.map(|(source, _)| source.to_owned()).collect(),
            choices: (questions.iter().filter(is_choice))
                .map(|question| question.task.source.to_string())
                .collect(),
        }
    }

    /// None of them, with the same votes.
    pub fn never(self) -> Self {
        Self { asked: BTreeSet::new(), ..self }
    }

    fn contains(&self, task: &Task) -> bool {
        self.asked.contains(&*task.source)
    }
}

/// A text with a placeholder for the question, and how to find the answer in a reply.
#[derive(Debug)]
pub struct Prompt {
    form: PromptForm,
    brief: BriefSources,
    /// Whether it asks for a line `Answer: …`.
    has_line: bool,
}

#[derive(Debug)]
enum PromptForm {
    Template(Box<Template>),
    /// With [`PLACEHOLDER`] in place of the question; nothing else in it is special.
    Literal(String),
}

impl Prompt {
    /// The question unchanged; in the data sets of `brief`, with a request for the answer alone.
    /// The reply is the answer.
    ///
    /// # Errors
    /// When the built-in template does not render.
    pub fn direct(brief: &BriefSources) -> Result<Self, EvalError> {
        Self::new("direct.j2", DIRECT.to_owned(), brief, false)
    }

    /// The question with the usual zero-shot chain-of-thought request; in the data sets of `brief`
    /// the answer is to be on its own line.
    ///
    /// # Errors
    /// When the built-in template does not render.
    pub fn chain_of_thought(brief: &BriefSources) -> Result<Self, EvalError> {
        Self::new("cot.j2", CHAIN_OF_THOUGHT.to_owned(), brief, true)
    }

    /// The template in `file`. If it asks for a line `Answer: …`, the last such line of the reply
    /// is the answer. If that is missing, the answer is the reply's last line in the data sets of
    /// `brief`, and the whole reply in the others.
    ///
    /// # Errors
    /// When the file cannot be read, or the template does not render.
    pub fn load(file: &Path, brief: &BriefSources) -> Result<Self, EvalError> {
        let source = std::fs::read_to_string(file).map_err(EvalError::io(file))?;
        let has_line = source.contains("Answer:");
        Self::new(&file.display().to_string(), source, brief, has_line)
    }

    /// The given text, with the question at [`PLACEHOLDER`], or before it if it has no placeholder. The
    /// answer is found as for [`Prompt::load`].
    pub fn literal(text: &str, brief: &BriefSources) -> Self {
        let text = match text.contains(PLACEHOLDER) {
            true => text.to_owned(),
            false => format!("{PLACEHOLDER}\n\n{text}"),
        };
        let has_line = text.contains("Answer:");
        Self { form: PromptForm::Literal(text), brief: brief.clone(), has_line }
    }

    fn new(
        name: &str,
        source: String,
        brief: &BriefSources,
        has_line: bool,
    ) -> Result<Self, EvalError> {
        let template = Template::new(name, source, "`question`, `source` and `brief`")?;
        let form = PromptForm::Template(Box::new(template));
        let prompt = Self { form, brief: brief.clone(), has_line };
        // Finds a template that fails now, not after the first thousand questions.
        let asked = prompt.render(&Task { question: "\u{1}".into(), ..Task::default() })?;
        match &prompt.form {
            PromptForm::Template(template) if !asked.contains('\u{1}') => {
                Err(template.wrong("it leaves the question out".to_owned()).into())
            }
            _ => Ok(prompt),
        }
    }

    /// Its text before a question is inserted.
    pub fn source(&self) -> &str {
        match &self.form {
            PromptForm::Template(template) => template.source(),
            PromptForm::Literal(text) => text,
        }
    }

    /// The message for the large model.
    ///
    /// # Errors
    /// When the template fails for this task.
    pub fn render(&self, task: &Task) -> Result<String, EvalError> {
        match &self.form {
            PromptForm::Template(template) => Ok(template.render(context! {
                question => task.question, source => &*task.source, brief => self.brief.contains(task),
            })?),
            PromptForm::Literal(text) => Ok(text.replace(PLACEHOLDER, &task.question)),
        }
    }

    fn answer<'r>(&self, task: &Task, reply: &'r str) -> &'r str {
        if !self.has_line {
            return reply.trim();
        }
        let last = || reply.lines().rev().find(|line| !line.trim().is_empty()).map(bare_text);
        let unmarked = || if self.brief.contains(task) { last() } else { Some(reply.trim()) };
        last_marked(reply, "answer:").or_else(unmarked).unwrap_or_default()
    }

    /// The normal form of an answer as a vote.
    fn vote(&self, task: &Task, answer: &str) -> String {
        if self.brief.choices.contains(&*task.source)
            && let Some(label) = task.golds.first().and_then(|gold| chosen_label(answer, gold))
        {
            return label.to_string();
        }
        // A number in words about something else is no vote.
        let is_number = !self.brief.contains(task) && has_number(task);
        let number = if is_number { Number::find(answer) } else { None };
        number.map_or_else(|| Normalization::Strict.apply(answer), |number| number.to_string())
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
    /// Asks `model` by `prompt`. Of several `samples` the most frequent answer counts, and among
    /// equally frequent ones the first. `model_identity` is everything its replies depend on;
    /// `deadline` is for all samples together.
    pub fn new(
        name: &str,
        prompt: Prompt,
        samples: usize,
        (model, model_identity): (Arc<dyn LargeModel>, &str),
        deadline: Duration,
    ) -> Self {
        let mut identity = json!({
            "prompt": prompt.source(),
            "brief": prompt.brief.asked,
            "samples": samples,
            "large_model": model_identity,
        });
        if samples > 1 {
            identity["choices"] = json!(prompt.brief.choices);
        }
        let identity = identity.to_string();
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

    async fn answer(&self, task: &Task, seed: u64) -> Result<ArmAnswer, EpisodeError> {
        let mut usage = EpisodeUsage::default();
        let failed = |kind, usage| EpisodeError { kind, usage };
        let prompt = self.prompt.render(task);
        let prompt =
            prompt.map_err(|error| failed(EpisodeErrorKind::Protocol(error.reason()), usage))?;
        let deadline = Instant::now() + self.deadline;
        let mut steps = vec![AnswerStep::Prompt(prompt.clone())];
        let mut answers = Vec::with_capacity(self.samples);
        let mut cut_off = CutTexts::default();
        for sample in 0..self.samples {
            let mut params = Map::new();
            let sample_seed = crate::seed::of_sample(seed, sample as u64);
            let optional_params = Map::from_iter([("seed".to_owned(), json!(sample_seed))]);
            if self.samples > 1 {
                params.insert("temperature".into(), json!(TEMPERATURE));
            }
            let call = Call {
                messages: vec![ChatMessage::text("user", prompt.clone())],
                params,
                optional_params,
                deadline: Some(deadline),
                ..Call::default()
            };
            let reply = self.model.complete(&call).await;
            usage.large_model += CallUsage::of_call(&*self.model, &call, &reply);
            let reply = reply.map_err(|error| failed(error.into(), usage))?;
            cut_off.replies += u64::from(reply.is_cut_off());
            let text = reply.message.as_text();
            answers.push(self.prompt.answer(task, &text).to_owned());
            steps.push(AnswerStep::Reply(text));
        }
        let votes = answers.iter().map(|answer| self.prompt.vote(task, answer));
        let answer = most_frequent(&answers, votes).to_owned();
        let (finish, cut_off) = ("answered".into(), Some(cut_off));
        Ok(ArmAnswer { answer, finish, usage, steps, cut_off, ..ArmAnswer::default() })
    }
}

/// The answer whose vote is the most frequent; of equally frequent ones the first. Empty answers do
/// not vote.
fn most_frequent(answers: &[String], votes: impl Iterator<Item = String>) -> &str {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (index, vote) in votes.enumerate().filter(|&(index, _)| !answers[index].is_empty()) {
        counts.entry(vote).or_insert((0, index)).0 += 1;
    }
    let winner = counts.into_values().max_by_key(|&(count, first)| (count, usize::MAX - first));
    winner.map_or("", |(_, first)| &answers[first])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::large_model::{LargeModelError, Phase, Reply, Scripted, WithFallbacks};

    fn worded() -> (Task, BriefSources) {
        let asked = ["s".to_owned()].into();
        let task = Task { source: "s".into(), ..Task::default() };
        (task, BriefSources { asked, ..BriefSources::default() })
    }

    #[test]
    fn where_the_answer_is() {
        let (task, brief) = worded();
        let cot = Prompt::chain_of_thought(&brief).unwrap();
        for (reply, answer) in [
            ("First.\nAnswer: 42", "42"),
            ("Answer: 1\nno:\n**Final answer:** Rome**\n", "Rome"),
            ("Answer: 1\n  - ANSWER:   2 \n", "2"),
            ("It is so.\nRome\n\n", "Rome"),
            ("", ""),
            ("Answer:", ""),
            ("Äåö", "Äåö"),
        ] {
            assert_eq!(cot.answer(&task, reply), answer, "{reply:?}");
        }
        let direct = Prompt::direct(&brief).unwrap();
        assert_eq!(direct.answer(&task, " Rome\nAnswer: x "), "Rome\nAnswer: x");
        // For numeric answers without the line, the whole reply is searched.
        let cot = Prompt::chain_of_thought(&BriefSources::default()).unwrap();
        assert_eq!(cot.answer(&task, "So 40 + 2 = 42.\nDone."), "So 40 + 2 = 42.\nDone.");
        assert_eq!(cot.answer(&task, "1\nAnswer: 42\nDone."), "42");
    }

    #[test]
    fn a_short_answer_is_asked_for_where_golds_are_words() {
        let config: crate::eval::config::MetricConfig =
            toml::from_str("by_source = { text = \"exact\" }").unwrap();
        let question = |source: &str, gold: &str| Question {
            task: Task { source: source.into(), golds: vec![gold.into()], ..Task::default() },
            metric: config.of(source, None, source == "own").metric,
        };
        let questions = [
            question("gsm8k", "1,000"),
            question("gsm8k", "-3"),
            question("hotpotqa", "1984"),
            question("hotpotqa", "Rome"),
            question("MATH", r"x + \sqrt{2}"),
            question("own", "12 km"),
            question("own", "5"),
            question("own", "none of them"),
            question("text", "42"),
        ];
        let brief = ["hotpotqa", "text"].map(str::to_owned);
        let expected = BriefSources { asked: brief.into(), ..BriefSources::default() };
        assert_eq!(BriefSources::among(&questions), expected);
    }

    #[test]
    fn prompts_carry_the_question_as_it_is() {
        let (task, brief) = worded();
        let task = Task { question: "1 < 2 & {{ x }}?".into(), ..task };
        let computing = BriefSources::default();
        assert_eq!(Prompt::direct(&computing).unwrap().render(&task).unwrap(), task.question);
        let asked = Prompt::chain_of_thought(&computing).unwrap().render(&task).unwrap();
        assert_eq!(asked, "Q: 1 < 2 & {{ x }}?\nA: Let's think step by step.");
        for prompt in [Prompt::direct(&brief), Prompt::chain_of_thought(&brief)] {
            let asked = prompt.unwrap().render(&task).unwrap();
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
            let error = Prompt::new("t.j2", text.into(), &BriefSources::default(), false)
                .unwrap_err()
                .to_string();
            assert!(error.contains("`t.j2`") && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn the_majority_wins_and_ties_go_to_the_first() {
        let (task, brief) = worded();
        let elected = |brief: &BriefSources, golds: &[&str], answers: &[&str]| {
            let task =
                Task { golds: golds.iter().map(|&gold| gold.to_owned()).collect(), ..task.clone() };
            let prompt = Prompt::direct(brief).unwrap();
            let answers: Vec<String> = answers.iter().map(|&text| text.to_owned()).collect();
            let votes = answers.iter().map(|answer| prompt.vote(&task, answer));
            most_frequent(&answers, votes).to_owned()
        };
        let of = |answers: &[&str]| elected(&brief, &["Rome"], answers);
        assert_eq!(of(&["Rome", "the Oslo", "Oslo!"]), "the Oslo");
        assert_eq!(of(&["Rome", "Oslo"]), "Rome");
        assert_eq!(of(&["", "", "Oslo"]), "Oslo");
        assert_eq!(of(&["", ""]), "");
        assert_eq!(of(&["5.6", "56", "5.60"]), "5.6");
        let long = ["1 + 2 = 4", "so 1 + 2 = 3", "It is 3.0!"];
        assert_eq!(elected(&BriefSources::default(), &["4"], &long), "so 1 + 2 = 3");
        // Of golds in words, a common number says nothing.
        let dated = ["Oslo, in 1850", "Rome", "Bern, in 1850", "Rome!"];
        assert_eq!(elected(&BriefSources::default(), &["Rome"], &dated), "Rome");
        let choices = BriefSources { choices: ["s".to_owned()].into(), ..BriefSources::default() };
        let chosen = ["A, as 2 + 3 is 5.", "B. 24", "C, not 5", "The answer is (B)."];
        assert_eq!(elected(&choices, &["C", "24"], &chosen), "B. 24");
    }

    #[tokio::test]
    async fn samples_differ_in_seed_and_all_are_counted() {
        let model = Scripted::new("m", |call: &Call| {
            let seed = call.optional_params["seed"].as_i64().unwrap();
            assert_eq!(call.params["temperature"], json!(TEMPERATURE));
            let mut reply = Reply::text(format!("Answer: {}", if seed < 10 { "a" } else { "b" }));
            reply.usage.completion_tokens = 3;
            Ok(reply)
        });
        let prompt = Prompt::chain_of_thought(&BriefSources::default()).unwrap();
        let model: Arc<dyn LargeModel> = Arc::new(model);
        let arm = PromptArm::new("x", prompt, 5, (model, "m"), Duration::from_secs(9));
        let task = Task { question: "q".into(), ..Task::default() };
        // Seeds 8, 9, 10, 11, 12.
        let attempt = arm.answer(&task, 8).await.unwrap();
        assert_eq!(attempt.answer, "b");
        assert_eq!(attempt.usage.large_model.calls, 5);
        assert_eq!(attempt.usage.large_model.tokens.completion_tokens, 15);
        assert_eq!(attempt.steps.len(), 6);
    }

    #[tokio::test]
    async fn every_sample_that_was_cut_off_counts() {
        let model = Scripted::new("m", |call: &Call| {
            let seed = call.optional_params["seed"].as_i64().unwrap();
            let finish_reason = if seed < 10 { "length" } else { "stop" }.to_owned();
            Ok(Reply { finish_reason, ..Reply::text("Let us see") })
        });
        let model: Arc<dyn LargeModel> = Arc::new(model);
        let task = Task { question: "q".into(), ..Task::default() };
        // Seeds 8, 9, 10, 11, 12.
        for (samples, replies) in [(1, 1), (5, 2)] {
            let prompt = Prompt::chain_of_thought(&BriefSources::default()).unwrap();
            let model = (Arc::clone(&model), "m");
            let arm = PromptArm::new("x", prompt, samples, model, Duration::from_secs(9));
            let attempt = arm.answer(&task, 8).await.unwrap();
            assert_eq!(attempt.cut_off, Some(CutTexts { replies, turns: 0 }), "{samples}");
        }
    }

    /// A model whose every call is lost after it was sent.
    fn slow() -> Arc<dyn LargeModel> {
        Arc::new(Scripted::new("slow", |_: &Call| {
            let (model, limit) = ("slow".to_owned(), Duration::from_secs(1));
            Err(LargeModelError::Timeout { model, phase: Phase::FirstByte, limit })
        }))
    }

    #[tokio::test]
    async fn lost_calls_that_may_be_billed_are_counted() {
        let task = Task { question: "What is asked here?".into(), ..Task::default() };
        let arm = |model: Arc<dyn LargeModel>| {
            let prompt = Prompt::direct(&BriefSources::default()).unwrap();
            PromptArm::new("x", prompt, 1, (model, "m"), Duration::from_secs(9))
        };
        let lost = arm(slow()).answer(&task, 0).await.unwrap_err().usage.large_model;
        assert!(lost.calls == 1 && lost.tokens.prompt_tokens > 0, "{lost:?}");
        let spare: Arc<dyn LargeModel> = Arc::new(Scripted::texts("spare", &["yes"]));
        let model: Arc<dyn LargeModel> = Arc::new(WithFallbacks::new(slow(), vec![spare]));
        let used = arm(model).answer(&task, 0).await.unwrap().usage.large_model;
        assert_eq!((used.calls, used.tokens), (2, lost.tokens));
    }
}
