//! A policy behind an endpoint: any large model can play it. Its tokens are not ours to see.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use secrecy::SecretString;
use serde_json::{Map, json};

use crate::chat::ChatMessage;
use crate::engine::Sampling;
use crate::large_model::{Call, LargeModel, LargeModelError, Prices, ReplyChunk};
use crate::protocol::{Piece, concat};
use crate::trajectory::{TokenTrace, TurnFinish};

use super::{Policy, PolicyError, PolicySession, TurnSink, WrittenTurn};

/// A large model in the policy's place.
pub struct RemotePolicy {
    model: Arc<dyn LargeModel>,
    name: String,
}

impl RemotePolicy {
    /// `model` plays the policy.
    pub fn new(model: Arc<dyn LargeModel>) -> Self {
        let name = model.name().to_owned();
        Self { model, name }
    }
}

#[async_trait]
impl Policy for RemotePolicy {
    fn name(&self) -> &str {
        &self.name
    }

    fn prices(&self) -> Prices {
        self.model.prices()
    }

    async fn open(
        &self,
        opening: &[Piece],
        sampling: Sampling,
    ) -> Result<Box<dyn PolicySession>, PolicyError> {
        self.open_for(opening, sampling, None).await
    }

    async fn open_for(
        &self,
        opening: &[Piece],
        sampling: Sampling,
        authorization: Option<&SecretString>,
    ) -> Result<Box<dyn PolicySession>, PolicyError> {
        Ok(Box::new(Session {
            model: Arc::clone(&self.model),
            authorization: authorization.cloned(),
            sampling,
            turns: 0,
            messages: vec![ChatMessage::text("user", concat(opening))],
            trace: TokenTrace::default(),
        }))
    }

    async fn is_ready(&self) -> bool {
        true
    }
}

struct Session {
    model: Arc<dyn LargeModel>,
    authorization: Option<SecretString>,
    sampling: Sampling,
    turns: u64,
    messages: Vec<ChatMessage>,
    trace: TokenTrace,
}

#[async_trait]
impl PolicySession for Session {
    async fn turn(
        &mut self,
        max_tokens: usize,
        sink: &mut dyn TurnSink,
    ) -> Result<WrittenTurn, PolicyError> {
        let mut params = Map::new();
        params.insert("temperature".into(), json!(self.sampling.temperature));
        params.insert("top_p".into(), json!(self.sampling.top_p));
        params.insert("max_tokens".into(), json!(max_tokens));
        // Endpoints take seeds as signed integers.
        let seed = (self.sampling.seed.wrapping_add(self.turns) >> 1) as i64;
        params.insert("seed".into(), json!(seed));
        self.turns += 1;
        let call = Call {
            messages: self.messages.clone(),
            params,
            authorization: self.authorization.clone(),
            ..Call::default()
        };
        let mut stream = self.model.stream(&call).await?;
        let mut text = String::new();
        let mut listening = true;
        while let Some(chunk) = stream.next().await {
            match chunk? {
                ReplyChunk::Text(part) => {
                    text.push_str(&part);
                    // The reply is read to its end even when the rest cannot matter: only then
                    // does the endpoint say what it billed.
                    if listening {
                        listening = sink.text(&part).await?.is_continue();
                    }
                }
                ReplyChunk::Done(reply) => {
                    self.messages.push(ChatMessage::text("assistant", text));
                    let finish = match reply.finish_reason.as_str() {
                        "length" => TurnFinish::Length,
                        _ => TurnFinish::Stop,
                    };
                    return Ok(WrittenTurn { finish, usage: reply.usage });
                }
            }
        }
        Err(PolicyError::Remote(LargeModelError::Malformed {
            model: self.model.name().to_owned(),
            reason: "the stream ended before the reply was complete".into(),
        }))
    }

    fn observe(&mut self, observation: &[Piece]) -> Result<(), PolicyError> {
        self.messages.push(ChatMessage::text("user", concat(observation)));
        Ok(())
    }

    fn trace(&self) -> &TokenTrace {
        &self.trace
    }
}
