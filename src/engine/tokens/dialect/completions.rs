//! `/v1/completions` with token ids, as in vLLM. llama.cpp's variant is understood, too.

use serde_json::{Value, json};

use super::{End, StreamedTokens, seed, token, top_p_and_k};
use crate::engine::GenerateRequest;
use crate::hint::Reason;
use crate::sampling::as_written;

pub(super) fn body(request: &GenerateRequest, model: Option<&str>) -> Value {
    let sampling = &request.sampling;
    let (top_p, top_k) = top_p_and_k(sampling);
    json!({
        "model": model,
        "prompt": request.prompt,
        "max_tokens": request.max_tokens,
        "temperature": as_written(sampling.temperature),
        "top_p": as_written(top_p),
        // Sent although they have no effect: servers have their own defaults.
        "top_k": top_k,
        "min_p": 0,
        "repetition_penalty": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "seed": seed(request),
        "stop_token_ids": request.stop_ids,
        "logprobs": 1,
        "return_token_ids": true,
        "return_tokens_as_token_ids": true,
        "add_special_tokens": false,
        "skip_special_tokens": false,
        "stream": true,
    })
}

pub(super) fn read(event: &Value, seen: usize) -> Result<StreamedTokens, Reason> {
    // The last event may contain only the usage.
    let Some(choice) = event["choices"].as_array().and_then(|choices| choices.first()) else {
        return Ok(StreamedTokens::default());
    };
    let logprobs = &choice["logprobs"];
    let (from_logprobs, log_probs): (Vec<Option<u64>>, Vec<Option<f64>>) = match logprobs["content"]
        .as_array()
    {
        Some(content) => {
            content.iter().map(|entry| (entry["id"].as_u64(), entry["logprob"].as_f64())).unzip()
        }
        None => {
            let named = list(&logprobs["tokens"])
                .iter()
                .map(|token| token.as_str()?.strip_prefix("token_id:")?.parse().ok());
            let log_probs = list(&logprobs["token_logprobs"]).iter().map(Value::as_f64);
            (named.collect(), log_probs.collect())
        }
    };
    let ids: Vec<Option<u64>> = match choice["token_ids"].as_array() {
        Some(ids) => ids.iter().map(Value::as_u64).collect(),
        None => from_logprobs,
    };
    let has_text = choice["text"].as_str().is_some_and(|text| !text.is_empty());
    if (has_text && ids.is_empty()) || ids.contains(&None) {
        return Err(reason!(
            "its text comes without token ids, in `token_ids` or in `logprobs`";
            hint: "the server must know `return_token_ids` (vLLM 0.11 or newer)"
        ));
    }
    if ids.len() != log_probs.len() {
        let (ids, log_probs) = (ids.len(), log_probs.len());
        return Err(format!("it has {ids} tokens, but {log_probs} log-probabilities").into());
    }
    let tokens = ids.into_iter().zip(log_probs);
    let tokens = tokens.map(|(id, log_prob)| token(id, log_prob)).collect::<Result<Vec<_>, _>>()?;
    let all = event["usage"]["completion_tokens"].as_u64();
    if let Some(hidden) = all.and_then(|all| (all as usize).checked_sub(seen + tokens.len()))
        && hidden > 0
    {
        return Err(format!("it left out {hidden} of its tokens").into());
    }
    let end = choice["finish_reason"].as_str().map(|reason| match reason {
        "stop" => End::Stop,
        "length" => End::Length,
        other => End::Other(other.to_owned()),
    });
    Ok(StreamedTokens { tokens, end })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
