//! A policy that is an external program, such as a hand-written decomposition: a baseline for
//! trained policies, and a source of demonstrations.

use std::path::PathBuf;

use async_trait::async_trait;

use crate::program;
use crate::protocol::{Piece, concat};
use crate::trajectory::{TokenTrace, TokenUsage, TurnFinish};

use super::{Policy, PolicyError, PolicyOpening, PolicySession, PolicyTurn, TurnSink};

/// A program that is run once for each turn. On its standard input it gets a JSON list of texts:
/// the opening, then what was shown after each turn. Its standard output is the turn.
#[derive(Debug, Clone)]
pub struct ProgramPolicy {
    name: String,
    program: String,
    arguments: Vec<String>,
}

impl ProgramPolicy {
    /// The program and its arguments, separated by white space; `None` if there is none.
    pub fn new(command: &str) -> Option<Self> {
        let mut words = command.split_whitespace().map(str::to_owned);
        let program = words.next()?;
        Some(Self { name: command.to_owned(), program, arguments: words.collect() })
    }

    /// The files that its command names, such as a script.
    pub fn files(&self) -> Vec<PathBuf> {
        program::files([&self.program].into_iter().chain(&self.arguments))
    }
}

#[async_trait]
impl Policy for ProgramPolicy {
    fn name(&self) -> &str {
        &self.name
    }

    async fn open(
        &self,
        opening: PolicyOpening<'_>,
    ) -> Result<Box<dyn PolicySession>, PolicyError> {
        let shown = vec![concat(opening.pieces)];
        Ok(Box::new(ProgramSession { policy: self.clone(), shown, trace: TokenTrace::default() }))
    }
}

struct ProgramSession {
    policy: ProgramPolicy,
    shown: Vec<String>,
    trace: TokenTrace,
}

#[async_trait]
impl PolicySession for ProgramSession {
    async fn turn(
        &mut self,
        _max_tokens: usize,
        sink: &mut dyn TurnSink,
    ) -> Result<PolicyTurn, PolicyError> {
        let ProgramPolicy { name, program, arguments } = &self.policy;
        let shown = serde_json::Value::from(self.shown.clone()).to_string();
        let text = program::run(program, arguments, shown.as_bytes())
            .await
            .map_err(|reason| PolicyError::Program { command: name.clone(), reason })?;
        let _ = sink.text(&text).await?;
        Ok(PolicyTurn { finish: TurnFinish::Stop, usage: TokenUsage::default(), cost: 0.0 })
    }

    /// What was shown after it stands for it.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::engine::Sampling;

    async fn turn(command: &str) -> Result<String, PolicyError> {
        let policy = ProgramPolicy::new(command).unwrap();
        let opening = [Piece::Text("a \"question\"".into())];
        let mut session = policy.open(PolicyOpening::new(&opening, Sampling::GREEDY)).await?;
        session.observe(&[Piece::Markup("reply".into())]).await?;
        let mut heard = String::new();
        session.turn(9, &mut heard).await?;
        Ok(heard)
    }

    #[tokio::test]
    async fn a_program_sees_what_was_shown_and_writes_the_turn() {
        assert_eq!(turn("cat -").await.unwrap(), r#"["a \"question\"","reply"]"#);
        assert_eq!(turn("echo <answer>4</answer>").await.unwrap(), "<answer>4</answer>\n");
    }

    #[tokio::test]
    async fn a_program_that_fails_is_named() {
        for command in ["false", "/no/such/program"] {
            let error = turn(command).await.unwrap_err().to_string();
            assert!(error.contains(&format!("`{command}`")), "{error}");
        }
        assert!(ProgramPolicy::new(" ").is_none());
    }
}
