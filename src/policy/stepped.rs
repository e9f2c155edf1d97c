//! A policy whose turns come from outside, one at a time: by a trainer with its own model.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::engine::EngineError;
use crate::protocol::{Piece, concat, length};
use crate::token_estimate::TokenEstimate;
use crate::tokenization::{ChatTokenizer, IncrementalDecoder, tokenized};
use crate::trajectory::{SampledToken, TokenTrace, TokenUsage, TurnFinish};

use super::{Policy, PolicyError, PolicyOpening, PolicySession, PolicyTurn, TurnSink};

/// A request for a turn.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnRequest {
    /// The text since the last turn: the opening, or an observation.
    pub shown: String,
    /// The token stream so far, ready for the turn; empty when turns are sent as text, or without
    /// a tokenizer.
    pub trace: TokenTrace,
    /// Tokens that the turn may have; at least 1.
    pub max_tokens: usize,
}

/// A turn from outside.
#[derive(Debug, Clone, PartialEq)]
pub enum ExternalTurn {
    /// The tokens that were sampled, in the policy's vocabulary.
    Tokens(Vec<SampledToken>),
    /// The text, and whether it was truncated at the limit.
    Text(String, TurnFinish),
}

/// The caller's side of an episode. Dropping it ends the episode.
#[derive(Debug)]
pub struct StepHandle {
    /// Prompts, one before each turn; closed when the episode is over.
    pub prompts: mpsc::Receiver<TurnRequest>,
    /// Turns, one for each prompt.
    pub turns: mpsc::Sender<ExternalTurn>,
}

/// The loop's side.
struct Channels {
    prompts: mpsc::Sender<TurnRequest>,
    turns: mpsc::Receiver<ExternalTurn>,
}

/// The policy of one episode.
pub struct SteppedPolicy {
    /// With the context length of the model that writes the turns.
    text: Option<(Arc<ChatTokenizer>, usize)>,
    channels: Mutex<Option<Channels>>,
}

impl SteppedPolicy {
    /// Makes a policy and its handle. With a tokenizer and a context length, turns can be sent as
    /// tokens, otherwise only as text.
    pub fn new(text: Option<(Arc<ChatTokenizer>, usize)>) -> (Self, StepHandle) {
        let (to_caller, prompts) = mpsc::channel(1);
        let (turns, from_caller) = mpsc::channel(1);
        let channels = Channels { prompts: to_caller, turns: from_caller };
        (Self { text, channels: Mutex::new(Some(channels)) }, StepHandle { prompts, turns })
    }
}

#[async_trait]
impl Policy for SteppedPolicy {
    fn name(&self) -> &str {
        "stepped"
    }

    /// The only episode. There is no second one.
    async fn open(
        &self,
        opening: PolicyOpening<'_>,
    ) -> Result<Box<dyn PolicySession>, PolicyError> {
        let pieces = opening.pieces;
        let channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner).take();
        let channels = channels.ok_or(PolicyError::Cancelled)?;
        let mut trace = TokenTrace::default();
        if let Some((text, context)) = &self.text {
            let (text, owned) = (Arc::clone(text), pieces.to_vec());
            let ids = move || text.opening_ids(&owned);
            trace.push_context(&tokenized(length(pieces), *context, ids).await?);
        }
        let text = self.text.clone();
        Ok(Box::new(Session { text, channels, shown: concat(pieces), trace }))
    }
}

struct Session {
    /// With the context length; absent when turns are sent as text.
    text: Option<(Arc<ChatTokenizer>, usize)>,
    channels: Channels,
    shown: String,
    trace: TokenTrace,
}

impl Session {
    /// Tokens that the next turn may have, of at most `max_tokens`.
    fn room(&self, max_tokens: usize) -> Result<usize, PolicyError> {
        let Some((_, context)) = &self.text else { return Ok(max_tokens) };
        let tokens = self.trace.ids.len();
        match context.saturating_sub(tokens).min(max_tokens) {
            0 => Err(EngineError::PromptTooLong { tokens, context: *context }.into()),
            room => Ok(room),
        }
    }

    /// Takes the tokens of a turn up to its end, and ignores what follows.
    async fn tokens(
        &mut self,
        text: &ChatTokenizer,
        tokens: Vec<SampledToken>,
        sink: &mut dyn TurnSink,
    ) -> Result<TurnFinish, PolicyError> {
        let tokenizer = &text.tokenizer;
        let prefix = text.turn_prefix();
        if !prefix.is_empty() {
            let _ = sink.text(&prefix).await?;
        }
        let mut decoder = IncrementalDecoder::default();
        let mut finish = TurnFinish::Length;
        for token in tokens {
            self.trace.push_action(token);
            if tokenizer.stop_ids().contains(&token.id) {
                finish = TurnFinish::Stop;
                break;
            }
            let text = decoder.push(tokenizer, token.id)?;
            if !text.is_empty() && sink.text(&text).await?.is_break() {
                finish = TurnFinish::Stop;
                break;
            }
        }
        let tail = decoder.finish(tokenizer)?;
        if !tail.is_empty() {
            let _ = sink.text(&tail).await?;
        }
        Ok(finish)
    }
}

#[async_trait]
impl PolicySession for Session {
    async fn turn(
        &mut self,
        max_tokens: usize,
        sink: &mut dyn TurnSink,
    ) -> Result<PolicyTurn, PolicyError> {
        let read = self.trace.ids.len();
        let max_tokens = self.room(max_tokens)?;
        let shown = std::mem::take(&mut self.shown);
        let prompted = TurnRequest { shown, trace: self.trace.clone(), max_tokens };
        self.channels.prompts.send(prompted).await.map_err(|_| PolicyError::Cancelled)?;
        let turn = self.channels.turns.recv().await.ok_or(PolicyError::Cancelled)?;
        let usage = |completion| TokenUsage {
            prompt_tokens: read as u64,
            completion_tokens: completion as u64,
            ..TokenUsage::default()
        };
        match (turn, self.text.clone()) {
            (ExternalTurn::Tokens(tokens), Some((text, _))) => {
                let finish = self.tokens(&text, tokens, sink).await?;
                let usage = usage(self.trace.ids.len() - read);
                Ok(PolicyTurn { finish, usage, cost: 0.0 })
            }
            (ExternalTurn::Tokens(_), None) => Err(PolicyError::Tokenizer(
                "a turn was sent as token ids, but there is no tokenizer".into(),
            )),
            (ExternalTurn::Text(written, finish), text) => {
                let count = match text {
                    Some((text, _)) => text.tokenizer.encode_text(&written)?.len(),
                    None => TokenEstimate::of(&written).tokens() as usize,
                };
                // Encoding the text could give other ids than those that were sampled.
                (self.text, self.trace) = (None, TokenTrace::default());
                let _ = sink.text(&written).await?;
                Ok(PolicyTurn { finish, usage: usage(count), cost: 0.0 })
            }
        }
    }

    async fn given(&mut self, turn: &str) -> Result<(), PolicyError> {
        if let Some((text, _)) = &self.text {
            let ids = text.turn_ids(turn)?;
            self.trace.push_context(&ids);
        }
        Ok(())
    }

    async fn observe(&mut self, observation: &[Piece]) -> Result<(), PolicyError> {
        self.shown = concat(observation);
        if let Some((text, _)) = &self.text {
            let last = self.trace.ids.last().copied();
            self.trace.push_context(&text.observation_ids(last, observation)?);
        }
        Ok(())
    }

    fn trace(&self) -> &TokenTrace {
        &self.trace
    }
}
