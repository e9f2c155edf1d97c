//! A policy over an engine: one token stream, in which the policy's turns are the ids it sampled.

use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;

use crate::engine::{Engine, EngineError, GenerateEvent, GenerateRequest, Sampling, StopReason};
use crate::protocol::{Piece, length};
use crate::tokenization::{
    BYTES_A_TOKEN, ChatTokenizer, IncrementalDecoder, tokenized, tokenizing,
};
use crate::trajectory::{SampledToken, TokenTrace, TokenUsage, TurnFinish};

use super::{Policy, PolicyError, PolicyOpening, PolicySession, PolicyTurn, TurnSink};

/// A policy that samples from an engine.
pub struct TokenPolicy {
    name: String,
    engine: Arc<dyn Engine>,
    text: Arc<ChatTokenizer>,
    stream: bool,
}

impl TokenPolicy {
    /// A policy named `name`. `stream` asks the engine for tokens as they are sampled; bulk
    /// rollouts do not need it.
    pub fn new(
        name: impl Into<String>,
        engine: Arc<dyn Engine>,
        text: Arc<ChatTokenizer>,
        stream: bool,
    ) -> Self {
        Self { name: name.into(), engine, text, stream }
    }
}

#[async_trait]
impl Policy for TokenPolicy {
    fn name(&self) -> &str {
        &self.name
    }

    async fn open(
        &self,
        opening: PolicyOpening<'_>,
    ) -> Result<Box<dyn PolicySession>, PolicyError> {
        let PolicyOpening { pieces, sampling, .. } = opening;
        let (text, bytes) = (Arc::clone(&self.text), length(pieces));
        let pieces = pieces.to_vec();
        let context = self.engine.context_length();
        let ids = tokenized(bytes, context, move || text.opening_ids(&pieces)).await?;
        let mut trace = TokenTrace::default();
        trace.push_context(&ids);
        Ok(Box::new(TokenSession {
            engine: Arc::clone(&self.engine),
            text: Arc::clone(&self.text),
            stream: self.stream,
            sampling,
            turns: 0,
            trace,
        }))
    }

    async fn token_texts(&self, ids: &[u32]) -> Result<Vec<String>, PolicyError> {
        let (text, ids) = (Arc::clone(&self.text), ids.to_vec());
        let bytes = ids.len() * BYTES_A_TOKEN;
        let work = move || {
            let mut decoder = IncrementalDecoder::default();
            ids.iter().map(|id| decoder.push(&text.tokenizer, *id)).collect()
        };
        Ok(tokenizing(bytes, work).await?)
    }

    async fn is_ready(&self) -> bool {
        self.engine.is_ready().await
    }
}

struct TokenSession {
    engine: Arc<dyn Engine>,
    text: Arc<ChatTokenizer>,
    stream: bool,
    sampling: Sampling,
    turns: u64,
    trace: TokenTrace,
}

impl TokenSession {
    /// Each turn has its own generator, so that it does not depend on how many numbers earlier
    /// turns drew.
    fn turn_sampling(&self) -> Sampling {
        let seed = crate::seed::nth(self.sampling.seed, self.turns);
        Sampling { seed, ..self.sampling }
    }

    async fn take(
        &mut self,
        token: SampledToken,
        decoder: &mut IncrementalDecoder,
        sink: &mut dyn TurnSink,
    ) -> Result<ControlFlow<()>, PolicyError> {
        self.trace.push_action(token);
        if self.text.tokenizer.stop_ids().contains(&token.id) {
            return Ok(ControlFlow::Continue(()));
        }
        let text = decoder.push(&self.text.tokenizer, token.id)?;
        if text.is_empty() { Ok(ControlFlow::Continue(())) } else { sink.text(&text).await }
    }
}

#[async_trait]
impl PolicySession for TokenSession {
    async fn turn(
        &mut self,
        max_tokens: usize,
        sink: &mut dyn TurnSink,
    ) -> Result<PolicyTurn, PolicyError> {
        let prompt_tokens = self.trace.ids.len();
        let mut usage = TokenUsage {
            prompt_tokens: prompt_tokens as u64,
            completion_tokens: 0,
            ..TokenUsage::default()
        };
        let context = self.engine.context_length();
        let room = context.saturating_sub(prompt_tokens).min(max_tokens);
        if room == 0 {
            return Err(EngineError::PromptTooLong { tokens: prompt_tokens, context }.into());
        }
        let mut events = self.engine.generate(GenerateRequest {
            prompt: self.trace.ids.clone(),
            sampling: self.turn_sampling(),
            stop_ids: self.text.tokenizer.stop_ids().to_vec(),
            max_tokens: room,
            stream: self.stream,
        });
        self.turns += 1;
        let prefix = self.text.turn_prefix();
        if !prefix.is_empty() {
            let _ = sink.text(&prefix).await?;
        }
        let mut decoder = IncrementalDecoder::default();
        let finish = 'turn: loop {
            match events.recv().await {
                Some(GenerateEvent::Tokens(tokens)) => {
                    for token in tokens {
                        usage.completion_tokens += 1;
                        if self.take(token, &mut decoder, sink).await?.is_break() {
                            break 'turn TurnFinish::Stop;
                        }
                    }
                }
                Some(GenerateEvent::Done(StopReason::StopId)) => break TurnFinish::Stop,
                Some(GenerateEvent::Done(StopReason::Length)) => break TurnFinish::Length,
                Some(GenerateEvent::Failed(error)) => return Err(error.into()),
                None => {
                    let reason = "it closed the request without an end".to_owned();
                    return Err(EngineError::Stopped(reason).into());
                }
            }
        };
        let tail = decoder.finish(&self.text.tokenizer)?;
        if !tail.is_empty() {
            let _ = sink.text(&tail).await?;
        }
        Ok(PolicyTurn { finish, usage, cost: 0.0 })
    }

    async fn given(&mut self, turn: &str) -> Result<(), PolicyError> {
        // The next turn draws what it would have drawn after a turn that the policy wrote.
        self.turns += 1;
        let (text, bytes, turn) = (Arc::clone(&self.text), turn.len(), turn.to_owned());
        let context = self.engine.context_length();
        let ids = tokenized(bytes, context, move || text.turn_ids(&turn)).await?;
        self.trace.push_context(&ids);
        Ok(())
    }

    async fn observe(&mut self, observation: &[Piece]) -> Result<(), PolicyError> {
        let last = self.trace.ids.last().copied();
        let (text, bytes) = (Arc::clone(&self.text), length(observation));
        let observation = observation.to_vec();
        // However long it is: the next turn checks whether it fits.
        let ids = tokenizing(bytes, move || text.observation_ids(last, &observation)).await?;
        self.trace.push_context(&ids);
        Ok(())
    }

    fn trace(&self) -> &TokenTrace {
        &self.trace
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
