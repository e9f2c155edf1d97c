//! Chat completions, whole and in chunks.

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::solve::SolveTurn;
use super::usage::Usage;
use super::{THOUGHTS, thoughts};
use crate::episode::{Episode, FinishReason};
use crate::http::config::ReasoningField;
use crate::http::episode::answer::Answered;
use crate::http::episode::stop_sequences::Ending;

/// A chat completion.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct Completion {
    /// The completion's id.
    pub(in crate::http) id: String,
    /// Always `chat.completion`.
    pub(in crate::http) object: &'static str,
    /// Seconds since 1970.
    pub(in crate::http) created: u64,
    /// The model that was asked for.
    pub(in crate::http) model: String,
    /// The answers.
    pub(in crate::http) choices: Vec<Choice>,
    /// What all of them used.
    pub(in crate::http) usage: Usage,
}

/// One answer.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct Choice {
    /// Its number, from 0.
    pub(in crate::http) index: usize,
    /// The assistant's message, with the policy's thoughts in `reasoning_content` (the
    /// setting `server.reasoning_field` chooses another name).
    #[schema(value_type = Object)]
    pub(in crate::http) message: Map<String, Value>,
    /// Those of the answer, where they were asked for.
    #[schema(value_type = Option<Object>)]
    pub(in crate::http) logprobs: Option<Value>,
    /// `stop`, `length`, `tool_calls`, or what else the large model says.
    pub(in crate::http) finish_reason: String,
    /// How the episode went.
    pub(in crate::http) prompt_r1: Outcome,
}

/// How an episode went.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct Outcome {
    /// Who wrote the answer: `policy` or `large_model`.
    answer_source: &'static str,
    /// Why the episode ended: `answered`, `turn_limit`, `token_limit`, `deadline`, `budget` or
    /// `malformed`.
    finish_reason: &'static str,
    /// Every turn, where `trace` asked for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    turns: Option<Vec<SolveTurn>>,
}

impl Outcome {
    pub(in crate::http) fn new(episode: &Episode, with_turns: bool) -> Self {
        let turns = || episode.trajectory.turns.iter().cloned().map(SolveTurn::from).collect();
        Self {
            answer_source: episode.answer_source.as_str(),
            finish_reason: episode.finish_reason.as_str(),
            turns: with_turns.then(turns),
        }
    }
}

/// The assistant's message: `content` is the truncated text of the answer.
pub(in crate::http) fn message(
    episode: &Episode,
    content: String,
    field: ReasoningField,
) -> Map<String, Value> {
    let mut message = Map::new();
    message.insert("role".to_owned(), json!("assistant"));
    let reply = episode.reply.as_ref();
    let is_bare = reply.is_some_and(|reply| reply.message.content.is_null());
    message.insert("content".to_owned(), if is_bare { Value::Null } else { json!(content) });
    message.insert("refusal".to_owned(), Value::Null);
    message.extend(beside_text(episode));
    if let Some(thoughts) = thoughts(episode) {
        for name in field.names() {
            message.insert((*name).to_owned(), json!(thoughts));
        }
    }
    message
}

/// Fields of a reply besides its text and thoughts.
fn beside_text(episode: &Episode) -> Map<String, Value> {
    let extra = episode.reply.as_ref().map(|reply| reply.message.extra.clone());
    let mut extra = extra.unwrap_or_default();
    extra.retain(|key, _| !THOUGHTS.contains(&key.as_str()));
    extra
}

/// The finish reason.
pub(in crate::http) fn finish_reason(answered: &Answered) -> String {
    let episode = &answered.episode;
    let reason = match (&answered.ending, &episode.reply) {
        (Some(Ending::Stop(_)), _) => "stop",
        (Some(Ending::Length), _) => "length",
        (None, Some(reply)) => &reply.finish_reason,
        (None, None) if episode.is_cut_off() => "length",
        (None, None) if episode.finish_reason == FinishReason::TokenLimit => "length",
        (None, None) => "stop",
    };
    reason.to_owned()
}

/// What all chunks of a stream have in common.
#[derive(Debug, Clone)]
pub(in crate::http) struct ChunkHead {
    pub(in crate::http) id: String,
    pub(in crate::http) created: u64,
    pub(in crate::http) model: String,
    /// Whether the usage is reported at the end; `usage` is null until then.
    pub(in crate::http) include_usage: bool,
    /// The field with the thoughts.
    pub(in crate::http) reasoning_field: ReasoningField,
}

/// A chunk of a completion.
#[derive(Serialize)]
pub(in crate::http) struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChunkChoice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

/// More of one answer.
#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: usize,
    delta: Delta<'a>,
    logprobs: Option<&'a Value>,
    finish_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_r1: Option<Outcome>,
}

/// What is added to an answer.
#[derive(Default, Serialize)]
pub(in crate::http) struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    #[serde(flatten)]
    pub(in crate::http) more: Map<String, Value>,
}

impl<'a> Delta<'a> {
    /// The first chunk of an answer.
    pub(in crate::http) fn opening() -> Self {
        Self { role: Some("assistant"), content: Some(""), ..Self::default() }
    }

    pub(in crate::http) fn content(text: &'a str) -> Self {
        Self { content: Some(text), ..Self::default() }
    }

    pub(in crate::http) fn thought(text: &'a str, field: ReasoningField) -> Self {
        let under = |name| field.names().contains(&name).then_some(text);
        Self {
            reasoning_content: under("reasoning_content"),
            reasoning: under("reasoning"),
            ..Self::default()
        }
    }

    /// Fields of a reply besides its text: tool calls, numbered as in chunks, and others.
    pub(in crate::http) fn beside_text(episode: &Episode) -> Option<Self> {
        let mut more = beside_text(episode);
        more.retain(|_, value| !value.is_null());
        if let Some(Value::Array(calls)) = more.get_mut("tool_calls") {
            for (index, call) in calls.iter_mut().enumerate() {
                if let Value::Object(call) = call {
                    call.insert("index".to_owned(), json!(index));
                }
            }
        }
        (!more.is_empty()).then(|| Self { more, ..Self::default() })
    }
}

impl<'a> Chunk<'a> {
    fn new(head: &'a ChunkHead, choices: Vec<ChunkChoice<'a>>) -> Self {
        Self {
            id: &head.id,
            object: "chat.completion.chunk",
            created: head.created,
            model: &head.model,
            choices,
            usage: head.include_usage.then_some(None),
        }
    }

    /// More of an answer.
    pub(in crate::http) fn delta(head: &'a ChunkHead, index: usize, delta: Delta<'a>) -> Self {
        let (logprobs, finish_reason, prompt_r1) = (None, None, None);
        Self::new(head, vec![ChunkChoice { index, delta, logprobs, finish_reason, prompt_r1 }])
    }

    /// The end of an answer.
    pub(in crate::http) fn end(
        head: &'a ChunkHead,
        index: usize,
        reason: String,
        logprobs: Option<&'a Value>,
        outcome: Outcome,
    ) -> Self {
        let choice = ChunkChoice {
            index,
            delta: Delta::default(),
            logprobs,
            finish_reason: Some(reason),
            prompt_r1: Some(outcome),
        };
        Self::new(head, vec![choice])
    }

    /// The usage, after all answers.
    pub(in crate::http) fn usage(head: &'a ChunkHead, usage: Usage) -> Self {
        Self { usage: Some(Some(usage)), ..Self::new(head, Vec::new()) }
    }
}
