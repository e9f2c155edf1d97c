//! The port to a large model, and its decorators.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use serde_json::{Map, Value};

use crate::chat::ChatMessage;
use crate::trajectory::TokenUsage;

mod cache;
mod call_usage;
mod choice;
mod endpoint;
mod error;
mod fallback;
mod local;
mod outcome;
mod pace;
mod prices;
mod registry;
mod replies;
mod scripted;
mod think_tags;
mod unseen;
mod usage;
mod waiting;

pub use cache::{CacheError, CachedModel};
pub use call_usage::{CallUsage, FailedCalls, estimated_tokens};
pub use choice::LargeModelChoice;
pub use endpoint::{
    BreakerConfig, Endpoint, EndpointSetup, ForwardBody, ForwardRequest, LargeModelConfig,
    LargeModelConfigError, PassedUsage, UsageRequested,
};
pub use error::{LargeModelError, Phase, UnknownModel, is_gateway_timeout};
pub use fallback::WithFallbacks;
pub use local::{LocalModel, check_local_params};
pub use outcome::{AttemptObserver, AttemptOutcome};
pub use prices::Prices;
pub use registry::{LargeModels, check_model_names};
pub use scripted::Scripted;
pub use unseen::UnseenUsage;
pub use usage::reported_usage;
pub use waiting::Waiting;

/// One call of a large model.
#[derive(Debug, Clone, Default)]
pub struct Call {
    /// The conversation; the last message is the one to reply to.
    pub messages: Vec<ChatMessage>,
    /// Further fields of the Chat Completions request, sent unchanged: `temperature`, `max_tokens`,
    /// `seed`, `tools`, `response_format`… They override the endpoint's defaults; `model` selects
    /// another of the endpoint's models.
    pub params: Map<String, Value>,
    /// The same for fields that several calls share, as they may be large. Later ones win over
    /// earlier ones, and `params` over all.
    pub shared_params: Vec<Arc<Map<String, Value>>>,
    /// Fields that the caller did not ask for, such as the limit of a policy's turn. They override
    /// `params`, and are left out if the model refuses them.
    pub optional_params: Map<String, Value>,
    /// Whether the thoughts before its reply are wanted as they come. A stream that has begun with
    /// them is not begun again.
    pub with_thoughts: bool,
    /// Whether thoughts in tags stay in the text: a policy writes its turns with such tags.
    pub keeps_tags: bool,
    /// The caller's deadline: retries and waits end before it.
    pub deadline: Option<Instant>,
    /// The caller's own `Authorization` header, used where the endpoint has no key of its own.
    pub authorization: Option<secrecy::SecretString>,
    /// Whose call it is: its failures affect others less. 0 where callers are not known apart.
    pub caller: u64,
    /// Receives the usage of failed calls that the caller does not see, because a fallback model
    /// replied.
    pub failed_calls: FailedCalls,
    /// Takes what it uses beside the text that is handed on as it comes.
    pub unseen: UnseenUsage,
    /// Whether the caller can use a reply: others are returned, but neither cached nor taken from a
    /// cache. Without it every reply is usable.
    pub is_usable: Option<fn(&Reply) -> bool>,
    /// Whether it waits to be sent.
    pub waiting: Waiting,
}

impl Call {
    /// Its fields, each once.
    pub fn fields(&self) -> BTreeMap<&str, &Value> {
        let shared = self.shared_params.iter().flat_map(|fields| fields.iter());
        shared.chain(&self.params).map(|(key, value)| (key.as_str(), value)).collect()
    }

    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Value> {
        let shared = || self.shared_params.iter().rev().find_map(|fields| fields.get(name));
        self.params.get(name).or_else(shared)
    }

    /// Whether the caller can use this reply.
    fn can_use(&self, reply: &Reply) -> bool {
        self.is_usable.is_none_or(|is_usable| is_usable(reply))
    }

    /// Takes a field out.
    fn remove(&mut self, name: &str) {
        self.params.shift_remove(name);
        for fields in self.shared_params.iter_mut().filter(|fields| fields.contains_key(name)) {
            Arc::make_mut(fields).shift_remove(name);
        }
    }
}

/// The fields of messages that contain thoughts.
pub const THOUGHTS: [&str; 2] = ["reasoning_content", "reasoning"];

/// What a large model replied.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The whole assistant message, including tool calls and unknown fields.
    pub message: ChatMessage,
    /// The upstream's `finish_reason`, such as `stop` or `length`.
    pub finish_reason: String,
    /// The log-probabilities of its tokens, if they were requested and the endpoint returns them.
    pub logprobs: Option<Value>,
    /// The usage: as the endpoint reports it, otherwise by the length of its texts. Zero for a
    /// cached reply.
    pub usage: TokenUsage,
    /// Its cost, in the operator's currency. Set by the model that answers, which alone knows its
    /// price.
    pub cost: f64,
}

impl Reply {
    /// A reply of plain text without usage.
    pub fn text(content: impl Into<String>) -> Self {
        Self {
            message: ChatMessage::text("assistant", content),
            finish_reason: "stop".to_owned(),
            logprobs: None,
            usage: TokenUsage::default(),
            cost: 0.0,
        }
    }

    /// Whether it ended before it was complete: at its token limit, or by a content filter.
    pub fn is_cut_off(&self) -> bool {
        matches!(self.finish_reason.as_str(), "length" | "content_filter")
    }

    /// What it thought before.
    pub fn thoughts(&self) -> Option<&str> {
        let said = |key: &&str| self.message.extra.get(*key)?.as_str();
        THOUGHTS.iter().filter_map(said).find(|said| !said.is_empty())
    }
}

/// A piece of a streamed reply.
#[allow(
    clippy::large_enum_variant,
    reason = "a piece is moved a few times, and a box is an allocation"
)]
#[derive(Debug, Clone, PartialEq)]
pub enum ReplyChunk {
    /// More of what is thought before the reply.
    Thought(String),
    /// More text of the reply.
    Text(String),
    /// The reply is complete; the last chunk of every stream that does not fail.
    Done(Reply),
}

/// A live reply. Dropping it cancels the call upstream. A failure is the last item.
pub type ReplyStream = BoxStream<'static, Result<ReplyChunk, LargeModelError>>;

/// A stream of a reply that is already complete.
pub fn reply_stream(reply: Reply) -> ReplyStream {
    let thoughts = reply.thoughts().map(|thoughts| ReplyChunk::Thought(thoughts.to_owned()));
    let text = reply.message.as_text();
    let text = (!text.is_empty()).then_some(ReplyChunk::Text(text));
    let chunks = thoughts.into_iter().chain(text).chain([ReplyChunk::Done(reply)]);
    futures::stream::iter(chunks.map(Ok)).boxed()
}

/// A model that replies to conversations: behind an endpoint, or in this process.
#[async_trait]
pub trait LargeModel: Send + Sync {
    /// The model's id, for replies and metrics.
    fn name(&self) -> &str;

    /// What its replies depend on besides the call: two models of one identity are interchangeable.
    /// Its name, unless that is too ambiguous.
    fn identity(&self) -> String {
        self.name().to_owned()
    }

    /// Its prices; zero if unknown.
    fn prices(&self) -> Prices;

    /// The prices of another model of its endpoint, by that model's id; its own if there is none.
    /// `None` if the price is unknown.
    fn prices_of(&self, _model: Option<&str>) -> Option<Prices> {
        Some(self.prices())
    }

    /// What every reply of it costs; `None` if some may cost something else, as those of fallbacks
    /// and of other models of its endpoint do.
    fn only_prices(&self) -> Option<Prices> {
        Some(self.prices())
    }

    /// Whether the price of a call of that model is known, including the prices of the models that
    /// may reply in its place.
    fn is_priced(&self, model: Option<&str>) -> bool {
        self.prices_of(model).is_some()
    }

    /// The reply to `call`, whole.
    async fn complete(&self, call: &Call) -> Result<Reply, LargeModelError>;

    /// The reply to `call`, as it is written.
    async fn stream(&self, call: &Call) -> Result<ReplyStream, LargeModelError>;
}
