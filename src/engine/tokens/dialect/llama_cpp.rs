//! llama.cpp's `/completion`. It takes no stop ids: the reader stops at the first one.

use serde_json::{Value, json};

use super::{End, StreamedTokens, seed, token};
use crate::engine::GenerateRequest;
use crate::engine::tokens::config::LogProbs;
use crate::hint::Reason;
use crate::sampling::as_written;

pub(super) fn body(request: &GenerateRequest, model: Option<&str>, log_probs: LogProbs) -> Value {
    let sampling = &request.sampling;
    // Samplers that are not listed are not applied; without a list the server's defaults would be.
    let mut samplers = vec!["temperature"];
    let is_greedy = sampling.temperature <= 0.0;
    let top_k = sampling.top_k.filter(|_| !is_greedy);
    samplers.extend(top_k.map(|_| "top_k"));
    samplers.extend((sampling.top_p < 1.0 && !is_greedy).then_some("top_p"));
    let mut body = json!({
        "prompt": request.prompt,
        "n_predict": request.max_tokens,
        "temperature": as_written(sampling.temperature),
        "samplers": samplers,
        "seed": seed(request),
        "n_probs": 1,
        "post_sampling_probs": log_probs == LogProbs::Processed,
        "return_tokens": true,
        "cache_prompt": true,
        "stream": true,
    });
    if let Some(top_k) = top_k {
        body["top_k"] = json!(top_k);
    }
    if sampling.top_p < 1.0 {
        body["top_p"] = as_written(sampling.top_p);
    }
    if let Some(model) = model {
        body["model"] = json!(model);
    }
    body
}

pub(super) fn read(event: &Value, seen: usize) -> Result<StreamedTokens, Reason> {
    let mut tokens = Vec::new();
    for entry in event["completion_probabilities"].as_array().into_iter().flatten() {
        let log_prob = entry["logprob"].as_f64();
        let log_prob = log_prob.or_else(|| entry["prob"].as_f64().map(f64::ln));
        tokens.push(token(entry["id"].as_u64(), log_prob)?);
    }
    let given = event["tokens"].as_array().map_or(0, Vec::len);
    if given > tokens.len() {
        return Err("its tokens come without probabilities".into());
    }
    let sampled = event["tokens_predicted"].as_u64().map(|sampled| sampled as usize);
    // Of the tokens that form one character, it reports only the last.
    if let Some(hidden) = sampled.and_then(|all| all.checked_sub(seen + tokens.len()))
        && hidden > 0
    {
        return Err(reason!(
            "it left out {hidden} tokens after the first {seen}: llama.cpp shows no token whose text ends within a character";
            hint: "serve a policy that writes such characters by vLLM or SGLang"
        ));
    }
    if event["truncated"] == true {
        return Err("it cut the prompt off".into());
    }
    let end = (event["stop"] == true).then(|| match event["stop_type"].as_str() {
        Some("eos" | "word") => End::Stop,
        Some("limit") => End::Length,
        other => End::Other(other.unwrap_or("nothing").to_owned()),
    });
    Ok(StreamedTokens { tokens, end })
}
