#![allow(clippy::unwrap_used)]

use std::num::NonZeroUsize;

use super::*;
use crate::engine::Sampling;

fn tokens(pairs: &[(u32, f32)]) -> Vec<SampledToken> {
    pairs.iter().map(|&(id, log_prob)| SampledToken { id, log_prob }).collect()
}

fn request(temperature: f32, top_p: f32, top_k: Option<usize>, seed: u64) -> GenerateRequest {
    GenerateRequest {
        prompt: vec![5, 6],
        sampling: Sampling { temperature, top_p, top_k: top_k.and_then(NonZeroUsize::new), seed },
        stop_ids: vec![9],
        max_tokens: 4,
        stream: true,
    }
}

#[test]
fn llama_cpp_requests_set_every_sampler() {
    let body = llama_cpp::body(&request(0.7, 1.0, None, 1 << 32), None, LogProbs::Processed);
    assert_eq!(body["samplers"], json!(["temperature"]));
    assert_eq!((&body["temperature"], &body["seed"]), (&json!(0.7), &json!(1)));
    assert_eq!(body["post_sampling_probs"], true);
    let body =
        llama_cpp::body(&request(1.0, 0.9, Some(3), u64::MAX >> 32), Some("m"), LogProbs::Raw);
    assert_eq!(body["samplers"], json!(["temperature", "top_k", "top_p"]));
    assert_eq!((&body["top_k"], &body["top_p"]), (&json!(3), &json!(0.9)));
    assert_eq!(body["seed"], json!(u32::MAX - 1), "the largest seed would be a random one");
    let body = llama_cpp::body(&request(0.0, 0.5, Some(3), 0), None, LogProbs::Raw);
    assert_eq!(body["samplers"], json!(["temperature"]), "nothing else matters to greedy");
}

#[test]
fn events_of_llama_cpp() {
    let event = json!({"tokens": [7], "completion_probabilities": [{"id": 7, "logprob": -0.5}],
        "tokens_predicted": 3, "stop": false});
    assert_eq!(llama_cpp::read(&event, 2).unwrap().tokens, tokens(&[(7, -0.5)]));
    let hidden = llama_cpp::read(&event, 0).unwrap_err();
    assert!(hidden.text.contains("left out 2 tokens"), "{hidden}");
    let drawn = json!({"tokens": [7], "completion_probabilities": [{"id": 7, "prob": 0.25}],
        "tokens_predicted": 1});
    assert_eq!(llama_cpp::read(&drawn, 0).unwrap().tokens, tokens(&[(7, 0.25_f64.ln() as f32)]));
    for (stop_type, end) in
        [("limit", End::Length), ("eos", End::Stop), ("none", End::Other("none".into()))]
    {
        let event =
            json!({"tokens": [], "stop": true, "stop_type": stop_type, "tokens_predicted": 2});
        assert_eq!(llama_cpp::read(&event, 2).unwrap().end, Some(end));
    }
    for wrong in [
        json!({"tokens": [7], "tokens_predicted": 1}),
        json!({"completion_probabilities": [{"id": 7}], "tokens_predicted": 1}),
        json!({"completion_probabilities": [{"id": -7, "logprob": 0}]}),
        json!({"completion_probabilities": [{"id": 7, "prob": 0.0}]}),
        json!({"completion_probabilities": [{"id": 7, "logprob": 0.5}]}),
        json!({"tokens": [], "stop": true, "truncated": true}),
    ] {
        assert!(llama_cpp::read(&wrong, 0).is_err(), "{wrong}");
    }
}

#[test]
fn ids_of_completions_come_from_three_places() {
    let vllm = json!({"choices": [{"text": "ab", "token_ids": [7, 8], "finish_reason": null,
        "logprobs": {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0]}}]});
    let named = json!({"choices": [{"text": "ab", "finish_reason": "stop",
        "logprobs": {"tokens": ["token_id:7", "token_id:8"], "token_logprobs": [-1.0, -2.0]}}]});
    let llama = json!({"choices": [{"text": "ab", "finish_reason": "length",
        "logprobs": {"content": [{"id": 7, "logprob": -1.0}, {"id": 8, "logprob": -2.0}]}}]});
    for (event, end) in [(vllm, None), (named, Some(End::Stop)), (llama, Some(End::Length))] {
        let piece = completions::read(&event, 0).unwrap();
        assert_eq!((piece.tokens, piece.end), (tokens(&[(7, -1.0), (8, -2.0)]), end), "{event}");
    }
    let usage = json!({"choices": [], "usage": {"completion_tokens": 2}});
    assert_eq!(completions::read(&usage, 2).unwrap(), StreamedTokens::default());
    for (wrong, reason) in [
        (json!({"choices": [{"text": ""}], "usage": {"completion_tokens": 1}}), "left out 1"),
        (json!({"choices": [{"text": "a"}]}), "without token ids"),
        (json!({"choices": [{"text": "a", "token_ids": [7]}]}), "1 tokens, but 0 log"),
        (
            json!({"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": [-1]}}]}),
            "without token ids",
        ),
    ] {
        let error = completions::read(&wrong, 0).unwrap_err();
        assert!(error.text.contains(reason), "{wrong}: {error}");
    }
}

#[test]
fn events_of_sglang_repeat_or_go_on() {
    let event = |listed: Value, all: u64, end: Value| {
        json!({"output_ids": [], "meta_info":
            {"output_token_logprobs": listed, "completion_tokens": all, "finish_reason": end}})
    };
    let two = json!([[-1.0, 7, null], [-2.0, 8, null]]);
    let whole = sglang::read(&event(two.clone(), 2, Value::Null), 0).unwrap();
    assert_eq!(whole.tokens, tokens(&[(7, -1.0), (8, -2.0)]));
    let repeated = sglang::read(&event(two.clone(), 2, json!({"type": "stop", "matched": 8})), 1);
    let repeated = repeated.unwrap();
    assert_eq!((repeated.tokens, repeated.end), (tokens(&[(8, -2.0)]), Some(End::Stop)));
    let further = sglang::read(&event(two, 5, json!({"type": "length"})), 3).unwrap();
    assert_eq!((further.tokens.len(), further.end), (2, Some(End::Length)));
    assert!(sglang::read(&event(json!([[-1.0, 7, null]]), 5, Value::Null), 3).is_err());
    assert!(sglang::read(&event(Value::Null, 1, Value::Null), 0).is_err());
    assert!(sglang::read(&json!({"text": "a"}), 0).is_err());
}
