//! Servers that sample a run's episodes instead of this process. They keep the initial weights of
//! the run, so that each step learns from episodes that are one step older.

use futures::future::join_all;

use super::config::GrpoConfig;
use crate::engine::tokens::{LoadMeter, TokensEngine, Utilisation};
use crate::engine::{Engine, GenerateEvent, GenerateRequest, Sampling};
use crate::hint::{Hint, Reason};
use crate::train::error::TrainError;
use crate::train::metrics::Values;
use crate::trajectory::SampledToken;

/// Prompts that weights are compared on.
const COMPARED: usize = 8;
/// Tokens after each of them.
const COMPARED_TOKENS: usize = 16;

/// Checks that the run can learn from samples of the servers in `config.tokens`.
///
/// # Errors
/// Explains what prevents it.
pub(super) fn check(config: &GrpoConfig) -> Result<(), TrainError> {
    let wrong = |reason: Reason| Err(TrainError::Config(reason));
    let Some(tokens) = &config.tokens else { return Ok(()) };
    if let Err(unusable) = tokens.validate() {
        return wrong(unusable.in_table("tokens"));
    }
    let temperature = config.temperature;
    let sampling = Sampling { temperature, top_p: 1.0, top_k: None, seed: 0 };
    if let Err(reason) = tokens.log_probs(&sampling) {
        return wrong(reason.map_text(|text| {
            format!("cannot use `temperature` = {temperature} with `tokens`: {text}")
        }));
    }
    let lag = config.steps.saturating_sub(1);
    if lag > config.max_policy_lag as u64 {
        return wrong(reason!(
            "`steps` is {}, but the servers of `tokens` keep the weights that the run begins with: its last step would learn from episodes of a policy that is {lag} steps older, and `max_policy_lag` is {}", config.steps, config.max_policy_lag;
            hint: "make runs of `max_policy_lag` + 1 steps, each from the model of the one before, and give that to the servers in between"
        ));
    }
    if lag > 0 && config.objective.importance_cap.is_none() {
        return wrong(reason!(
            "`tokens` with more than one step is off-policy, but `objective.importance_cap` is not set";
            hint: "`importance_cap = 2.0` corrects for it"
        ));
    }
    Ok(())
}

/// Checks that the servers have the weights of `native`, by the likeliest tokens after each of
/// `prompts`.
///
/// # Errors
/// When the log-probabilities differ by more than `max_difference` on average, or a server fails.
pub(super) async fn compare(
    native: &dyn Engine,
    servers: &TokensEngine,
    prompts: &[Vec<u32>],
    stop_ids: &[u32],
    max_difference: f64,
) -> Result<(), TrainError> {
    servers.connect().await.map_err(|error| TrainError::Config(error.reason()))?;
    let prompts = &prompts[..prompts.len().min(COMPARED)];
    let own = join_all(prompts.iter().map(|prompt| likeliest(native, prompt, stop_ids))).await;
    // Concurrently, so that every server gets some.
    let rounds = servers.used().len();
    let asked =
        (0..rounds).flat_map(|_| prompts).map(|prompt| likeliest(servers, prompt, stop_ids));
    let theirs = join_all(asked).await;
    let (mut sum, mut tokens) = (0.0, 0);
    for (own, theirs) in own.iter().cycle().zip(&theirs) {
        let failed = |reason: &Reason| {
            TrainError::Config(
                reason.clone().map_text(|text| format!("weights cannot be compared: {text}")),
            )
        };
        let (own, theirs) = (own.as_ref().map_err(failed)?, theirs.as_ref().map_err(failed)?);
        for (own, theirs) in own.iter().zip(theirs) {
            sum += f64::from((own.log_prob - theirs.log_prob).abs());
            tokens += 1;
            // After different tokens nothing can be compared.
            if own.id != theirs.id {
                break;
            }
        }
    }
    let mean = sum / f64::from(tokens.max(1));
    if mean > max_difference {
        return Err(TrainError::Config(reason!(
            "the token servers have other weights than the run begins with: log-probabilities of the likeliest tokens differ by {mean:.3} in the mean";
            hint: "serve the model of `model.path`, an adapter merged into it; `guards.max_rollout_logprob_diff` is the bound"
        )));
    }
    Ok(())
}

/// Greedy tokens after a prompt. Several, because the first ones are often tags, which any policy
/// writes.
async fn likeliest(
    engine: &dyn Engine,
    prompt: &[u32],
    stop_ids: &[u32],
) -> Result<Vec<SampledToken>, Reason> {
    let mut events = engine.generate(GenerateRequest {
        prompt: prompt.to_vec(),
        sampling: Sampling::GREEDY,
        stop_ids: stop_ids.to_vec(),
        max_tokens: COMPARED_TOKENS,
        stream: true,
    });
    let mut tokens = Vec::with_capacity(COMPARED_TOKENS);
    loop {
        match events.recv().await {
            Some(GenerateEvent::Tokens(more)) => tokens.extend(more),
            Some(GenerateEvent::Failed(error)) => return Err(error.reason()),
            _ if tokens.is_empty() => return Err("no token came".into()),
            _ => return Ok(tokens),
        }
    }
}

/// The load of the servers since `meter` was last read, as metrics.
pub(super) fn load(meter: &mut LoadMeter) -> Values {
    let Utilisation { mean, min, failures } = meter.read();
    vec![("servers_busy", mean), ("servers_busy_least", min), ("servers_failures", failures as f64)]
}
