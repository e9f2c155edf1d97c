//! Usage of a request, in the form of each protocol.

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::episode::{Episode, EpisodeUsage};
use crate::large_model::CallUsage;
use crate::trajectory::TokenUsage;

/// Usage of a request over all billed calls: those of the large model, and those of a paid policy.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(in crate::http) struct Usage {
    /// Tokens read.
    prompt_tokens: u64,
    /// Tokens written.
    completion_tokens: u64,
    /// Their sum.
    total_tokens: u64,
    /// Details of the tokens read.
    prompt_tokens_details: PromptDetails,
    /// Details of the tokens written.
    completion_tokens_details: CompletionDetails,
    /// Usage by model.
    prompt_r1: Shares,
}

/// Details of the tokens read.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
struct PromptDetails {
    /// Tokens from the endpoint's cache.
    cached_tokens: u64,
    /// Always 0.
    audio_tokens: u64,
}

/// Details of the tokens written.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
struct CompletionDetails {
    /// Tokens of thoughts.
    reasoning_tokens: u64,
    /// Always 0.
    audio_tokens: u64,
    /// Always 0.
    accepted_prediction_tokens: u64,
    /// Always 0.
    rejected_prediction_tokens: u64,
}

/// Usage by model. All numbers are integers: clients add them up.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(in crate::http) struct Shares {
    /// Turns of the policy.
    turns: usize,
    /// The small model that thinks and asks.
    policy: Share,
    /// The model that it asks.
    large_model: Share,
}

/// What one model used.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
struct Share {
    /// Turns written, or calls made.
    calls: u64,
    /// Tokens read.
    prompt_tokens: u64,
    /// Tokens written.
    completion_tokens: u64,
    /// Billionths of the currency of the configured prices.
    cost_nanos: u64,
}

impl From<CallUsage> for Share {
    fn from(usage: CallUsage) -> Self {
        Self {
            calls: usage.calls,
            prompt_tokens: usage.tokens.prompt_tokens,
            completion_tokens: usage.tokens.completion_tokens,
            cost_nanos: (usage.cost * 1e9).round() as u64,
        }
    }
}

/// Adds up what episodes used.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::http) struct UsageSum {
    pub(in crate::http) turns: usize,
    usage: EpisodeUsage,
    is_policy_billed: bool,
}

impl UsageSum {
    /// No usage yet. `is_policy_billed`: whether the policy's tokens are paid for.
    pub(in crate::http) fn new(is_policy_billed: bool) -> Self {
        Self { is_policy_billed, ..Self::default() }
    }

    pub(in crate::http) fn add(&mut self, episode: &Episode) {
        self.turns += episode.trajectory.turns.len();
        self.usage += episode.usage;
    }

    fn billed(self) -> TokenUsage {
        let mut billed = self.usage.large_model.tokens;
        if self.is_policy_billed {
            billed += self.usage.policy.tokens;
        }
        billed
    }

    fn shares(self) -> Shares {
        let EpisodeUsage { policy, large_model } = self.usage;
        Shares { turns: self.turns, policy: policy.into(), large_model: large_model.into() }
    }

    /// In the form of Chat Completions.
    pub(in crate::http) fn usage(self) -> Usage {
        let billed = self.billed();
        Usage {
            prompt_tokens: billed.prompt_tokens,
            completion_tokens: billed.completion_tokens,
            total_tokens: billed.prompt_tokens + billed.completion_tokens,
            prompt_tokens_details: PromptDetails {
                cached_tokens: billed.cached_tokens,
                ..PromptDetails::default()
            },
            completion_tokens_details: CompletionDetails {
                reasoning_tokens: billed.reasoning_tokens,
                ..CompletionDetails::default()
            },
            prompt_r1: self.shares(),
        }
    }

    /// In the form of OpenAI's Responses.
    pub(in crate::http) fn of_response(self) -> Value {
        let billed = self.billed();
        json!({
            "input_tokens": billed.prompt_tokens,
            "input_tokens_details": {"cached_tokens": billed.cached_tokens},
            "output_tokens": billed.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": billed.reasoning_tokens},
            "total_tokens": billed.prompt_tokens + billed.completion_tokens,
            "prompt_r1": self.shares(),
        })
    }

    /// In the form of Anthropic's Messages: tokens from the cache are separate from those read.
    pub(in crate::http) fn of_message(self) -> Map<String, Value> {
        let billed = self.billed();
        let usage = json!({
            "input_tokens": billed.prompt_tokens - billed.cached_tokens.min(billed.prompt_tokens),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": billed.cached_tokens,
            "output_tokens": billed.completion_tokens,
            "prompt_r1": self.shares(),
        });
        usage.as_object().cloned().unwrap_or_default()
    }
}
