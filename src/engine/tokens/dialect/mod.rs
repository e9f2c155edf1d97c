//! The APIs of token servers: the request for tokens, and the events of the reply.

mod completions;
mod llama_cpp;
mod sglang;

use serde_json::{Value, json};

use super::config::{Dialect, LogProbs, TokensConfig};
use crate::engine::GenerateRequest;
use crate::hint::Reason;
use crate::sampling::Sampling;
use crate::trajectory::SampledToken;

/// An event of a reply.
#[derive(Debug, Default, PartialEq)]
pub(super) struct StreamedTokens {
    /// New tokens.
    pub(super) tokens: Vec<SampledToken>,
    /// Why the server ended the sequence, if it did.
    pub(super) end: Option<End>,
}

/// Why a server ended a sequence.
#[derive(Debug, PartialEq)]
pub(super) enum End {
    /// A stop token was sampled.
    Stop,
    /// The token limit was reached.
    Length,
    /// Something else, in the server's words.
    Other(String),
}

impl Dialect {
    /// The path of the API.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::LlamaCpp => "completion",
            Self::Completions => "v1/completions",
            Self::Sglang => "generate",
        }
    }

    /// The body of a request for tokens; the reply is a stream of events.
    pub(super) fn body(
        self,
        request: &GenerateRequest,
        config: &TokensConfig,
        log_probs: LogProbs,
    ) -> Value {
        match self {
            Self::LlamaCpp => llama_cpp::body(request, config.model.as_deref(), log_probs),
            Self::Completions => completions::body(request, config.model.as_deref()),
            Self::Sglang => sglang::body(request),
        }
    }

    /// Reads an event that comes after `seen` tokens.
    ///
    /// # Errors
    /// Explains what is wrong with it.
    pub(super) fn read(self, event: &Value, seen: usize) -> Result<StreamedTokens, Reason> {
        match self {
            Self::LlamaCpp => llama_cpp::read(event, seen),
            Self::Completions => completions::read(event, seen),
            Self::Sglang => sglang::read(event, seen),
        }
    }
}

/// A seed that every server accepts. llama.cpp takes the largest 32-bit number for a random one.
fn seed(request: &GenerateRequest) -> u32 {
    let seed = request.sampling.seed;
    ((seed >> 32) as u32 ^ seed as u32).min(u32::MAX - 1)
}

/// Top-p and top-k as vLLM and SGLang take them: 1 and -1 keep all tokens. Greedy sampling needs
/// neither.
fn top_p_and_k(sampling: &Sampling) -> (f32, i64) {
    if sampling.temperature <= 0.0 {
        return (1.0, -1);
    }
    (sampling.top_p, sampling.top_k.map_or(-1, |top_k| top_k.get() as i64))
}

fn token(id: Option<u64>, log_prob: Option<f64>) -> Result<SampledToken, Reason> {
    let id = id.and_then(|id| u32::try_from(id).ok()).ok_or("it has a token without an id")?;
    let log_prob = log_prob.ok_or_else(|| format!("token `{id}` has no log-probability"))?;
    // Rounding may make it slightly positive.
    if !(log_prob.is_finite() && log_prob < 1e-3) {
        return Err(format!("{log_prob} is no log-probability of token `{id}`").into());
    }
    Ok(SampledToken { id, log_prob: log_prob.min(0.0) as f32 })
}

/// What a server answers to the question for the text of tokens.
pub(super) fn detokenized(reply: &Value) -> Option<&str> {
    ["content", "prompt", "text"].iter().find_map(|key| reply.get(*key)?.as_str())
}

/// The question for the text of tokens, special ones included.
pub(super) fn detokenize(ids: &[u32], model: Option<&str>) -> Value {
    let mut body = json!({"tokens": ids, "skip_special_tokens": false});
    if let Some(model) = model {
        body["model"] = json!(model);
    }
    body
}

#[cfg(test)]
mod tests;
