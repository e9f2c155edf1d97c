//! No policy: the question goes to the large model unchanged, and its reply is the answer.

use async_trait::async_trait;

use crate::protocol::{FINAL_PROMPT, Piece};
use crate::trajectory::{TokenTrace, TokenUsage, TurnFinish};

use super::{Policy, PolicyError, PolicyOpening, PolicySession, PolicyTurn, TurnSink};

/// The name of [`DirectPolicy`].
pub const DIRECT: &str = "direct";

/// A policy whose only turn passes the question on, so that the loop needs no special case.
#[derive(Debug, Clone, Copy, Default)]
pub struct DirectPolicy;

#[async_trait]
impl Policy for DirectPolicy {
    fn name(&self) -> &str {
        DIRECT
    }

    async fn open(
        &self,
        _opening: PolicyOpening<'_>,
    ) -> Result<Box<dyn PolicySession>, PolicyError> {
        Ok(Box::new(DirectSession(TokenTrace::default())))
    }
}

struct DirectSession(TokenTrace);

#[async_trait]
impl PolicySession for DirectSession {
    async fn turn(
        &mut self,
        _max_tokens: usize,
        sink: &mut dyn TurnSink,
    ) -> Result<PolicyTurn, PolicyError> {
        let _ = sink.text(&format!("<{FINAL_PROMPT}><question/></{FINAL_PROMPT}>")).await?;
        Ok(PolicyTurn { finish: TurnFinish::Stop, usage: TokenUsage::default(), cost: 0.0 })
    }

    async fn given(&mut self, _turn: &str) -> Result<(), PolicyError> {
        Ok(())
    }

    async fn observe(&mut self, _observation: &[Piece]) -> Result<(), PolicyError> {
        Ok(())
    }

    fn trace(&self) -> &TokenTrace {
        &self.0
    }
}
