//! Errors of a Tinker server.

use std::borrow::Cow;

use crate::hint::Hint;

/// Why a server could not carry out a request. The run can be resumed from the last checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum TinkerError {
    /// It cannot be reached, or keeps asking to wait.
    #[error(
        "the Tinker server at `{url}` cannot be asked for `{call}` (tried for {seconds} s): {reason}"
    )]
    Unreachable {
        /// Its URL.
        url: String,
        /// The request.
        call: &'static str,
        /// For how long it was retried.
        seconds: u64,
        /// The last failure.
        reason: String,
    },
    /// It took too long.
    #[error("the Tinker server did not finish `{call}` within {seconds} s")]
    TimedOut {
        /// The request.
        call: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// It refuses.
    #[error("the Tinker server refuses `{call}` (status {status}): {message}")]
    Refused {
        /// The request.
        call: &'static str,
        /// The status of the response.
        status: u16,
        /// Its message.
        message: String,
    },
    /// It has lost the computation.
    #[error("the Tinker server has lost the computation of `{call}`: {message}")]
    Gone {
        /// The request.
        call: &'static str,
        /// Its message.
        message: String,
    },
    /// Its response does not follow the protocol.
    #[error("cannot read the Tinker server's answer to `{call}`: {reason}")]
    Unreadable {
        /// The request.
        call: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// It trains other models.
    #[error("the Tinker server trains {offered}, not `{wanted}`")]
    ModelNotOffered {
        /// The models that it trains.
        offered: String,
        /// The requested model.
        wanted: String,
    },
    /// Its model differs from the local one.
    #[error(
        "the Tinker server's `{base_model}` is not the model in `model.path`: their log-probabilities of the same {tokens} tokens differ by {difference:.3} at the mean, at most {allowed} is allowed"
    )]
    ModelMismatch {
        /// Its name at the server.
        base_model: String,
        /// How many were compared.
        tokens: usize,
        /// Mean of the absolute differences, nats.
        difference: f64,
        /// The bound.
        allowed: f64,
    },
    /// The update that it made is unusable.
    #[error(
        "the gradient at the Tinker server was not finite, and it has updated the policy with it"
    )]
    NonFinite,
}

impl Hint for TinkerError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Unreachable { .. } => "is it running there? When it answers, continue with `--resume`".into(),
            Self::TimedOut { .. } => "`trainer.result_timeout_ms` is the limit".into(),
            Self::Refused { message, status, .. } => return refusal_hint(message, *status).map(Into::into),
            Self::Gone { .. } => "it was started again; continue from the last checkpoint with `--resume`".into(),
            Self::Unreadable { .. } => "this program speaks the protocol of SkyRL 0.4.0".into(),
            Self::ModelNotOffered { .. } => "`trainer.base_model` must be the name that the server has for the model in `model.path`".into(),
            Self::ModelMismatch { .. } => "give both the same weights; `guards.max_rollout_logprob_diff` is the bound".into(),
            Self::NonFinite => "lower `schedule.peak`, and continue from the last checkpoint with `--resume`".into(),
        })
    }
}

/// What to do about a refusal.
fn refusal_hint(message: &str, status: u16) -> Option<&'static str> {
    Some(match status {
        401 | 403 => "`trainer.api_key_env` names the variable with the key",
        409 => "does another program train the same model?",
        _ if message.contains("rank") => {
            "`trainer.rank` must be one that the server was started for (SkyRL: `max_lora_rank`)"
        }
        _ if message.contains("Maximum number of LoRA") => {
            "all places of the server are taken; end other runs, wait until their sessions expire, or start it with more (SkyRL: `max_lora_adapters`)"
        }
        _ if message.contains("request specified") => {
            "`trainer.base_model` must be the name that the server has for its model"
        }
        _ if message.contains("not loaded") => {
            "the server was started again; continue from the last checkpoint with `--resume`"
        }
        404 => "was the server started on another database or folder of checkpoints than before?",
        500 => "its log says more; is its model the one in `model.path`?",
        _ => return None,
    })
}
