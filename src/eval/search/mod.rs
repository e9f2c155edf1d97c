//! Searches for a prompt for the large model alone, on training questions. In rounds, a large model
//! proposes prompts from the best ones so far with their scores (as OPRO does) and from questions
//! that the best one got wrong (as GEPA does), until a budget of calls is spent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use minijinja::context;
use rand::SeedableRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use crate::chat::ChatMessage;
use crate::hint::{Hint, Reason};
use crate::large_model::{Call, CallUsage, LargeModel};
use crate::prompt_template::Template;
use crate::seed;

use super::EvalError;
use super::arms::{BriefSources, PLACEHOLDER, Prompt, PromptArm};
use super::config::{MetricConfig, SearchConfig};
use super::data::{self, Question, Questions};
use super::metric_choice::Metric;
use super::rows::{AnswerStep, ArmAnswer, Outcome};
use super::run;
use super::score::Scorer;

mod result_file;
#[cfg(test)]
mod tests;

pub use result_file::ResultFile;

const PROPOSE: &str = include_str!("propose.j2");
/// The number of best prompts that a proposer is shown.
const SHOWN_PROMPTS: usize = 8;
/// The number of wrong answers that a proposer is shown.
const SHOWN_MISTAKES: usize = 3;
/// Characters of a text that a proposer is shown.
const SHOWN_CHARS: usize = 1_000;
/// The longest accepted prompt, characters.
const MAX_PROMPT_CHARS: usize = 10_000;
/// Rounds without a new prompt after which the search ends.
const IDLE_ROUNDS: usize = 5;
/// From this score on, an answer is not a mistake.
const CORRECT_SCORE: f64 = 0.999;

/// The training questions of a search: as many as are tried, drawn from all data sets.
///
/// # Errors
/// When the data cannot be read.
pub fn training_questions(
    config: &SearchConfig,
    metrics: &MetricConfig,
    seed: u64,
) -> Result<Questions, EvalError> {
    let mut read = data::load(&config.data, metrics, None, seed)?;
    read.questions.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    read.questions.truncate(config.sample);
    Ok(read)
}

/// A search.
pub struct Search<'a> {
    /// Its settings.
    pub config: &'a SearchConfig,
    /// The training questions, all of which are used.
    pub questions: &'a [Question],
    /// The large model that the prompt is for.
    pub model: Arc<dyn LargeModel>,
    /// The large model that proposes.
    pub proposer: Arc<dyn LargeModel>,
    /// Scores answers.
    pub scorer: &'a Scorer,
    /// The prompts to start from.
    pub start: Vec<String>,
    /// The data sets in which a short answer is requested, as in the arm that uses the prompt.
    pub brief: &'a BriefSources,
    /// Seeds proposals and attempts.
    pub seed: u64,
    /// Calls at once.
    pub max_in_flight: usize,
    /// The deadline of one call.
    pub deadline: Duration,
}

/// The result of a search.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SearchResult {
    /// The best prompt; among equally good ones, the first.
    pub prompt: String,
    /// Every prompt that was tried, in order.
    pub tried: Vec<Tried>,
    /// Calls of large models, including failed ones, and their usage. Includes judging.
    pub usage: CallUsage,
}

/// A prompt that was tried.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tried {
    /// The prompt.
    pub prompt: String,
    /// The round in which it was proposed; 0 for the initial ones.
    pub round: usize,
    /// Its mean score on the training questions that were answered; `None` if too few were.
    pub score: Option<f64>,
    /// Questions that were answered and scored.
    pub answered: usize,
}

/// A question that a prompt got wrong.
#[derive(Debug, Clone, Serialize)]
struct Mistake {
    question: String,
    reply: String,
    golds: Vec<String>,
}

/// The result so far.
struct SearchState {
    found: SearchResult,
    /// By prompt, as in `found.tried`.
    mistakes: Vec<Vec<Mistake>>,
    propose: Template,
    first_failure: Option<Reason>,
}

impl Search<'_> {
    /// Searches until the budget is spent. The same models, questions and seed give the same
    /// result.
    ///
    /// # Errors
    /// When no prompt could be scored, or scoring is impossible.
    pub async fn run(&self) -> Result<SearchResult, EvalError> {
        let propose = Template::new("propose.j2", PROPOSE.to_owned(), "the prompts tried")?;
        let mut state = SearchState {
            found: SearchResult::default(),
            mistakes: Vec::new(),
            propose,
            first_failure: None,
        };
        for prompt in &self.start {
            if self.left(&state) >= self.cost_of_trying() {
                self.try_out(prompt.clone(), 0, &mut state).await?;
            }
        }
        let mut idle = 0;
        for round in 1.. {
            let affordable = self.left(&state) / (1 + self.cost_of_trying());
            let proposals = (self.config.proposals as u64).min(affordable);
            if proposals == 0 || idle == IDLE_ROUNDS || state.best().is_none() {
                break;
            }
            idle += 1;
            for prompt in self.proposals(round, proposals, &mut state).await? {
                let is_new = state.found.tried.iter().all(|tried| tried.prompt != prompt);
                if is_new {
                    idle = 0;
                    self.try_out(prompt, round, &mut state).await?;
                }
            }
            tracing::info!(
                round,
                calls = state.found.usage.calls,
                best = state.best().and_then(|best| state.found.tried[best].score),
                "prompt search"
            );
        }
        match state.best() {
            Some(best) => {
                let prompt = state.found.tried[best].prompt.clone();
                Ok(SearchResult { prompt, ..state.found })
            }
            None => Err(EvalError::Search {
                reason: state.first_failure.unwrap_or_else(|| {
                    reason!(
                        "`prompt_search.budget` is {} calls, one prompt takes {}",
                        self.config.budget,
                        self.cost_of_trying();
                        hint: "raise it, or lower `prompt_search.sample`"
                    )
                }),
            }),
        }
    }

    /// The remaining budget, calls.
    fn left(&self, state: &SearchState) -> u64 {
        self.config.budget.saturating_sub(state.found.usage.calls)
    }

    /// Calls to try one prompt on all questions, including judging.
    fn cost_of_trying(&self) -> u64 {
        let judged = self.questions.iter().filter(|question| question.metric == Metric::Judge);
        (self.questions.len() + judged.count()) as u64
    }

    /// Scores a prompt on the training questions.
    async fn try_out(
        &self,
        prompt: String,
        round: usize,
        state: &mut SearchState,
    ) -> Result<(), EvalError> {
        let arm = PromptArm::new(
            "prompt-search",
            Prompt::literal(&prompt, self.brief),
            1,
            (Arc::clone(&self.model), ""),
            self.deadline,
        );
        let arm = &arm;
        let attempts = self.questions.iter().map(|question| async move {
            let seed = seed::of_question(self.seed, &question.task.id);
            let attempt = match run::attempt(arm, &question.task, seed).await {
                Outcome::Answered(attempt) => attempt,
                Outcome::Failed { error, usage } => {
                    return Ok((usage.large_model.counted(), Err(error)));
                }
            };
            let mut usage = attempt.usage.large_model;
            let score = self.scorer.score(question, &attempt.answer).await?;
            usage += score.judge;
            let scored = score.value.map(|value| {
                (value, (value < CORRECT_SCORE).then(|| Mistake::of(question, &attempt)))
            });
            Ok::<_, EvalError>((usage, scored))
        });
        // In order, so that the mistakes shown do not depend on timing.
        let mut attempts = futures::stream::iter(attempts).buffered(self.max_in_flight.max(1));
        let (mut sum, mut answered, mut mistakes) = (0.0, 0, Vec::new());
        while let Some(attempt) = attempts.next().await {
            let (usage, scored) = attempt?;
            state.found.usage += usage;
            match scored {
                Ok((score, mistake)) => {
                    sum += score;
                    answered += 1;
                    mistakes.extend(mistake);
                }
                Err(failure) => {
                    state.first_failure.get_or_insert(failure.into());
                }
            }
        }
        // A mean over the few that happened to be answered could win by luck.
        let is_enough = answered * 2 > self.questions.len();
        let score = is_enough.then(|| sum / answered as f64);
        state.found.tried.push(Tried { prompt, round, score, answered });
        state.mistakes.push(mistakes);
        Ok(())
    }

    /// New prompts, as many as could be parsed.
    async fn proposals(
        &self,
        round: usize,
        count: u64,
        state: &mut SearchState,
    ) -> Result<Vec<String>, EvalError> {
        let asked = (0..count)
            .map(|index| {
                let seed = seed::of_proposal(self.seed, round as u64, index);
                Ok((seed, state.question_to_proposer(seed)?))
            })
            .collect::<Result<Vec<_>, EvalError>>()?;
        let replies = asked.into_iter().map(|(seed, prompt)| async move {
            let mut params = Map::new();
            let optional_params =
                Map::from_iter([("seed".to_owned(), json!(seed::for_endpoint(seed)))]);
            params.insert("temperature".into(), json!(1.0));
            let call = Call {
                messages: vec![ChatMessage::text("user", prompt)],
                params,
                optional_params,
                deadline: Some(Instant::now() + self.deadline),
                ..Call::default()
            };
            let reply = self.proposer.complete(&call).await;
            (CallUsage::of_call(&*self.proposer, &call, &reply).counted(), reply)
        });
        let mut replies = futures::stream::iter(replies).buffered(self.max_in_flight.max(1));
        let mut proposals = Vec::new();
        while let Some((used, reply)) = replies.next().await {
            state.found.usage += used;
            match reply {
                Ok(reply) => proposals.extend(proposed(&reply.message.as_text())),
                Err(error) => {
                    state.first_failure.get_or_insert(error.reason());
                }
            }
        }
        proposals.dedup();
        Ok(proposals)
    }
}

impl SearchState {
    /// The best prompt so far; of equally good ones, the first.
    fn best(&self) -> Option<usize> {
        let scored = self.found.tried.iter().enumerate();
        let scored = scored.filter_map(|(index, tried)| Some((index, tried.score?)));
        scored
            .reduce(|best, next| if next.1 > best.1 { next } else { best })
            .map(|(index, _)| index)
    }

    fn question_to_proposer(&self, seed: u64) -> Result<String, EvalError> {
        let mut tried: Vec<(f64, &str)> = self
            .found
            .tried
            .iter()
            .filter_map(|tried| Some((tried.score?, tried.prompt.as_str())))
            .collect();
        // The best last, where it has most influence on a model; the sort is stable, so the order
        // is deterministic.
        tried.sort_by(|a, b| a.0.total_cmp(&b.0));
        let prompts: Vec<_> = tried[tried.len().saturating_sub(SHOWN_PROMPTS)..]
            .iter()
            .map(|(score, prompt)| context! { score => format!("{:.1}", 100.0 * score), prompt })
            .collect();
        let mistakes = self.best().map_or(&[][..], |best| &self.mistakes[best]);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mistakes: Vec<&Mistake> =
            mistakes.choose_multiple(&mut random, SHOWN_MISTAKES).collect();
        Ok(self.propose.render(context! { prompts, mistakes, place => PLACEHOLDER })?)
    }
}

impl Mistake {
    fn of(question: &Question, attempt: &ArmAnswer) -> Self {
        let reply = attempt.steps.iter().rev().find_map(|step| match step {
            AnswerStep::Reply(text) => Some(head(text)),
            _ => None,
        });
        Self {
            question: head(&question.task.question),
            reply: reply.unwrap_or_default(),
            golds: question.task.golds.iter().map(|gold| head(gold)).collect(),
        }
    }
}

fn head(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// The prompt in a proposer's reply, with a placeholder for the question.
fn proposed(reply: &str) -> Option<String> {
    let (_, after) = reply.rsplit_once("<prompt>")?;
    let (prompt, _) = after.split_once("</prompt>")?;
    let prompt = prompt.trim();
    let fits = !prompt.is_empty() && prompt.len() <= MAX_PROMPT_CHARS;
    fits.then(|| Prompt::literal(prompt, &BriefSources::default()).source().to_owned())
}
