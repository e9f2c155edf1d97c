//! Chat completions, whole and in chunks.

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::solve::{ModelUsage, SolveTurn};
use crate::episode::{Episode, EpisodeUsage, FinishReason};
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
    /// The assistant's message, with the policy's thoughts in `reasoning_content` and `reasoning`.
    #[schema(value_type = Object)]
    pub(in crate::http) message: Map<String, Value>,
    /// Always null.
    pub(in crate::http) logprobs: Option<()>,
    /// `stop`, `length`, `tool_calls`, or what else the large model says.
    pub(in crate::http) finish_reason: String,
    /// How the episode went.
    pub(in crate::http) prompt_r1: Outcome,
}

/// How an episode went.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct Outcome {
    /// Whose words the answer is: `policy` or `large_model`.
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

/// What a request was billed: by the large model in OpenAI's fields, by both in `prompt_r1`.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(in crate::http) struct Usage {
    /// Tokens that the large model read, over all its calls.
    prompt_tokens: u64,
    /// Tokens that the large model wrote, over all its calls.
    completion_tokens: u64,
    /// Their sum.
    total_tokens: u64,
    /// Both models, apart.
    prompt_r1: Shares,
}

/// What each model used.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(in crate::http) struct Shares {
    /// Turns of the policy.
    turns: usize,
    /// The small model that thinks and asks.
    policy: ModelUsage,
    /// The model that it asks.
    large_model: ModelUsage,
}

/// Adds up what episodes used.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::http) struct Sum {
    pub(in crate::http) turns: usize,
    usage: EpisodeUsage,
}

impl Sum {
    pub(in crate::http) fn add(&mut self, episode: &Episode) {
        self.turns += episode.trajectory.turns.len();
        let roles = [
            (&mut self.usage.policy, episode.usage.policy),
            (&mut self.usage.large_model, episode.usage.large_model),
        ];
        for (sum, used) in roles {
            sum.calls += used.calls;
            sum.tokens += used.tokens;
            sum.cost += used.cost;
        }
    }

    pub(in crate::http) fn usage(self) -> Usage {
        let billed = self.usage.large_model.tokens;
        Usage {
            prompt_tokens: billed.prompt_tokens,
            completion_tokens: billed.completion_tokens,
            total_tokens: billed.prompt_tokens + billed.completion_tokens,
            prompt_r1: Shares {
                turns: self.turns,
                policy: self.usage.policy.into(),
                large_model: self.usage.large_model.into(),
            },
        }
    }
}

/// The assistant's message: `content` is the answer's text as it was trimmed.
pub(in crate::http) fn message(episode: &Episode, content: String) -> Map<String, Value> {
    let mut message = Map::new();
    message.insert("role".to_owned(), json!("assistant"));
    let reply = episode.reply.as_ref();
    let is_bare = reply.is_some_and(|reply| reply.message.content.is_null());
    message.insert("content".to_owned(), if is_bare { Value::Null } else { json!(content) });
    message.insert("refusal".to_owned(), Value::Null);
    for (key, value) in reply.into_iter().flat_map(|reply| &reply.message.extra) {
        message.insert(key.clone(), value.clone());
    }
    let thoughts: Vec<_> =
        episode.trajectory.turns.iter().filter_map(|turn| turn.think.as_deref()).collect();
    if !thoughts.is_empty() {
        let thoughts = json!(thoughts.join("\n\n"));
        message.insert("reasoning_content".to_owned(), thoughts.clone());
        message.insert("reasoning".to_owned(), thoughts);
    }
    message
}

/// Why the answer ends where it does.
pub(in crate::http) fn finish_reason(episode: &Episode, ending: Option<Ending>) -> String {
    let reason = match (ending, &episode.reply) {
        (Some(Ending::Stop), _) => "stop",
        (Some(Ending::Length), _) => "length",
        (None, Some(reply)) => &reply.finish_reason,
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
    /// Whether the usage is told at the end; `usage` is null until then.
    pub(in crate::http) include_usage: bool,
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
    logprobs: Option<()>,
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

    pub(in crate::http) fn thought(text: &'a str) -> Self {
        Self { reasoning_content: Some(text), reasoning: Some(text), ..Self::default() }
    }

    /// What a reply has beside its text: calls of tools, numbered as chunks have them, and others.
    pub(in crate::http) fn beside_text(episode: &Episode) -> Option<Self> {
        let mut more = episode.reply.as_ref()?.message.extra.clone();
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
        outcome: Outcome,
    ) -> Self {
        let choice = ChunkChoice {
            index,
            delta: Delta::default(),
            logprobs: None,
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
