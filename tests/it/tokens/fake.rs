//! A token server on this machine: the native engine behind llama.cpp's, vLLM's or SGLang's API.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prompt_r1::engine::config::NativeConfig;
use prompt_r1::engine::native::NativeEngine;
use prompt_r1::engine::tokens::TokensEngine;
use prompt_r1::engine::tokens::config::{Dialect, TokensConfig};
use prompt_r1::engine::{Engine, GenerateEvent, GenerateRequest, Sampling};
use prompt_r1::model::{Spec, Weights};
use prompt_r1::tokenization::{ChatTokenizer, Fingerprint};
use prompt_r1::trajectory::SampledToken;
use serde_json::{Value, json};

use crate::loopback::{Cut, Loopback, Recorded, Script};

pub const FOLDER: &str = "models/policy";
/// The server's name for its model.
pub const MODEL: &str = "the-policy";

pub fn text() -> Arc<ChatTokenizer> {
    Arc::new(ChatTokenizer::load(Path::new(FOLDER)).unwrap())
}

pub fn native() -> Arc<dyn Engine> {
    let folder = Path::new(FOLDER);
    let config = Spec::load(folder).unwrap();
    let device = candle_core::Device::Cpu;
    let weights = Weights::load(folder, &config, candle_core::DType::F32, &device).unwrap();
    Arc::new(NativeEngine::new(&config, &weights, &NativeConfig::default()).unwrap())
}

/// A fault of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    None,
    /// One token of its vocabulary differs.
    Vocabulary,
    /// Its vocabulary is smaller.
    Small,
    /// Its chat template differs.
    Template,
    /// Its model has another id.
    Name,
    /// It reports no ids.
    NoIds,
}

/// A server whose tokens are the native engine's.
pub async fn server(dialect: Dialect, flaw: Flaw) -> Loopback {
    mortal(dialect, flaw, Arc::default()).await
}

/// The same until `is_dead`: from then on it closes every connection.
pub async fn mortal(dialect: Dialect, flaw: Flaw, is_dead: Arc<AtomicBool>) -> Loopback {
    let (engine, text) = (native(), text());
    let own = Fingerprint::of(&text).unwrap();
    Loopback::answering(move |request: &Recorded| {
        if is_dead.load(Ordering::Relaxed) {
            return Script::nothing(Cut::Close);
        }
        let body = request.json();
        let ids = |value: &Value| -> Vec<u32> {
            let ids = value.as_array().cloned().unwrap_or_default();
            ids.iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let path = request.path.trim_start_matches('/');
        let reply = match path {
            "v1/models" => models(dialect, flaw),
            "props" => json!({"default_generation_settings": {"n_ctx": 512}}),
            "detokenize" => {
                let ids = ids(&body["tokens"]);
                let spelt = |id: &u32| match (flaw, id) {
                    (Flaw::Vocabulary, 922) => "<thought>".to_owned(),
                    _ => text.tokenizer.decode(&[*id]).unwrap(),
                };
                let spelt: String = ids.iter().map(spelt).collect();
                let key = match dialect {
                    Dialect::LlamaCpp => "content",
                    Dialect::Completions => "prompt",
                    Dialect::Sglang => "text",
                };
                json!({ key: spelt })
            }
            "apply-template" if flaw == Flaw::Template => json!({"prompt": "<|user|>a\nb"}),
            "apply-template" => json!({"prompt": own.conversation}),
            "tokenize" if flaw == Flaw::Template => json!({"tokens": own.conversation_ids[1..]}),
            "tokenize" => json!({"tokens": own.conversation_ids}),
            "completion" | "v1/completions" | "generate" => {
                let at = match dialect {
                    Dialect::Sglang => &body["sampling_params"],
                    _ => &body,
                };
                let first = |keys: [&str; 3]| keys.iter().find_map(|key| at[*key].as_u64());
                let prompt = [&body["prompt"], &body["input_ids"]]
                    .into_iter()
                    .map(ids)
                    .find(|ids| !ids.is_empty());
                let asked = GenerateRequest {
                    prompt: prompt.unwrap(),
                    sampling: Sampling {
                        temperature: at["temperature"].as_f64().unwrap() as f32,
                        top_p: 1.0,
                        top_k: None,
                        seed: first(["seed", "sampling_seed", ""]).unwrap(),
                    },
                    // The tokens at which llama.cpp stops by itself.
                    stop_ids: text.tokenizer.end_ids().to_vec(),
                    max_tokens: first(["n_predict", "max_tokens", "max_new_tokens"]).unwrap()
                        as usize,
                    stream: false,
                };
                return events(dialect, flaw, &sampled(&*engine, asked), &text);
            }
            _ => return Script::error(404, "File Not Found"),
        };
        Script::json(200, reply)
    })
    .await
}

fn models(dialect: Dialect, flaw: Flaw) -> Value {
    let id = if flaw == Flaw::Name { "another" } else { MODEL };
    let vocabulary = if flaw == Flaw::Small { 900 } else { 932 };
    match dialect {
        Dialect::LlamaCpp => json!({"data": [{"id": id, "aliases": [id], "owned_by": "llamacpp",
            "meta": {"n_vocab": vocabulary}}]}),
        _ => json!({"data": [{"id": id, "owned_by": "vllm", "max_model_len": 512}]}),
    }
}

fn sampled(engine: &dyn Engine, request: GenerateRequest) -> Vec<SampledToken> {
    let mut events = engine.generate(request);
    let mut all = Vec::new();
    let collect = async {
        while let Some(event) = events.recv().await {
            match event {
                GenerateEvent::Tokens(tokens) => all.extend(tokens),
                GenerateEvent::Done(_) => return,
                GenerateEvent::Failed(error) => panic!("{error}"),
            }
        }
    };
    futures::executor::block_on(collect);
    all
}

/// The events of a reply with these tokens.
pub fn events(
    dialect: Dialect,
    flaw: Flaw,
    tokens: &[SampledToken],
    text: &ChatTokenizer,
) -> Script {
    let ended = tokens.last().is_some_and(|last| text.tokenizer.end_ids().contains(&last.id));
    let mut events = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let (id, log_prob) = (token.id, token.log_prob);
        let spelt = text.tokenizer.decode(&[id]).unwrap();
        let is_last = index + 1 == tokens.len();
        let end = if ended { "stop" } else { "length" };
        events.push(match dialect {
            Dialect::LlamaCpp => json!({"content": spelt, "tokens": [id], "stop": false,
                "tokens_predicted": index + 1,
                "completion_probabilities": [{"id": id, "token": spelt, "logprob": log_prob}]}),
            Dialect::Completions => {
                let mut choice = json!({"index": 0, "text": spelt,
                    "finish_reason": is_last.then_some(end),
                    "logprobs": {"tokens": [spelt], "token_logprobs": [log_prob]}});
                if flaw != Flaw::NoIds {
                    choice["token_ids"] = json!([id]);
                }
                json!({"model": MODEL, "choices": [choice]})
            }
            Dialect::Sglang => {
                let so_far: Vec<Value> = tokens[..=index]
                    .iter()
                    .map(|token| json!([token.log_prob, token.id, null]))
                    .collect();
                let reason = is_last.then(|| json!({"type": end}));
                json!({"text": spelt, "meta_info": {"completion_tokens": index + 1,
                    "output_token_logprobs": so_far, "finish_reason": reason}})
            }
        });
    }
    if dialect == Dialect::LlamaCpp {
        let end = if ended { "eos" } else { "limit" };
        events.push(json!({"content": "", "tokens": [], "stop": true, "stop_type": end,
            "tokens_predicted": tokens.len(), "truncated": false}));
    }
    let data = events.iter().map(Value::to_string).chain(["[DONE]".to_owned()]);
    Script::events(data.collect::<Vec<_>>())
}

/// The configuration of a client of these servers, with `more`.
pub fn config(dialect: Dialect, servers: &[&Loopback], more: Value) -> TokensConfig {
    let at = servers.iter().map(|server| server.url().trim_end_matches("/v1").to_owned());
    let mut config = json!({
        "servers": at.collect::<Vec<_>>(),
        "dialect": dialect.as_str(),
        "retries": {"base_ms": 1},
        "ca": crate::loopback::net::ca(),
    });
    if dialect == Dialect::Completions {
        config["model"] = json!(MODEL);
    }
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    serde_json::from_value(config).unwrap()
}

pub fn engine(config: &TokensConfig) -> TokensEngine {
    let keys = |name: &str| (name == "TEST_KEY").then(|| crate::server::SECRET.into());
    TokensEngine::new(config, text(), Some(512), &keys).unwrap()
}
