//! A policy behind an endpoint: any large model can act as one. Its tokens are not visible.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use secrecy::SecretString;
use serde_json::{Map, Value, json};

use crate::chat::ChatMessage;
use crate::engine::Sampling;
use crate::large_model::{Call, LargeModel, LargeModelError, Prices, ReplyChunk};
use crate::protocol::{ANSWER, FINAL_PROMPT, PROMPT, Piece, concat};
use crate::sampling::as_written;
use crate::seed;
use crate::trajectory::{TokenTrace, TurnFinish};

use super::{Policy, PolicyError, PolicyOpening, PolicySession, PolicyTurn, TurnSink};

/// A large model that acts as the policy.
pub struct RemotePolicy {
    model: Arc<dyn LargeModel>,
    name: String,
}

impl RemotePolicy {
    /// Has `model` act as the policy.
    pub fn new(model: Arc<dyn LargeModel>) -> Self {
        let name = model.name().to_owned();
        Self { model, name }
    }

    /// The same under another name.
    pub fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }
}

#[async_trait]
impl Policy for RemotePolicy {
    fn name(&self) -> &str {
        &self.name
    }

    fn prices(&self) -> Prices {
        self.model.prices_of(None).unwrap_or_else(|| self.model.prices())
    }

    fn is_priced(&self) -> bool {
        self.model.is_priced(None)
    }

    fn is_remote(&self) -> bool {
        true
    }

    async fn open(
        &self,
        opening: PolicyOpening<'_>,
    ) -> Result<Box<dyn PolicySession>, PolicyError> {
        let PolicyOpening { pieces, sampling, authorization, caller } = opening;
        Ok(Box::new(RemoteSession {
            model: Arc::clone(&self.model),
            authorization: authorization.cloned(),
            caller,
            sampling,
            turns: 0,
            messages: vec![ChatMessage::text("user", concat(pieces))],
            trace: TokenTrace::default(),
        }))
    }
}

struct RemoteSession {
    model: Arc<dyn LargeModel>,
    authorization: Option<SecretString>,
    caller: u64,
    sampling: Sampling,
    turns: u64,
    messages: Vec<ChatMessage>,
    trace: TokenTrace,
}

/// The tags that end a turn when they are closed.
const ACTIONS: [&str; 3] = [PROMPT, FINAL_PROMPT, ANSWER];

impl RemoteSession {
    /// The fields of the request for a turn.
    fn fields(&self, max_tokens: usize) -> Map<String, Value> {
        let Sampling { temperature, top_p, seed, .. } = self.sampling;
        let mut fields = Map::new();
        fields.insert("temperature".to_owned(), as_written(temperature));
        if top_p != 1.0 {
            fields.insert("top_p".to_owned(), as_written(top_p));
        }
        fields.insert("max_tokens".to_owned(), json!(max_tokens));
        let closing: Vec<String> = ACTIONS.iter().map(|tag| format!("</{tag}>")).collect();
        fields.insert("stop".to_owned(), json!(closing));
        // A drawn seed is not sent, because not every endpoint accepts seeds.
        if seed::is_chosen(seed) {
            fields.insert("seed".to_owned(), json!(seed::near(seed, self.turns)));
        }
        fields
    }
}

/// The tag of the action that a turn leaves open.
fn open_action(text: &str) -> Option<&'static str> {
    let opened = ACTIONS.iter().filter_map(|tag| Some((text.rfind(&format!("<{tag}>"))?, *tag)));
    let (at, tag) = opened.max()?;
    (!text[at..].contains(&format!("</{tag}>"))).then_some(tag)
}

#[async_trait]
impl PolicySession for RemoteSession {
    async fn turn(
        &mut self,
        max_tokens: usize,
        sink: &mut dyn TurnSink,
    ) -> Result<PolicyTurn, PolicyError> {
        let optional_params = self.fields(max_tokens);
        self.turns += 1;
        let call = Call {
            messages: self.messages.clone(),
            optional_params,
            keeps_tags: true,
            authorization: self.authorization.clone(),
            caller: self.caller,
            failed_calls: sink.failed_calls(),
            unseen: sink.unseen(),
            waiting: sink.waiting(),
            ..Call::default()
        };
        let mut stream = self.model.stream(&call).await?;
        let mut text = String::new();
        let mut listening = true;
        while let Some(chunk) = stream.next().await {
            match chunk? {
                // Of an endpoint that does not stream.
                ReplyChunk::Thought(_) => {}
                ReplyChunk::Text(part) => {
                    text.push_str(&part);
                    // If the endpoint continues after the closing tag, the reply is still read to
                    // its end: only then does the endpoint report usage.
                    if listening {
                        listening = sink.text(&part).await?.is_continue();
                    }
                }
                ReplyChunk::Done(reply) => {
                    let is_stopped = reply.finish_reason == "stop";
                    if let Some(tag) = open_action(&text).filter(|_| is_stopped && listening) {
                        // The endpoint stopped at the closing tag, which it leaves out.
                        let closing = format!("</{tag}>");
                        text.push_str(&closing);
                        let _ = sink.text(&closing).await?;
                    }
                    self.messages.push(ChatMessage::text("assistant", text));
                    // What follows a closed action does not belong to the turn.
                    let finish = match reply.finish_reason.as_str() {
                        "length" if listening => TurnFinish::Length,
                        _ => TurnFinish::Stop,
                    };
                    return Ok(PolicyTurn { finish, usage: reply.usage, cost: reply.cost });
                }
            }
        }
        Err(PolicyError::Remote(LargeModelError::Malformed {
            model: self.model.name().to_owned(),
            reason: "the stream ended before the reply was complete".into(),
        }))
    }

    async fn given(&mut self, turn: &str) -> Result<(), PolicyError> {
        self.turns += 1;
        self.messages.push(ChatMessage::text("assistant", turn));
        Ok(())
    }

    async fn observe(&mut self, observation: &[Piece]) -> Result<(), PolicyError> {
        self.messages.push(ChatMessage::text("user", concat(observation)));
        Ok(())
    }

    fn trace(&self) -> &TokenTrace {
        &self.trace
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Mutex;

    use super::*;
    use crate::large_model::{Reply, Scripted};

    #[tokio::test]
    async fn what_is_sent_and_how_a_stopped_turn_is_closed() {
        let asked: Arc<Mutex<Vec<Map<String, Value>>>> = Arc::default();
        let seen = Arc::clone(&asked);
        let texts = Mutex::new(vec!["<answer>b</answer>", "<think>t</think><answer>a"]);
        let model = Scripted::new("m", move |call: &Call| {
            seen.lock().unwrap().push(call.optional_params.clone());
            let cost = 0.25;
            Ok(Reply { cost, ..Reply::text(texts.lock().unwrap().pop().unwrap()) })
        });
        let policy = RemotePolicy::new(Arc::new(model));
        let drawn = Sampling { temperature: 0.7, top_p: 1.0, top_k: None, seed: u64::MAX / 3 };
        let mut session = policy.open(PolicyOpening::new(&[], drawn)).await.unwrap();
        for expected in ["<think>t</think><answer>a</answer>", "<answer>b</answer>"] {
            let mut heard = String::new();
            let turn = session.turn(9, &mut heard).await.unwrap();
            assert_eq!((heard.as_str(), turn.cost), (expected, 0.25));
        }
        let stop = json!(["</interaction_prompt>", "</final_prompt>", "</answer>"]);
        let expected = json!({"temperature": 0.7, "max_tokens": 9, "stop": stop});
        assert_eq!(json!(asked.lock().unwrap()[0]), expected);
        let chosen = Sampling { temperature: 1.0, top_p: 0.8, seed: 5, ..drawn };
        let model = Scripted::new("m", |call: &Call| {
            Ok(Reply::text(json!(call.optional_params).to_string()))
        });
        let policy = RemotePolicy::new(Arc::new(model));
        let mut session = policy.open(PolicyOpening::new(&[], chosen)).await.unwrap();
        let mut heard = String::new();
        session.turn(9, &mut heard).await.unwrap();
        let sent: Value = serde_json::from_str(&heard).unwrap();
        assert_eq!(
            sent,
            json!({"temperature": 1.0, "top_p": 0.8, "max_tokens": 9, "stop": stop, "seed": 5})
        );
    }
}
