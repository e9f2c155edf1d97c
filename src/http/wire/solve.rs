//! `POST /v1/solve` on the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::options::Options;
use super::question::{ConversationQuestion, Message};
use crate::chat::ChatMessage;
use crate::episode::{Episode, EpisodeUsage, GivenTurn};
use crate::http::error::ApiError;
use crate::large_model::CallUsage;
use crate::trajectory::{Action, TokenTrace, Turn, TurnFinish};

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
    /// The first turns of the episode, written by the caller: the policy continues after them as if
    /// they were its own. They count towards `max_turns`, and at least one turn must remain.
    turns: Option<Vec<WrittenTurn>>,
    /// Whether to send events as they happen. Default: false.
    stream: Option<bool>,
    /// The large model to ask, by its configured name. Default: the server's.
    large_model: Option<String>,
    /// The policy that asks, by its name, or `direct` for none; the header `x-prompt-r1-policy`
    /// does the same. Default: the server's choice.
    policy: Option<String>,
    /// The same request with the same seed gives the same episode. Default: a new seed each time.
    /// With the policy `direct`, it is the large model's, which has none by default.
    seed: Option<i64>,
    /// How freely the policy samples, from 0 (greedy) to 2; with the policy `direct`, the large
    /// model. Default: the server's, or the large model's own.
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
    /// Whether the reply shows the policy's tokens, with their probabilities. Default: false.
    tokens: Option<bool>,
}

/// A turn that the caller writes in the policy's place.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct WrittenTurn {
    /// The thought of the turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    think: Option<String>,
    /// Its prompt for the large model; `<question/>` and `<reply N/>` stand for the question and
    /// for the reply of turn N, as in the policy's own prompts.
    #[schema(example = "Who wrote Hamlet?")]
    interaction_prompt: String,
    /// The large model's reply. Without it, the large model is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    interaction_response: Option<String>,
}

impl WrittenTurn {
    /// A turn that the caller wrote; `None` for the policy's own.
    pub(in crate::http) fn given(turn: &Turn) -> Option<Self> {
        let prompt = match &turn.action {
            Action::Prompt(prompt) | Action::FinalPrompt(prompt) if turn.is_given => prompt,
            _ => return None,
        };
        Some(Self {
            think: turn.think.clone(),
            interaction_prompt: prompt.clone(),
            interaction_response: turn.observation.as_ref().map(|seen| seen.reply.clone()),
        })
    }
}

/// What a request asks for, in parts.
pub(in crate::http) struct SolveParts {
    pub(in crate::http) is_stream: bool,
    pub(in crate::http) with_tokens: bool,
    pub(in crate::http) asked: ConversationQuestion,
    pub(in crate::http) turns: Vec<GivenTurn>,
    pub(in crate::http) options: Options,
}

impl SolveRequest {
    /// The parts of the request.
    pub(in crate::http) fn split(self) -> Result<SolveParts, ApiError> {
        let turns = self.turns.unwrap_or_default();
        if let Some(empty) = turns.iter().position(|turn| turn.interaction_prompt.trim().is_empty())
        {
            let param = format!("turns[{empty}].interaction_prompt");
            return Err(ApiError::invalid(&param, format!("`{param}` is empty")));
        }
        let turns = turns.into_iter().map(|turn| GivenTurn {
            think: turn.think.filter(|think| !think.trim().is_empty()),
            prompt: turn.interaction_prompt,
            response: turn.interaction_response,
        });
        let asked = match (self.question, self.messages) {
            (Some(question), None) => ConversationQuestion::bare(question)?,
            (None, Some(messages)) => ConversationQuestion::of(messages)?,
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
        Ok(SolveParts {
            is_stream: self.stream.unwrap_or(false),
            with_tokens: self.tokens.unwrap_or(false),
            asked,
            turns: turns.collect(),
            options,
        })
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

impl From<CallUsage> for ModelUsage {
    fn from(usage: CallUsage) -> Self {
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

impl From<EpisodeUsage> for SolveUsage {
    fn from(usage: EpisodeUsage) -> Self {
        Self { policy: usage.policy.into(), large_model: usage.large_model.into() }
    }
}

/// A turn of the policy.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct SolveTurn {
    /// Its thought.
    think: Option<String>,
    /// Its prompt for the large model.
    #[serde(skip_serializing_if = "Option::is_none")]
    interaction_prompt: Option<String>,
    /// The message that was sent, if it differs from the prompt: with references resolved, or with
    /// the question.
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<String>,
    /// Whether the reply was to be the answer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_final_prompt: bool,
    /// The large model's reply, in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    interaction_response: Option<String>,
    /// Its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
    /// Its text, if that was neither a prompt nor an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    malformed: Option<String>,
    /// Whether the policy was shown only the start of the reply.
    truncated: bool,
    /// Whether the prompt was a repetition, answered from the record.
    repeated: bool,
    /// Whether its token limit cut the turn off.
    cut_off: bool,
    /// Whether the caller wrote the turn.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    is_given: bool,
    /// Tokens that the policy wrote.
    tokens: usize,
    /// What they cost, in the currency of the configured prices.
    cost: f64,
    /// The large model's tokens.
    large_model_tokens: u64,
    /// What they cost.
    large_model_cost: f64,
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
            sent: seen.as_ref().and_then(|seen| seen.sent.clone()),
            is_final_prompt,
            answer,
            malformed,
            truncated: seen.as_ref().is_some_and(|seen| seen.truncated),
            repeated: seen.as_ref().is_some_and(|seen| seen.repeated),
            cut_off: turn.finish == TurnFinish::Length,
            is_given: turn.is_given,
            tokens: turn.tokens,
            cost: turn.cost,
            large_model_cost: seen.as_ref().map_or(0.0, |seen| seen.cost),
            large_model_tokens: usage.prompt_tokens + usage.completion_tokens,
            millis: turn.millis,
            large_model_millis: seen.as_ref().map_or(0, |seen| seen.millis),
            interaction_response: seen.map(|seen| seen.reply),
        }
    }
}

/// A token of the policy's.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(in crate::http) struct PolicyToken {
    /// Its id in the policy's vocabulary.
    id: u32,
    /// Its text. The text of a character that spans several tokens is at the last of them. Absent
    /// in recorded episodes of a policy that is no longer served.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// The natural logarithm of its probability if the policy sampled it; absent for given tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    log_prob: Option<f32>,
}

/// The tokens of an episode with their texts.
pub(in crate::http) fn policy_tokens(trace: &TokenTrace, texts: Vec<String>) -> Vec<PolicyToken> {
    tokens(trace, texts.into_iter().map(Some))
}

/// The tokens of an episode, by their ids alone.
pub(in crate::http) fn tokens_without_texts(trace: &TokenTrace) -> Vec<PolicyToken> {
    tokens(trace, std::iter::repeat(None))
}

fn tokens(trace: &TokenTrace, texts: impl Iterator<Item = Option<String>>) -> Vec<PolicyToken> {
    let sampled = trace.action_mask.iter().zip(&trace.log_probs);
    let tokens = trace.ids.iter().zip(sampled).zip(texts);
    tokens
        .map(|((id, (is_sampled, log_prob)), text)| PolicyToken {
            id: *id,
            text,
            log_prob: is_sampled.then_some(*log_prob),
        })
        .collect()
}

/// What a reply contains besides the answer.
#[derive(Debug, Default)]
pub(in crate::http) struct ReplyDetails {
    /// Whether it shows every turn.
    pub(in crate::http) turns: bool,
    /// The tokens that it shows.
    pub(in crate::http) tokens: Option<Vec<PolicyToken>>,
}

/// The JSON of a token, bytes.
const TOKEN: usize = 64;

impl ReplyDetails {
    /// About how long the JSON of the reply is, bytes.
    pub(in crate::http) fn bytes(&self, episode: &Episode) -> usize {
        let turns = if self.turns { episode.trajectory.text_bytes() } else { 0 };
        let tokens = self.tokens.as_ref().map_or(0, Vec::len);
        episode.answer.len() + turns + TOKEN * tokens
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
    /// Who wrote the answer: `policy` or `large_model`.
    #[schema(example = "policy")]
    pub(in crate::http) answer_source: &'static str,
    /// Why the episode ended: `answered`, `turn_limit`, `token_limit`, `deadline`, `budget` or
    /// `malformed`.
    #[schema(example = "answered")]
    pub(in crate::http) finish_reason: &'static str,
    /// Whether the answer ended before it was complete: at a token limit, at the deadline, or by a
    /// content filter. Recorded episodes may lack it where the large model wrote the answer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::http) cut_off: bool,
    /// What both models used.
    pub(in crate::http) usage: SolveUsage,
    /// Every turn, where `trace` asked for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) turns: Option<Vec<SolveTurn>>,
    /// Everything the policy read and wrote, in order, if `tokens` asked for it. Empty if the
    /// policy does not run here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) tokens: Option<Vec<PolicyToken>>,
}

/// The names in a reply.
#[derive(Debug, Clone)]
pub(in crate::http) struct Head {
    pub(in crate::http) id: String,
    pub(in crate::http) created: u64,
    pub(in crate::http) policy: String,
    pub(in crate::http) large_model: String,
}

impl SolveReply {
    pub(in crate::http) fn new(head: Head, episode: Episode, shown: ReplyDetails) -> Self {
        let Head { id, created, policy, large_model } = head;
        let cut_off = episode.is_cut_off();
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
            cut_off,
            usage: episode.usage.into(),
            turns: shown.turns.then(|| turns.into_iter().map(SolveTurn::from).collect()),
            tokens: shown.tokens,
        }
    }
}
