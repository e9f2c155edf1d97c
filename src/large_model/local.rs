//! A large model that runs in this process, on an engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::unfold;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::chat::ChatMessage;
use crate::engine::{Engine, EngineError, GenerateEvent, GenerateRequest, Sampling, StopReason};
use crate::hint::{Hint, Reason};
use crate::protocol::Piece;
use crate::tokenization::{ChatTokenizer, IncrementalDecoder, Message, TokenizeError, tokenized};
use crate::trajectory::TokenUsage;

use super::{Call, LargeModel, LargeModelError, Prices, Reply, ReplyChunk, ReplyStream};

/// Tokens of a reply unless the call says otherwise.
const MAX_TOKENS: usize = 256;

/// Fields of a call that are understood, and those that can be ignored without changing the meaning
/// of the reply.
const PARAMS: [&str; 6] =
    ["temperature", "top_p", "seed", "max_tokens", "max_completion_tokens", "user"];

/// The names of the limit of a reply's tokens; the first counts.
const LIMITS: [&str; 2] = ["max_completion_tokens", "max_tokens"];

/// A model on an engine of this process.
pub struct LocalModel {
    name: String,
    identity: String,
    engine: Arc<dyn Engine>,
    text: Arc<ChatTokenizer>,
    params: Map<String, Value>,
}

impl LocalModel {
    /// A model named `name` with the tokenizer and chat template of `text`.
    pub fn new(name: impl Into<String>, engine: Arc<dyn Engine>, text: Arc<ChatTokenizer>) -> Self {
        let name = name.into();
        Self { identity: name.clone(), name, engine, text, params: Map::new() }
    }

    /// With another identity than its name, which says nothing about its weights.
    pub fn with_identity(self, identity: String) -> Self {
        Self { identity, ..self }
    }

    /// With fields for calls that do not set them.
    ///
    /// # Errors
    /// When it does not know one of them.
    pub fn with_params(self, params: Map<String, Value>) -> Result<Self, LargeModelError> {
        self.check_known(params.keys().map(String::as_str))?;
        Ok(Self { params, ..self })
    }

    fn rejected(&self, reason: impl Into<Reason>) -> LargeModelError {
        LargeModelError::Rejected { model: self.name.clone(), reason: reason.into() }
    }

    fn check_known<'a>(
        &self,
        mut keys: impl Iterator<Item = &'a str>,
    ) -> Result<(), LargeModelError> {
        match keys.find(|key| !PARAMS.contains(key)) {
            Some(key) => Err(self.rejected(format!("it does not know `{key}`"))),
            None => Ok(()),
        }
    }

    /// The fields of a call, and the model's own ones that the call does not set.
    fn params_of<'a>(&'a self, call: &'a Call) -> BTreeMap<&'a str, &'a Value> {
        let mut asked = call.fields();
        let own = call.own.iter().map(|(key, value)| (key.as_str(), value));
        asked.extend(own.filter(|(key, _)| PARAMS.contains(key)));
        let has_limit = LIMITS.iter().any(|key| asked.contains_key(key));
        for (key, value) in &self.params {
            if !(has_limit && LIMITS.contains(&key.as_str())) {
                asked.entry(key).or_insert(value);
            }
        }
        asked
    }

    /// Starts the generation of a reply.
    async fn start(&self, call: &Call, stream: bool) -> Result<Writing, LargeModelError> {
        self.check_known(call.fields().into_keys())?;
        let params = self.params_of(call);
        let messages: Vec<Message> = call
            .messages
            .iter()
            .map(|message| {
                let role = match message.role.as_str() {
                    "system" | "developer" => "system",
                    "user" => "user",
                    "assistant" => "assistant",
                    other => return Err(self.rejected(format!("it has no role `{other}`"))),
                };
                Ok(Message { role, content: vec![Piece::Text(message.as_text())] })
            })
            .collect::<Result<_, _>>()?;
        let bytes = call.messages.iter().map(ChatMessage::text_length).sum();
        let text = Arc::clone(&self.text);
        let work = move || text.conversation_ids(&messages);
        let prompt = tokenized(bytes, self.engine.context_length(), work).await;
        let prompt = prompt.map_err(|error| match error {
            TokenizeError::Busy => busy(&self.name),
            error => self.rejected(error.to_string()),
        })?;
        let usage = TokenUsage {
            prompt_tokens: prompt.len() as u64,
            completion_tokens: 0,
            ..TokenUsage::default()
        };
        let room = self.engine.context_length().saturating_sub(prompt.len());
        if room == 0 {
            let tokens = prompt.len();
            let context = self.engine.context_length();
            return Err(self.rejected(EngineError::PromptTooLong { tokens, context }.reason()));
        }
        let events = self.engine.generate(GenerateRequest {
            prompt,
            sampling: sampling(&params),
            stop_ids: self.text.tokenizer.stop_ids().to_vec(),
            max_tokens: max_tokens(&params).min(room),
            stream,
        });
        Ok(Writing {
            name: self.name.clone(),
            text: Arc::clone(&self.text),
            events,
            decoder: IncrementalDecoder::default(),
            written: String::new(),
            usage,
            is_over: false,
        })
    }
}

fn sampling(params: &BTreeMap<&str, &Value>) -> Sampling {
    let number =
        |key: &str| params.get(key).and_then(|value| value.as_f64()).map(|value| value as f32);
    Sampling {
        // A model of facts answers with what it considers likeliest.
        temperature: number("temperature").unwrap_or(0.0),
        top_p: number("top_p").unwrap_or(1.0),
        top_k: None,
        seed: params.get("seed").and_then(|value| value.as_i64()).unwrap_or(0) as u64,
    }
}

fn max_tokens(params: &BTreeMap<&str, &Value>) -> usize {
    LIMITS
        .iter()
        .find_map(|key| params.get(*key)?.as_u64())
        .map_or(MAX_TOKENS, |tokens| (tokens as usize).max(1))
}

#[async_trait]
impl LargeModel for LocalModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn prices(&self) -> Prices {
        Prices::default()
    }

    async fn complete(&self, call: &Call) -> Result<Reply, LargeModelError> {
        let mut writing = self.start(call, false).await?;
        loop {
            match writing.next().await? {
                ReplyChunk::Done(reply) => return Ok(reply),
                ReplyChunk::Text(_) | ReplyChunk::Thought(_) => {}
            }
        }
    }

    async fn stream(&self, call: &Call) -> Result<ReplyStream, LargeModelError> {
        let writing = self.start(call, true).await?;
        Ok(unfold(writing, |mut writing| async move {
            if writing.is_over {
                return None;
            }
            let chunk = writing.next().await;
            writing.is_over |= chunk.is_err();
            Some((chunk, writing))
        })
        .boxed())
    }
}

/// A reply in progress.
struct Writing {
    name: String,
    text: Arc<ChatTokenizer>,
    events: mpsc::UnboundedReceiver<GenerateEvent>,
    decoder: IncrementalDecoder,
    written: String,
    usage: TokenUsage,
    is_over: bool,
}

impl Writing {
    async fn next(&mut self) -> Result<ReplyChunk, LargeModelError> {
        loop {
            let event = self.events.recv().await;
            let finish_reason = match event {
                Some(GenerateEvent::Tokens(tokens)) => {
                    let mut fresh = String::new();
                    for token in tokens {
                        self.usage.completion_tokens += 1;
                        if !self.text.tokenizer.stop_ids().contains(&token.id) {
                            let text = self.decoder.push(&self.text.tokenizer, token.id);
                            fresh.push_str(&text.map_err(|error| self.stopped(error))?);
                        }
                    }
                    if self.written.is_empty() {
                        fresh = fresh.trim_start().to_owned();
                    }
                    if fresh.is_empty() {
                        continue;
                    }
                    self.written.push_str(&fresh);
                    return Ok(ReplyChunk::Text(fresh));
                }
                Some(GenerateEvent::Done(StopReason::StopId)) => "stop",
                Some(GenerateEvent::Done(StopReason::Length)) => "length",
                Some(GenerateEvent::Failed(error)) => return Err(self.failed(error)),
                None => return Err(self.stopped("the engine closed the request")),
            };
            self.is_over = true;
            return Ok(ReplyChunk::Done(Reply {
                message: ChatMessage::text("assistant", std::mem::take(&mut self.written)),
                finish_reason: finish_reason.to_owned(),
                logprobs: None,
                usage: self.usage,
                cost: 0.0,
            }));
        }
    }

    fn failed(&self, error: EngineError) -> LargeModelError {
        match error {
            EngineError::Overloaded => busy(&self.name),
            EngineError::PromptTooLong { .. } | EngineError::InvalidRequest(_) => {
                LargeModelError::Rejected { model: self.name.clone(), reason: error.reason() }
            }
            other => self.stopped(other),
        }
    }

    fn stopped(&self, reason: impl ToString) -> LargeModelError {
        LargeModelError::Local { model: self.name.clone(), reason: reason.to_string() }
    }
}

/// Overloaded is not down: the caller may try again.
fn busy(model: &str) -> LargeModelError {
    LargeModelError::Status {
        model: model.to_owned(),
        status: 429,
        message: "its queue is full".into(),
        retry_after: None,
        body: None,
        billed: None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use serde_json::json;

    use super::*;

    /// An engine that accepts no further request.
    struct Full;

    #[async_trait]
    impl Engine for Full {
        fn generate(&self, _: GenerateRequest) -> mpsc::UnboundedReceiver<GenerateEvent> {
            let (sender, receiver) = mpsc::unbounded_channel();
            let _ = sender.send(GenerateEvent::Failed(EngineError::Overloaded));
            receiver
        }

        fn context_length(&self) -> usize {
            512
        }

        async fn is_ready(&self) -> bool {
            true
        }
    }

    #[test]
    fn a_call_overrides_the_fields_of_the_model() {
        let text = Arc::new(ChatTokenizer::load(Path::new("models/large-model")).unwrap());
        let fields = |value: Value| value.as_object().unwrap().clone();
        let own = fields(json!({ "temperature": 0.5, "max_completion_tokens": 64 }));
        let model = LocalModel::new("atlas", Arc::new(Full), Arc::clone(&text));
        let model = model.with_params(own).unwrap();
        let call = Call::default();
        let plain = model.params_of(&call);
        assert_eq!((sampling(&plain).temperature, max_tokens(&plain)), (0.5, 64));
        let params = fields(json!({ "temperature": 0, "max_tokens": 8 }));
        let call = Call { params, ..Call::default() };
        let asked = model.params_of(&call);
        assert_eq!((sampling(&asked).temperature, max_tokens(&asked)), (0.0, 8));

        let unknown = fields(json!({ "top_k": 1 }));
        let error = LocalModel::new("atlas", Arc::new(Full), text).with_params(unknown).err();
        assert!(error.unwrap().to_string().contains("`top_k`"));
    }

    #[tokio::test]
    async fn a_full_queue_is_no_broken_connection() {
        let text = Arc::new(ChatTokenizer::load(Path::new("models/large-model")).unwrap());
        let model = LocalModel::new("atlas", Arc::new(Full), text);
        let call = Call { messages: vec![ChatMessage::text("user", "hello")], ..Call::default() };
        let error = model.complete(&call).await.unwrap_err();
        assert!(matches!(error, LargeModelError::Status { status: 429, .. }), "{error}");
    }

    #[tokio::test]
    async fn a_text_far_beyond_the_context_is_refused_unread() {
        let text = Arc::new(ChatTokenizer::load(Path::new("models/large-model")).unwrap());
        let model = LocalModel::new("atlas", Arc::new(Full), text);
        let long = "a ".repeat(16 * 512 / 2 + 1);
        let call = Call { messages: vec![ChatMessage::text("user", long)], ..Call::default() };
        let error = model.complete(&call).await.unwrap_err();
        assert!(matches!(error, LargeModelError::Rejected { .. }), "{error}");
        assert!(error.to_string().contains("8194 bytes"), "{error}");
    }
}
