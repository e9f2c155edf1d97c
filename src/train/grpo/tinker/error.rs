//! Errors of a Tinker server.

/// Why a server could not carry out a request. The run can be resumed from the last checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum TinkerError {
    /// It cannot be reached, or keeps asking to wait.
    #[error(
        "the Tinker server at `{url}` cannot be asked for `{call}` (tried for {seconds} s): {reason}\nhint: is it running there? When it answers, go on with `--resume`"
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
    #[error(
        "the Tinker server did not finish `{call}` within {seconds} s\nhint: `trainer.result_timeout_ms` is the limit"
    )]
    Late {
        /// The request.
        call: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// It refuses.
    #[error("the Tinker server refuses `{call}` (status {status}): {message}{hint}", hint = hint(.message, *.status))]
    Refused {
        /// The request.
        call: &'static str,
        /// The status of the response.
        status: u16,
        /// Its message.
        message: String,
    },
    /// It has lost the computation.
    #[error(
        "the Tinker server no longer knows what it was asked for by `{call}`: {message}\nhint: it was started again; go on from the last checkpoint with `--resume`"
    )]
    Gone {
        /// The request.
        call: &'static str,
        /// Its message.
        message: String,
    },
    /// Its response does not follow the protocol.
    #[error(
        "cannot read the Tinker server's answer to `{call}`: {reason}\nhint: this program speaks the protocol of SkyRL 0.4.0"
    )]
    Unreadable {
        /// The request.
        call: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// It trains other models.
    #[error(
        "the Tinker server trains {offered}, not `{wanted}`\nhint: `trainer.base_model` must be the name that the server has for the model in `model.path`"
    )]
    OtherName {
        /// The models that it trains.
        offered: String,
        /// The requested model.
        wanted: String,
    },
    /// Its model differs from the local one.
    #[error(
        "the Tinker server's `{base_model}` is not the model in `model.path`: their log-probabilities of the same {tokens} tokens differ by {difference:.3} at the mean, at most {allowed} is allowed\nhint: give both the same weights; `guards.max_rollout_logprob_diff` is the bound"
    )]
    OtherModel {
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
        "the gradient at the Tinker server was not finite, and it has updated the policy with it\nhint: lower `schedule.peak`, and go on from the last checkpoint with `--resume`"
    )]
    NonFinite,
}

/// What to do about a refusal.
fn hint(message: &str, status: u16) -> &'static str {
    match status {
        401 | 403 => "\nhint: `trainer.api_key_env` names the variable with the key",
        409 => "\nhint: does another program train the same model?",
        _ if message.contains("rank") => {
            "\nhint: `trainer.rank` must be one that the server was started for (SkyRL: `max_lora_rank`)"
        }
        _ if message.contains("Maximum number of LoRA") => {
            "\nhint: all places of the server are taken; end other runs, wait until their sessions expire, or start it with more (SkyRL: `max_lora_adapters`)"
        }
        _ if message.contains("request specified") => {
            "\nhint: `trainer.base_model` must be the name that the server has for its model"
        }
        _ if message.contains("not loaded") => {
            "\nhint: the server was started again; go on from the last checkpoint with `--resume`"
        }
        404 => {
            "\nhint: was the server started on another database or folder of checkpoints than before?"
        }
        500 => "\nhint: its log says more; is its model the one in `model.path`?",
        _ => "",
    }
}
