//! SGLang's `/generate`. Its events repeat all tokens so far, or contain only new ones.

use serde_json::{Value, json};

use super::{End, StreamedTokens, seed, token, top_p_and_k};
use crate::engine::GenerateRequest;
use crate::hint::Reason;
use crate::sampling::as_written;

pub(super) fn body(request: &GenerateRequest) -> Value {
    let sampling = &request.sampling;
    let (top_p, top_k) = top_p_and_k(sampling);
    json!({
        "input_ids": request.prompt,
        "sampling_params": {
            "max_new_tokens": request.max_tokens,
            "temperature": as_written(sampling.temperature),
            "top_p": as_written(top_p),
            "top_k": top_k,
            "min_p": 0,
            "repetition_penalty": 1,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "stop_token_ids": request.stop_ids,
            "skip_special_tokens": false,
            "no_stop_trim": true,
            "sampling_seed": seed(request),
        },
        "return_logprob": true,
        "logprob_start_len": -1,
        "stream": true,
    })
}

pub(super) fn read(event: &Value, seen: usize) -> Result<StreamedTokens, Reason> {
    let about = &event["meta_info"];
    let all =
        about["completion_tokens"].as_u64().ok_or("it does not say how many tokens there are")?;
    let new = (all as usize).saturating_sub(seen);
    let mut tokens = Vec::with_capacity(new.min(1024));
    if new > 0 {
        let listed = about["output_token_logprobs"].as_array().map_or(&[][..], Vec::as_slice);
        if listed.is_empty() {
            return Err("its tokens come without log-probabilities".into());
        }
        let first = listed.len().checked_sub(new).ok_or_else(|| {
            format!("it left out {} tokens after the first {seen}", new - listed.len())
        })?;
        for entry in &listed[first..] {
            tokens.push(token(entry[1].as_u64(), entry[0].as_f64())?);
        }
    }
    let end = about["finish_reason"].as_object().map(|reason| {
        match reason.get("type").and_then(Value::as_str) {
            Some("stop") => End::Stop,
            Some("length") => End::Length,
            other => End::Other(other.unwrap_or("nothing").to_owned()),
        }
    });
    Ok(StreamedTokens { tokens, end })
}
