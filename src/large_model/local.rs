//! A large model that runs in this process, on an engine.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::unfold;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::chat::ChatMessage;
use crate::engine::{Engine, EngineError, GenerateEvent, GenerateRequest, StopReason};
use crate::hint::{Hint, Reason};
use crate::tokenization::{
    ChatTokenizer, IncrementalDecoder, TemplateMessage, TokenizeError, tokenized,
};
use crate::trajectory::TokenUsage;

use super::think_tags::{SplitPosition, SplitText, ThoughtSplitter};
use super::{Call, LargeModel, LargeModelError, Prices, Reply, ReplyChunk, ReplyStream, THOUGHTS};

mod params;

pub use params::check_local_params;
use params::{LIMITS, PARAMS, check, max_tokens, sampling};

/// Tokens of a reply at most, unless the call says otherwise: a model that finds no end would
/// write until its context is full.
const MAX_TOKENS: usize = 4_096;

/// What messages say beside their texts.
const BESIDE_TEXT: [&str; 4] = ["tool_calls", "function_call", "refusal", "audio"];

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
    /// When it does not know one of them, or one has no possible value.
    pub fn with_params(self, params: Map<String, Value>) -> Result<Self, LargeModelError> {
        for (key, value) in &params {
            check(key, value).map_err(|reason| self.rejected(reason))?;
        }
        Ok(Self { params, ..self })
    }

    fn rejected(&self, reason: impl Into<Reason>) -> LargeModelError {
        LargeModelError::Rejected { model: self.name.clone(), reason: reason.into() }
    }

    /// The fields of a call, and the model's own ones that the call does not set.
    fn params_of<'a>(&'a self, call: &'a Call) -> BTreeMap<&'a str, &'a Value> {
        let mut asked = call.fields();
        asked.retain(|_, value| !value.is_null());
        let own = call.optional_params.iter().map(|(key, value)| (key.as_str(), value));
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
        for (key, value) in call.fields().into_iter().filter(|(_, value)| !value.is_null()) {
            check(key, value).map_err(|reason| self.rejected(reason))?;
        }
        let params = self.params_of(call);
        let messages: Vec<TemplateMessage> =
            call.messages.iter().map(|message| self.read(message)).collect::<Result<_, _>>()?;
        let bytes = call.messages.iter().map(ChatMessage::text_length).sum();
        let text = Arc::clone(&self.text);
        let work = move || text.unescaped_ids(&messages);
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
            max_tokens: max_tokens(&params).unwrap_or(MAX_TOKENS).min(room),
            stream,
        });
        Ok(Writing {
            name: self.name.clone(),
            text: Arc::clone(&self.text),
            events,
            decoder: IncrementalDecoder::default(),
            written: ThoughtSplitter::at(match call.keeps_tags {
                true => SplitPosition::Closed,
                // Some templates open the thoughts themselves.
                false if !self.text.turn_prefix().is_empty() => SplitPosition::Opened,
                false => SplitPosition::Start,
            }),
            said: SplitText::default(),
            ready: VecDeque::new(),
            usage,
            is_over: false,
        })
    }

    /// A message as the chat template gets it. What this model cannot read is refused: a reply to
    /// the rest would be a reply to another question.
    fn read(&self, message: &ChatMessage) -> Result<TemplateMessage, LargeModelError> {
        let refused = |what: &str| {
            Err(self.rejected(reason!(
                "it reads texts alone, and a message has {what}";
                hint: "leave that out, or name a large model behind an endpoint that takes it"
            )))
        };
        let role = match message.role.as_str() {
            "system" | "developer" => "system",
            "user" => "user",
            "assistant" => "assistant",
            other => return refused(&format!("the role `{other}`")),
        };
        if let Some(part) = message.attachments().next() {
            let kind = part.get("type").and_then(Value::as_str).unwrap_or("null");
            return refused(&format!("a part `{kind}`"));
        }
        let is_said = |key: &&&str| match message.extra.get(**key) {
            None | Some(Value::Null) => false,
            Some(Value::Array(items)) => !items.is_empty(),
            Some(_) => true,
        };
        if let Some(key) = BESIDE_TEXT.iter().find(is_said) {
            return refused(&format!("`{key}`"));
        }
        Ok(TemplateMessage::text(role, message.as_text()))
    }
}

#[async_trait]
impl LargeModel for LocalModel {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> String {
        match self.params.is_empty() {
            true => self.identity.clone(),
            false => format!("{} {}", self.identity, Value::Object(self.params.clone())),
        }
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
    written: ThoughtSplitter,
    /// All that was said so far.
    said: SplitText,
    /// Chunks that were not returned yet.
    ready: VecDeque<ReplyChunk>,
    usage: TokenUsage,
    is_over: bool,
}

impl Writing {
    async fn next(&mut self) -> Result<ReplyChunk, LargeModelError> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                self.is_over = matches!(ready, ReplyChunk::Done(_));
                return Ok(ready);
            }
            let finish_reason = match self.events.recv().await {
                Some(GenerateEvent::Tokens(tokens)) => {
                    let mut fresh = String::new();
                    for token in tokens {
                        self.usage.completion_tokens += 1;
                        if !self.text.tokenizer.stop_ids().contains(&token.id) {
                            let text = self.decoder.push(&self.text.tokenizer, token.id);
                            fresh.push_str(&text.map_err(|error| self.stopped(error))?);
                        }
                    }
                    let said = self.written.push(&fresh);
                    self.say(said);
                    continue;
                }
                Some(GenerateEvent::Done(StopReason::StopId)) => "stop",
                Some(GenerateEvent::Done(StopReason::Length)) => "length",
                Some(GenerateEvent::Failed(error)) => return Err(self.failed(error)),
                None => return Err(self.stopped("the engine closed the request")),
            };
            let rest = self.written.finish();
            self.say(rest);
            let SplitText { thoughts, text } = std::mem::take(&mut self.said);
            let mut message = ChatMessage::text("assistant", text);
            if !thoughts.is_empty() {
                message.extra.insert(THOUGHTS[0].to_owned(), thoughts.into());
            }
            self.ready.push_back(ReplyChunk::Done(Reply {
                message,
                finish_reason: finish_reason.to_owned(),
                logprobs: None,
                usage: self.usage,
                cost: 0.0,
            }));
        }
    }

    fn say(&mut self, SplitText { thoughts, text }: SplitText) {
        self.said.thoughts.push_str(&thoughts);
        self.said.text.push_str(&text);
        let thoughts = (!thoughts.is_empty()).then_some(ReplyChunk::Thought(thoughts));
        let text = (!text.is_empty()).then_some(ReplyChunk::Text(text));
        self.ready.extend(thoughts.into_iter().chain(text));
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
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;
    use crate::tokenization::word_level::{CONVERSATION_TEMPLATE, write_word_level};
    use crate::trajectory::SampledToken;

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

    /// An engine that writes these tokens until it is cut off, and keeps what it was asked.
    struct Writes(Vec<u32>, Mutex<Vec<GenerateRequest>>);

    #[async_trait]
    impl Engine for Writes {
        fn generate(&self, request: GenerateRequest) -> mpsc::UnboundedReceiver<GenerateEvent> {
            self.1.lock().unwrap().push(request);
            let (sender, receiver) = mpsc::unbounded_channel();
            for &id in &self.0 {
                let token = SampledToken { id, log_prob: 0.0 };
                let _ = sender.send(GenerateEvent::Tokens(vec![token]));
            }
            let _ = sender.send(GenerateEvent::Done(StopReason::Length));
            receiver
        }

        fn context_length(&self) -> usize {
            100_000
        }

        async fn is_ready(&self) -> bool {
            true
        }
    }

    fn text_of(template: &str) -> Arc<ChatTokenizer> {
        let folder = tempfile::tempdir().unwrap();
        write_word_level(folder.path(), &["so Yes".to_owned()], &[], template).unwrap();
        Arc::new(ChatTokenizer::load(folder.path()).unwrap())
    }

    #[tokio::test]
    async fn thoughts_are_no_part_of_a_reply_and_text_is_read_as_it_is() {
        let plain = text_of(CONVERSATION_TEMPLATE);
        let opened = text_of(&format!("{}<think>\n", CONVERSATION_TEMPLATE.trim_end()));
        assert_eq!(opened.turn_prefix(), "<think>");
        let table = [
            (&plain, "<think>so</think>Yes", false, Some("so"), "Yes"),
            (&plain, "<think>so", false, Some("so"), ""),
            (&plain, "Yes", false, None, "Yes"),
            (&plain, "<think>so</think>Yes", true, None, "<think>so</think>Yes"),
            (&opened, "so</think>Yes", false, Some("so"), "Yes"),
        ];
        for (text, written, keeps_tags, thoughts, said) in table {
            let ids = text.tokenizer.encode_text(written).unwrap();
            let engine = Arc::new(Writes(ids, Mutex::default()));
            let model = LocalModel::new("m", engine.clone(), Arc::clone(text));
            let messages = vec![ChatMessage::text("user", "a <message> b")];
            let call = Call { messages, keeps_tags, ..Call::default() };
            let reply = model.complete(&call).await.unwrap();
            assert_eq!(
                (reply.thoughts(), &*reply.message.as_text()),
                (thoughts, said),
                "{written}"
            );
            assert_eq!(reply.finish_reason, "length");
            let (mut thought, mut streamed) = (String::new(), String::new());
            let mut stream = model.stream(&call).await.unwrap();
            while let Some(chunk) = stream.next().await {
                match chunk.unwrap() {
                    ReplyChunk::Thought(more) => thought.push_str(&more),
                    ReplyChunk::Text(more) => streamed.push_str(&more),
                    ReplyChunk::Done(done) => assert_eq!(done, reply),
                }
            }
            assert_eq!((&*thought, &*streamed), (thoughts.unwrap_or_default(), said), "{written}");
            for asked in engine.1.lock().unwrap().drain(..) {
                let read = text.tokenizer.decode(&asked.prompt).unwrap().replace(' ', "");
                assert!(read.contains("a<message>b"), "{read}");
                assert_eq!(asked.max_tokens, MAX_TOKENS);
            }
        }
    }

    #[tokio::test]
    async fn what_it_cannot_take_is_refused_by_name() {
        let model = LocalModel::new("atlas", Arc::new(Full), text_of(CONVERSATION_TEMPLATE));
        let with =
            |part: Value| json!({"role": "user", "content": [{"type": "text", "text": "q"}, part]});
        let image = json!({"type": "image_url", "image_url": {"url": "data:,x"}});
        let said = json!({"role": "assistant", "content": "a", "refusal": null, "tool_calls": []});
        let none = json!({});
        let table = [
            (with(image), none.clone(), Some("`image_url`")),
            (
                with(json!({"type": "input_audio", "input_audio": {}})),
                none.clone(),
                Some("`input_audio`"),
            ),
            (
                json!({"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}),
                none.clone(),
                Some("`tool_calls`"),
            ),
            (
                json!({"role": "tool", "content": "r", "tool_call_id": "1"}),
                none.clone(),
                Some("`tool`"),
            ),
            (said.clone(), json!({"temperature": "0.7"}), Some("`temperature`")),
            (said.clone(), json!({"tools": []}), Some("`tools`")),
            (said.clone(), json!({"temperature": null, "tools": null}), None),
            (said, none, None),
        ];
        for (message, params, named) in table {
            let first = serde_json::from_value(message.clone()).unwrap();
            let messages = vec![first, ChatMessage::text("user", "q")];
            let params = params.as_object().cloned().unwrap();
            let call = Call { messages, params, ..Call::default() };
            let error = model.complete(&call).await.unwrap_err();
            let is_rejected = matches!(error, LargeModelError::Rejected { .. });
            assert_eq!(is_rejected, named.is_some(), "{message}: {error}");
            assert!(error.to_string().contains(named.unwrap_or_default()), "{message}: {error}");
            assert_eq!(error.hint().is_some(), is_rejected, "{message}: {error}");
        }
    }

    #[test]
    fn a_call_overrides_the_fields_of_the_model() {
        let text = Arc::new(ChatTokenizer::load(Path::new("models/large-model")).unwrap());
        let fields = |value: Value| value.as_object().unwrap().clone();
        let own = fields(json!({ "temperature": 0.5, "max_completion_tokens": 64 }));
        let model = LocalModel::new("atlas", Arc::new(Full), Arc::clone(&text));
        assert_eq!(model.identity(), "atlas");
        let model = model.with_params(own).unwrap();
        assert_eq!(model.identity(), r#"atlas {"temperature":0.5,"max_completion_tokens":64}"#);
        let call = Call::default();
        let plain = model.params_of(&call);
        assert_eq!((sampling(&plain).temperature, max_tokens(&plain)), (0.5, Some(64)));
        let params = fields(json!({ "temperature": 0, "max_tokens": 8 }));
        let own = fields(json!({ "stop": ["x"] }));
        let call = Call { params, optional_params: own, ..Call::default() };
        let asked = model.params_of(&call);
        assert_eq!((sampling(&asked).temperature, max_tokens(&asked)), (0.0, Some(8)));
        assert!(!asked.contains_key("stop"), "what this program adds may be left out");

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
