//! What a request was billed, in the words of each protocol.

use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::episode::{Episode, EpisodeUsage, RoleUsage};
use crate::trajectory::TokenUsage;

/// What a request was billed, over all calls: those of the large model, and those of a policy that
/// is paid for.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(in crate::http) struct Usage {
    /// Tokens read.
    prompt_tokens: u64,
    /// Tokens written.
    completion_tokens: u64,
    /// Their sum.
    total_tokens: u64,
    /// What the tokens read are made of.
    prompt_tokens_details: PromptDetails,
    /// What the tokens written are made of.
    completion_tokens_details: CompletionDetails,
    /// Both models, apart.
    prompt_r1: Shares,
}

/// What the tokens read are made of.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
struct PromptDetails {
    /// Those that came from the endpoint's cache.
    cached_tokens: u64,
    /// Always 0.
    audio_tokens: u64,
}

/// What the tokens written are made of.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
struct CompletionDetails {
    /// Those that were thoughts.
    reasoning_tokens: u64,
    /// Always 0.
    audio_tokens: u64,
    /// Always 0.
    accepted_prediction_tokens: u64,
    /// Always 0.
    rejected_prediction_tokens: u64,
}

/// What each model used. All numbers are integers: clients add them up.
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

impl From<RoleUsage> for Share {
    fn from(usage: RoleUsage) -> Self {
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
pub(in crate::http) struct Sum {
    pub(in crate::http) turns: usize,
    usage: EpisodeUsage,
    is_policy_billed: bool,
}

impl Sum {
    /// Nothing so far. `is_policy_billed`: whether the policy's tokens are paid for.
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

    /// As Chat Completions has it.
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

    /// As OpenAI's Responses has it.
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

    /// As Anthropic's Messages has it: tokens from the cache stand apart from those read.
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
