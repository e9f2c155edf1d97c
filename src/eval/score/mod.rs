//! Scores answers: by comparing texts, by comparing sentence embeddings, by a judge.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::judge::{Judge, Judgement};
use crate::large_model::CallUsage;
use crate::reward::Normalization;

use super::EvalError;
use super::data::Question;
use super::metric_choice::Metric;
use super::rows::Outcome;
use super::run::Outcomes;

#[cfg(test)]
mod tests;

/// Embeds sentences. May be slow, so it is called on a thread of its own.
pub trait SentenceEncoder: Send + Sync {
    /// The embedding of `text`, of Euclidean length 1, or an error message.
    ///
    /// # Errors
    /// When the text cannot be tokenized or computed.
    fn embed(&self, text: &str) -> Result<Vec<f32>, String>;
}

/// Scores answers.
pub struct Scorer {
    normalization: Normalization,
    sentences: Option<Arc<Sentences>>,
    judge: Option<Judge>,
}

/// A score, and its cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// 0 to 1, or why there is none.
    pub value: Result<f64, String>,
    /// The usage of the judge.
    pub judge: CallUsage,
}

/// The scores of an evaluation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    /// By question, then by arm; `None` where the attempt failed.
    pub by_question: Vec<Vec<Option<Result<f64, String>>>>,
    /// The total usage of the judge.
    pub judge: CallUsage,
}

/// An encoder with a cache for recurring texts: golds.
struct Sentences {
    encoder: Arc<dyn SentenceEncoder>,
    golds: Mutex<HashMap<String, Arc<[f32]>>>,
}

impl Scorer {
    /// Scores by comparing texts alone.
    pub fn new(normalization: Normalization) -> Self {
        Self { normalization, sentences: None, judge: None }
    }

    /// Scores [`Metric::Ssim`] too.
    pub fn with_encoder(self, encoder: Arc<dyn SentenceEncoder>) -> Self {
        let sentences = Some(Arc::new(Sentences { encoder, golds: Mutex::default() }));
        Self { sentences, ..self }
    }

    /// Scores [`Metric::Judge`] too.
    pub fn with_judge(self, judge: Judge) -> Self {
        Self { judge: Some(judge), ..self }
    }

    /// The name of the judge's model, if there is a judge.
    pub fn judge(&self) -> Option<&str> {
        self.judge.as_ref().map(Judge::model)
    }

    /// Scores `answer` to the question.
    ///
    /// # Errors
    /// When the sentence encoder fails, or what the metric needs is missing.
    pub async fn score(&self, question: &Question, answer: &str) -> Result<Score, EvalError> {
        let Question { task, metric } = question;
        let known = |value| Ok(Score { value: Ok(value), judge: CallUsage::default() });
        if answer.trim().is_empty() {
            return known(0.0);
        }
        let missing = |what: &str| EvalError::Setting(format!("there is no {what}").into());
        match metric {
            Metric::Text(metric) => known(metric.score(answer, &task.golds, self.normalization)),
            Metric::Judge => {
                let judge = self.judge.as_ref().ok_or_else(|| missing("judge"))?;
                let Judgement { value, usage, .. } = judge.score(task, answer).await?;
                Ok(Score { value, judge: usage })
            }
            Metric::Ssim => {
                let sentences = self.sentences.as_ref().ok_or_else(|| missing("sentence model"))?;
                let (sentences, answer) = (Arc::clone(sentences), answer.to_owned());
                let golds = task.golds.clone();
                let similarity =
                    tokio::task::spawn_blocking(move || sentences.best(&answer, &golds)).await;
                let similarity =
                    similarity.map_err(|error| EvalError::Similarity(error.to_string()))?;
                known(similarity.map_err(EvalError::Similarity)?)
            }
        }
    }

    /// Scores every answer, `max_in_flight` at a time; `scored` is called after each.
    ///
    /// # Errors
    /// When it was stopped, or an embedding or a judge's template fails.
    pub async fn score_all(
        &self,
        questions: &[Question],
        outcomes: &Outcomes,
        max_in_flight: usize,
        stop: &CancellationToken,
        mut scored: impl FnMut(),
    ) -> Result<Scores, EvalError> {
        let mut scores = Scores {
            by_question: outcomes.iter().map(|row| vec![None; row.len()]).collect(),
            judge: CallUsage::default(),
        };
        let answered =
            questions.iter().zip(outcomes).enumerate().flat_map(|(at, (question, row))| {
                row.iter().enumerate().filter_map(move |(arm, outcome)| match outcome {
                    Outcome::Answered(attempt) => Some((at, arm, question, attempt)),
                    Outcome::Failed { .. } => None,
                })
            });
        let scoring = answered.map(|(at, arm, question, attempt)| async move {
            (at, arm, self.score(question, &attempt.answer).await)
        });
        let mut scoring = futures::stream::iter(scoring).buffer_unordered(max_in_flight.max(1));
        loop {
            let next = tokio::select! {
                () = stop.cancelled() => return Err(EvalError::ScoringInterrupted),
                next = scoring.next() => next,
            };
            let Some((at, arm, score)) = next else { break };
            let Score { value, judge } = score?;
            scores.by_question[at][arm] = Some(value);
            scores.judge += judge;
            scored();
        }
        Ok(scores)
    }
}

impl Sentences {
    /// The cosine of the answer's embedding and that of the nearest gold, 0 to 1.
    fn best(&self, answer: &str, golds: &[String]) -> Result<f64, String> {
        let answer = self.encoder.embed(answer)?;
        let mut best: f64 = 0.0;
        for gold in golds {
            let gold = self.gold(gold)?;
            let cosine = answer.iter().zip(&*gold).map(|(a, b)| f64::from(*a) * f64::from(*b));
            best = best.max(cosine.sum());
        }
        // By rounding, the cosine of a text with itself may exceed 1.
        Ok(best.min(1.0))
    }

    fn gold(&self, gold: &str) -> Result<Arc<[f32]>, String> {
        let known = || self.golds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(embedding) = known().get(gold) {
            return Ok(Arc::clone(embedding));
        }
        let embedding: Arc<[f32]> = self.encoder.embed(gold)?.into();
        known().insert(gold.to_owned(), Arc::clone(&embedding));
        Ok(embedding)
    }
}

/// Whether some question has this metric.
pub fn is_used(metric: Metric, questions: &[Question]) -> bool {
    questions.iter().any(|question| question.metric == metric)
}
