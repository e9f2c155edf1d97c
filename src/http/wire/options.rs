//! The options of an episode in a request.

use std::sync::Arc;

use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::episode::Limits;
use crate::http::error::ApiError;
use crate::http::serving::Served;
use crate::http::state::AppState;
use crate::policy::{DIRECT, Policy};

/// What stands before the names of [`Options`] in a chat request, for errors.
pub(in crate::http) const CHAT_PREFIX: &str = "prompt_r1.";

/// How to run the episode: the fields of `POST /v1/solve`, and of `prompt_r1` in a chat request.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Options {
    /// The large model to ask, by its configured name. Default: the server's.
    pub(in crate::http) large_model: Option<String>,
    /// The policy that asks, by its name, or `direct` for none; the header `x-prompt-r1-policy`
    /// does the same. Default: the server's choice.
    pub(in crate::http) policy: Option<String>,
    /// The same request with the same seed gives the same episode. Default: a new seed each time.
    /// With the policy `direct`, it is the large model's, which has none by default.
    pub(in crate::http) seed: Option<i64>,
    /// How freely the policy samples, from 0 (greedy) to 2; with the policy `direct`, the large
    /// model. Default: the server's, or the large model's own.
    #[schema(minimum = 0, maximum = 2)]
    pub(in crate::http) temperature: Option<f64>,
    /// Turns of the policy, at most the server's limit, which is the default.
    #[schema(minimum = 1)]
    pub(in crate::http) max_turns: Option<u64>,
    /// Tokens that the policy may write in all, at most the server's limit, which is the default.
    #[schema(minimum = 1)]
    pub(in crate::http) max_tokens: Option<u64>,
    /// Milliseconds until the best answer so far is given, at most the server's limit, which is the
    /// default.
    #[schema(minimum = 1)]
    pub(in crate::http) deadline_ms: Option<u64>,
    /// Money, in the currency of the configured prices, after which no further turn begins.
    #[schema(exclusive_minimum = 0)]
    pub(in crate::http) max_cost: Option<f64>,
    /// Whether the reply shows every turn. Default: false.
    pub(in crate::http) trace: Option<bool>,
}

impl Options {
    /// The limits of the episode. `prefix` stands before the names in errors.
    pub(in crate::http) fn limits(&self, max: &Limits, prefix: &str) -> Result<Limits, ApiError> {
        let within = |name: &str, asked: Option<u64>, max: u64| match asked {
            None => Ok(max),
            Some(asked) if (1..=max).contains(&asked) => Ok(asked),
            Some(asked) => {
                let name = format!("{prefix}{name}");
                let message = format!("`{name}` = {asked} is not between 1 and {max}");
                Err(ApiError::invalid(&name, message))
            }
        };
        let tokens = within("max_tokens", self.max_tokens, max.max_policy_tokens as u64)? as usize;
        Ok(Limits {
            max_turns: within("max_turns", self.max_turns, max.max_turns as u64)? as usize,
            max_policy_tokens: tokens,
            max_turn_tokens: max.max_turn_tokens.min(tokens),
            deadline_ms: within("deadline_ms", self.deadline_ms, max.deadline_ms)?,
            max_cost: self.max_cost(max.max_cost, prefix)?,
            ..max.clone()
        })
    }

    fn max_cost(&self, max: Option<f64>, prefix: &str) -> Result<Option<f64>, ApiError> {
        let Some(asked) = self.max_cost else { return Ok(max) };
        let name = format!("{prefix}max_cost");
        if !asked.is_finite() || asked <= 0.0 {
            return Err(ApiError::invalid(&name, format!("`{name}` = {asked} is no amount")));
        }
        match max {
            Some(max) if asked > max => {
                let message = format!("`{name}` = {asked} is more than the server's {max}");
                Err(ApiError::invalid(&name, message))
            }
            _ => Ok(Some(asked)),
        }
    }

    /// Fields for every call of the large model. With the policy `direct`, which samples nothing,
    /// the large model samples as the request says.
    pub(in crate::http) fn large_model_params(&self, policy: &dyn Policy) -> Map<String, Value> {
        if policy.name() != DIRECT {
            return Map::new();
        }
        let given = [
            ("temperature", self.temperature.map(Value::from)),
            ("seed", self.seed.map(Value::from)),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// The policy that plays.
    pub(in crate::http) fn served(
        &self,
        state: &AppState,
        headers: &HeaderMap,
        prefix: &str,
    ) -> Result<Arc<Served>, ApiError> {
        let param = format!("{prefix}policy");
        // No number is drawn if it would have no effect.
        let draw = if state.serving.canary.is_some() { state.draw() } else { 1.0 };
        state.serving.choose(self.policy.as_deref(), &param, headers, draw)
    }
}

/// Checks that a number is between two others, inclusive.
pub(in crate::http) fn between(
    name: &str,
    value: Option<f64>,
    least: f64,
    max: f64,
) -> Result<Option<f64>, ApiError> {
    match value {
        Some(value) if !(least..=max).contains(&value) => {
            let message = format!("`{name}` = {value} is not between {least} and {max}");
            Err(ApiError::invalid(name, message))
        }
        value => Ok(value),
    }
}
