//! A scripted policy: for tests, and to measure the loop alone.

use std::sync::Arc;

use async_trait::async_trait;

use crate::protocol::{Piece, concat};
use crate::trajectory::{TokenTrace, TokenUsage, TurnFinish};

use super::{Policy, PolicyError, PolicyOpening, PolicySession, PolicyTurn, TurnSink};

type Script = dyn Fn(&[String]) -> String + Send + Sync;

/// A policy whose turns are a function of what it was shown: the opening, then each observation.
#[derive(Clone)]
pub struct ScriptedPolicy {
    name: String,
    script: Arc<Script>,
}

impl ScriptedPolicy {
    /// Writes `script(shown)` in each turn; `shown` is the opening followed by the observations.
    pub fn new(script: impl Fn(&[String]) -> String + Send + Sync + 'static) -> Self {
        Self { name: "scripted".to_owned(), script: Arc::new(script) }
    }

    /// The same under another name.
    pub fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// Writes the given turns in order, and nothing after them.
    pub fn turns<const N: usize>(turns: [&str; N]) -> Self {
        let turns = turns.map(str::to_owned);
        Self::new(move |shown| turns.get(shown.len() - 1).cloned().unwrap_or_default())
    }
}

#[async_trait]
impl Policy for ScriptedPolicy {
    fn name(&self) -> &str {
        &self.name
    }

    async fn open(
        &self,
        opening: PolicyOpening<'_>,
    ) -> Result<Box<dyn PolicySession>, PolicyError> {
        Ok(Box::new(ScriptedSession {
            script: Arc::clone(&self.script),
            shown: vec![concat(opening.pieces)],
            trace: TokenTrace::default(),
        }))
    }
}

struct ScriptedSession {
    script: Arc<Script>,
    shown: Vec<String>,
    trace: TokenTrace,
}

#[async_trait]
impl PolicySession for ScriptedSession {
    /// A token is a word; a turn longer than `max_tokens` words is cut.
    async fn turn(
        &mut self,
        max_tokens: usize,
        sink: &mut dyn TurnSink,
    ) -> Result<PolicyTurn, PolicyError> {
        let text = (self.script)(&self.shown);
        let words: Vec<&str> = text.split_inclusive(' ').collect();
        let kept = words.len().min(max_tokens);
        for word in &words[..kept] {
            if sink.text(word).await?.is_break() {
                break;
            }
        }
        let finish = if kept < words.len() { TurnFinish::Length } else { TurnFinish::Stop };
        let usage = TokenUsage {
            prompt_tokens: 0,
            completion_tokens: kept as u64,
            ..TokenUsage::default()
        };
        Ok(PolicyTurn { finish, usage, cost: 0.0 })
    }

    /// The text shown after it implies it.
    async fn given(&mut self, _turn: &str) -> Result<(), PolicyError> {
        Ok(())
    }

    async fn observe(&mut self, observation: &[Piece]) -> Result<(), PolicyError> {
        self.shown.push(concat(observation));
        Ok(())
    }

    fn trace(&self) -> &TokenTrace {
        &self.trace
    }
}
