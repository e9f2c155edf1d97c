//! Recorded episodes on the wire.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::question::Message;
use super::solve::{Head, PolicyToken, ReplyDetails, SolveReply, SolveUsage, WrittenTurn};
use crate::chat::ChatMessage;
use crate::episode::FinishReason;
use crate::http::error::{ApiError, head};
use crate::policy::DIRECT;
use crate::record::{Filter, ListedEpisode, Page, Record};

/// Episodes of a page by default.
const LIMIT: u64 = 20;
/// Episodes of a page at most.
const MAX_PAGE: u64 = 100;
/// Bytes of a question or an answer that a list shows.
const MAX_SHOWN_BYTES: usize = 500;

/// A filter, and the start of the page.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct EpisodeQuery {
    /// The policy's name.
    policy: Option<String>,
    /// The large model's name.
    large_model: Option<String>,
    /// Why the episode ended: `answered`, `turn_limit`, `token_limit`, `deadline`, `budget` or
    /// `malformed`.
    #[param(value_type = Option<String>)]
    finish_reason: Option<FinishReason>,
    /// Seconds since 1970 at or after which it ended.
    since: Option<u64>,
    /// Seconds since 1970 before which it ended.
    until: Option<u64>,
    /// Text that its question or answer contains, ignoring case.
    text: Option<String>,
    /// Episodes of the page, at most 100. Default: 20.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u64>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

impl EpisodeQuery {
    /// The filter, the length of the page, and where it begins. With a `caller`, only episodes that
    /// its key asked for.
    pub(in crate::http) fn split(
        self,
        caller: Option<String>,
    ) -> Result<(Filter, usize, Option<String>), ApiError> {
        let limit = self.limit.unwrap_or(LIMIT);
        if !(1..=MAX_PAGE).contains(&limit) {
            let message = format!("`limit` = {limit} is not between 1 and {MAX_PAGE}");
            return Err(ApiError::invalid("limit", message));
        }
        let filter = Filter {
            caller,
            policy: self.policy,
            large_model: self.large_model,
            finish_reason: self.finish_reason,
            since: self.since,
            until: self.until,
            text: self.text,
        };
        Ok((filter, limit as usize, self.cursor))
    }
}

/// A page of recorded episodes.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct EpisodeList {
    /// Always `list`.
    object: &'static str,
    /// The episodes, newest first. The search for a page is bounded: there may be fewer than
    /// `limit`, or none, before the end.
    data: Vec<EpisodeSummary>,
    /// The `cursor` of the next page; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A recorded episode in a list.
#[derive(Debug, Serialize, ToSchema)]
struct EpisodeSummary {
    /// Its id: `/v1/episodes/{id}` has the rest.
    id: String,
    /// Always `episode`.
    object: &'static str,
    /// The id of the reply that it was part of.
    reply_id: String,
    /// Seconds since 1970.
    created: u64,
    /// The id of the key that asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<String>,
    /// The policy's name.
    policy: String,
    /// The large model's name.
    large_model: String,
    /// Why the episode ended.
    #[schema(example = "answered")]
    finish_reason: &'static str,
    /// The question, or its first 500 bytes.
    question: String,
    /// The answer, or its first 500 bytes.
    answer: String,
    /// Turns of the policy.
    turns: usize,
    /// What both models used.
    usage: SolveUsage,
}

impl From<Page> for EpisodeList {
    fn from(page: Page) -> Self {
        let data = page.episodes.into_iter().map(EpisodeSummary::from).collect();
        Self { object: "list", data, next_cursor: page.next }
    }
}

impl From<(String, ListedEpisode)> for EpisodeSummary {
    fn from((id, episode): (String, ListedEpisode)) -> Self {
        Self {
            id,
            object: "episode",
            created: episode.created,
            turns: episode.turns(),
            finish_reason: episode.finish_reason.as_str(),
            question: head(&episode.question, MAX_SHOWN_BYTES),
            answer: head(&episode.answer, MAX_SHOWN_BYTES),
            usage: episode.usage.into(),
            reply_id: episode.reply_id,
            caller: episode.caller,
            policy: episode.policy,
            large_model: episode.large_model,
        }
    }
}

/// A recorded episode.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct RecordedEpisode {
    /// Its id.
    id: String,
    /// Always `episode`.
    object: &'static str,
    /// The id of the key that asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<String>,
    /// A request to `/v1/solve` for the same, as far as that has fields for it.
    request: RecordedRequest,
    /// What `/v1/solve` replies to it with `trace` and `tokens`.
    reply: SolveReply,
}

/// The request, in the form of `/v1/solve`. Left out are the limits of the episode, and what
/// `/v1/solve` has no field for, such as `tools`, `response_format` and `top_p` of a chat request.
#[derive(Debug, Serialize, ToSchema)]
struct RecordedRequest {
    /// The question, if it was a text without a conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    question: Option<String>,
    /// Otherwise the conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Message>>)]
    messages: Option<Vec<ChatMessage>>,
    /// The turns that the caller wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    turns: Option<Vec<WrittenTurn>>,
    /// The policy's name.
    policy: String,
    /// The large model's name.
    large_model: String,
    /// The seed that was used; that of the large model with the policy `direct`, if it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    /// The temperature of the policy; that of the large model with the policy `direct`, if the
    /// request gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
}

impl RecordedEpisode {
    /// The record of this `id`, with its policy's tokens.
    pub(in crate::http) fn new(id: String, record: Record, tokens: Vec<PolicyToken>) -> Self {
        let turns = record.episode.trajectory.turns.iter();
        let turns: Vec<_> = turns.filter_map(WrittenTurn::given).collect();
        let (seed, temperature) = sampling(&record);
        let mut messages = record.conversation;
        let is_bare = record.attachments.is_empty() && record.message.is_none();
        let (question, messages) = if messages.is_empty() && is_bare {
            (Some(record.question), None)
        } else {
            if !record.is_continued {
                messages.push(asked(record.question, record.message, record.attachments));
            }
            (None, Some(messages))
        };
        let request = RecordedRequest {
            question,
            messages,
            turns: (!turns.is_empty()).then_some(turns),
            policy: record.policy.clone(),
            large_model: record.large_model.clone(),
            seed,
            temperature,
        };
        let reply = Head {
            id: record.id,
            created: record.created,
            policy: record.policy,
            large_model: record.large_model,
        };
        let shown = ReplyDetails { turns: true, tokens: Some(tokens) };
        let reply = SolveReply::new(reply, record.episode, shown);
        Self { id, object: "episode", caller: record.caller, request, reply }
    }
}

/// The seed and the temperature of the policy, or of the large model where that answered alone.
fn sampling(record: &Record) -> (Option<i64>, Option<f32>) {
    if record.policy != DIRECT {
        let used = &record.sampling;
        return (Some(used.seed.cast_signed()), Some(used.temperature));
    }
    let given = |name: &str| record.large_model_sampling.get(name);
    let temperature = given("temperature").and_then(Value::as_f64);
    (given("seed").and_then(Value::as_i64), temperature.map(|value| value as f32))
}

/// The message that was the question.
fn asked(question: String, message: Option<ChatMessage>, attachments: Vec<Value>) -> ChatMessage {
    if let Some(mut message) = message {
        message.put_attachments(&attachments);
        return message;
    }
    if attachments.is_empty() {
        return ChatMessage::text("user", question);
    }
    // Older records do not have the message.
    let mut parts = vec![json!({"type": "text", "text": question})];
    parts.extend(attachments);
    ChatMessage { content: Value::Array(parts), ..ChatMessage::text("user", "") }
}
