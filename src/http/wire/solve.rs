//! `POST /v1/solve` on the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::options::Options;
use super::question::{Asked, Message};
use crate::chat::ChatMessage;
use crate::episode::{Episode, RoleUsage};
use crate::http::error::ApiError;
use crate::trajectory::{Action, Turn, TurnFinish};

/// A question to answer.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "question": "Which currency is used where the author of Hamlet was born?", "trace": true}))]
pub(in crate::http) struct SolveRequest {
    /// The question. Either this or `messages`.
    #[schema(example = "Which currency is used where the author of Hamlet was born?")]
    question: Option<String>,
    /// A conversation that ends with the question.
    #[schema(value_type = Option<Vec<Message>>)]
    messages: Option<Vec<ChatMessage>>,
    /// Whether to send events as they happen. Default: false.
    stream: Option<bool>,
    /// The large model to ask, by its configured name. Default: the server's.
    large_model: Option<String>,
    /// The policy that asks, by its name; the header `x-prompt-r1-policy` does the same. Default:
    /// the server's choice.
    policy: Option<String>,
    /// Same request, same seed, same course. Default: a new one each time.
    seed: Option<i64>,
    /// How freely the policy samples, from 0 (greedy) to 2. Default: the server's.
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    /// Turns of the policy, at most the server's limit, which is the default.
    #[schema(minimum = 1)]
    max_turns: Option<u64>,
    /// Tokens that the policy may write in all, at most the server's limit, which is the default.
    #[schema(minimum = 1)]
    max_tokens: Option<u64>,
    /// Milliseconds until the best answer so far is given, at most the server's limit, which is the
    /// default.
    #[schema(minimum = 1)]
    deadline_ms: Option<u64>,
    /// Money, in the currency of the configured prices, after which no further turn begins.
    #[schema(exclusive_minimum = 0)]
    max_cost: Option<f64>,
    /// Whether the reply shows every turn. Default: false.
    trace: Option<bool>,
}

impl SolveRequest {
    /// Whether events are asked for, the question, and how to run the episode.
    pub(in crate::http) fn split(self) -> Result<(bool, Asked, Options), ApiError> {
        let asked = match (self.question, self.messages) {
            (Some(question), None) => Asked::bare(question)?,
            (None, Some(messages)) => Asked::of(messages)?,
            (None, None) => {
                let error = ApiError::bad_request("missing_field", "`question` is missing");
                return Err(error.with_param("question"));
            }
            (Some(_), Some(_)) => {
                let message = "`messages` cannot be sent beside `question`";
                return Err(ApiError::invalid("messages", message));
            }
        };
        let options = Options {
            large_model: self.large_model,
            policy: self.policy,
            seed: self.seed,
            temperature: self.temperature,
            max_turns: self.max_turns,
            max_tokens: self.max_tokens,
            deadline_ms: self.deadline_ms,
            max_cost: self.max_cost,
            trace: self.trace,
        };
        Ok((self.stream.unwrap_or(false), asked, options))
    }
}

/// What one model used.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(in crate::http) struct ModelUsage {
    /// Turns written, or calls made.
    pub(in crate::http) calls: u64,
    /// Tokens read.
    pub(in crate::http) prompt_tokens: u64,
    /// Tokens written.
    pub(in crate::http) completion_tokens: u64,
    /// In the currency of the configured prices.
    pub(in crate::http) cost: f64,
}

impl From<RoleUsage> for ModelUsage {
    fn from(usage: RoleUsage) -> Self {
        Self {
            calls: usage.calls,
            prompt_tokens: usage.tokens.prompt_tokens,
            completion_tokens: usage.tokens.completion_tokens,
            cost: usage.cost,
        }
    }
}

/// What both models used.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(in crate::http) struct SolveUsage {
    /// The small model that thinks and asks.
    pub(in crate::http) policy: ModelUsage,
    /// The model that it asks.
    pub(in crate::http) large_model: ModelUsage,
}

/// A turn of the policy.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct SolveTurn {
    /// What it thought.
    think: Option<String>,
    /// What it asked the large model.
    #[serde(skip_serializing_if = "Option::is_none")]
    interaction_prompt: Option<String>,
    /// Whether the reply was to be the answer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_final_prompt: bool,
    /// What the large model replied, in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    interaction_response: Option<String>,
    /// What it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
    /// What it wrote, where that was neither a prompt nor an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    malformed: Option<String>,
    /// Whether the policy was shown only the head of the reply.
    truncated: bool,
    /// Whether the prompt was answered from the record, as it was sent before.
    repeated: bool,
    /// Whether its token limit cut the turn off.
    cut_off: bool,
    /// Tokens that the policy wrote.
    tokens: usize,
    /// Tokens that the large model read and wrote.
    large_model_tokens: u64,
    /// Milliseconds that the policy took.
    millis: u64,
    /// Milliseconds that the large model took.
    large_model_millis: u64,
}

impl From<Turn> for SolveTurn {
    fn from(turn: Turn) -> Self {
        let is_final_prompt = matches!(turn.action, Action::FinalPrompt(_));
        let (interaction_prompt, answer, malformed) = match turn.action {
            Action::Prompt(prompt) | Action::FinalPrompt(prompt) => (Some(prompt), None, None),
            Action::Answer(answer) => (None, Some(answer), None),
            Action::Nothing => (None, None, Some(turn.text)),
        };
        let seen = turn.observation;
        let usage = seen.as_ref().map(|seen| seen.usage).unwrap_or_default();
        Self {
            think: turn.think,
            interaction_prompt,
            is_final_prompt,
            answer,
            malformed,
            truncated: seen.as_ref().is_some_and(|seen| seen.truncated),
            repeated: seen.as_ref().is_some_and(|seen| seen.repeated),
            cut_off: turn.finish == TurnFinish::Length,
            tokens: turn.tokens,
            large_model_tokens: usage.prompt_tokens + usage.completion_tokens,
            millis: turn.millis,
            large_model_millis: seen.as_ref().map_or(0, |seen| seen.millis),
            interaction_response: seen.map(|seen| seen.reply),
        }
    }
}

/// An answered question.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct SolveReply {
    /// The reply's id.
    pub(in crate::http) id: String,
    /// Always `solve`.
    pub(in crate::http) object: &'static str,
    /// Seconds since 1970.
    pub(in crate::http) created: u64,
    /// The policy's name.
    pub(in crate::http) policy: String,
    /// The large model's name.
    pub(in crate::http) large_model: String,
    /// The answer.
    pub(in crate::http) answer: String,
    /// Whose words it is: `policy` or `large_model`.
    #[schema(example = "policy")]
    pub(in crate::http) answer_source: &'static str,
    /// Why the episode ended: `answered`, `turn_limit`, `token_limit`, `deadline`, `budget` or
    /// `malformed`.
    #[schema(example = "answered")]
    pub(in crate::http) finish_reason: &'static str,
    /// What both models used.
    pub(in crate::http) usage: SolveUsage,
    /// Every turn, where `trace` asked for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) turns: Option<Vec<SolveTurn>>,
}

/// Who answered, for replies.
#[derive(Debug, Clone)]
pub(in crate::http) struct Head {
    pub(in crate::http) id: String,
    pub(in crate::http) created: u64,
    pub(in crate::http) policy: String,
    pub(in crate::http) large_model: String,
}

impl SolveReply {
    pub(in crate::http) fn new(head: Head, episode: Episode, with_turns: bool) -> Self {
        let Head { id, created, policy, large_model } = head;
        let turns = episode.trajectory.turns;
        Self {
            id,
            object: "solve",
            created,
            policy,
            large_model,
            answer: episode.answer,
            answer_source: episode.answer_source.as_str(),
            finish_reason: episode.finish_reason.as_str(),
            usage: SolveUsage {
                policy: episode.usage.policy.into(),
                large_model: episode.usage.large_model.into(),
            },
            turns: with_turns.then(|| turns.into_iter().map(SolveTurn::from).collect()),
        }
    }
}
