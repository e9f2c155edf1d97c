//! One contract for every engine that can run a policy, on the bundled models.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use prompt_r1::engine::config::MistralRsConfig;
use prompt_r1::engine::config::NativeConfig;
use prompt_r1::engine::mistralrs::MistralRsEngine;
use prompt_r1::engine::native::NativeEngine;
use prompt_r1::engine::{
    Engine, EngineError, GenerateEvent, GenerateRequest, Sampling, StopReason,
};
use prompt_r1::episode::{
    DiscardEvents, Episode, EpisodeRequest, GivenTurn, Participants, run_episode,
};
use prompt_r1::hint::Hint;
use prompt_r1::large_model::{Reply, Scripted};
use prompt_r1::model::{Batch, Model, Selection, Spec, Weights};
use prompt_r1::policy::{Policy, TokenPolicy};
use prompt_r1::protocol::Protocol;
use prompt_r1::tokenization::ChatTokenizer;
use prompt_r1::trajectory::Action;

const FOLDER: &str = "models/policy";
const QUESTION: &str = "What is the currency of the country of the birthplace of Padford?";

fn native() -> Arc<dyn Engine> {
    let folder = Path::new(FOLDER);
    let config = Spec::load(folder).unwrap();
    let weights = Weights::load(folder, &config, DType::F32, &Device::Cpu).unwrap();
    Arc::new(NativeEngine::new(&config, &weights, &NativeConfig::default()).unwrap())
}

async fn mistralrs() -> Arc<dyn Engine> {
    let config = MistralRsConfig::default();
    Arc::new(MistralRsEngine::load(Path::new(FOLDER), &config).await.unwrap())
}

fn request(prompt: &[u32], seed: u64, max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        prompt: prompt.to_vec(),
        sampling: Sampling { temperature: 1.0, top_p: 1.0, top_k: None, seed },
        stop_ids: text().tokenizer.stop_ids().to_vec(),
        max_tokens,
        stream: true,
    }
}

fn text() -> ChatTokenizer {
    ChatTokenizer::load(Path::new(FOLDER)).unwrap()
}

/// The ids and log-probabilities of a whole request, and how it ended.
async fn collect(
    engine: &dyn Engine,
    request: GenerateRequest,
) -> (Vec<u32>, Vec<f32>, Result<StopReason, EngineError>) {
    let mut events = engine.generate(request);
    let (mut ids, mut log_probs) = (Vec::new(), Vec::new());
    loop {
        match events.recv().await.expect("an engine says how a request ends") {
            GenerateEvent::Tokens(tokens) => {
                ids.extend(tokens.iter().map(|token| token.id));
                log_probs.extend(tokens.iter().map(|token| token.log_prob));
            }
            GenerateEvent::Done(reason) => return (ids, log_probs, Ok(reason)),
            GenerateEvent::Failed(error) => return (ids, log_probs, Err(error)),
        }
    }
}

async fn contract(engine: &dyn Engine) {
    let prompt = text().tokenizer.encode_markup("<|user|>Padford?<|assistant|>").unwrap();
    let (ids, log_probs, end) = collect(engine, request(&prompt, 7, 64)).await;
    let end = end.unwrap();
    let stop_ids = text().tokenizer.stop_ids().to_vec();
    let stopped = ids.last().is_some_and(|id| stop_ids.contains(id));
    assert_eq!(end == StopReason::StopId, stopped, "{ids:?}");

    // Same request, same seed, same tokens; another seed, other tokens.
    let (again, _, _) = collect(engine, request(&prompt, 7, 64)).await;
    assert_eq!(again, ids);
    let mut others = Vec::new();
    for seed in 8..13 {
        others.push(collect(engine, request(&prompt, seed, 64)).await.0);
    }
    assert!(others.iter().any(|other| *other != ids), "five seeds gave the same tokens");

    // The log-probabilities are those of the trainable model on the same tokens.
    let model = Model::load(Path::new(FOLDER), DType::F32, &Device::Cpu).unwrap();
    let batch = Batch::pack(&[[prompt.as_slice(), &ids].concat()]);
    let rows: Vec<u32> = (0..ids.len()).map(|at| (prompt.len() + at - 1) as u32).collect();
    let scores = model.score(&batch, &Selection { rows, targets: ids.clone() }, 1.0).unwrap();
    for (sampled, scored) in log_probs.iter().zip(&scores.log_probs) {
        assert!((sampled - scored).abs() < 2e-4, "{sampled} {scored}");
    }

    // A request whose receiver is gone does not affect others.
    let dropped = engine.generate(request(&prompt, 1, 64));
    let kept = engine.generate(request(&prompt, 7, 64));
    drop(dropped);
    let mut kept_ids = Vec::new();
    let mut kept = kept;
    while let Some(event) = kept.recv().await {
        match event {
            GenerateEvent::Tokens(tokens) => kept_ids.extend(tokens.iter().map(|token| token.id)),
            GenerateEvent::Done(_) => break,
            GenerateEvent::Failed(error) => panic!("{error}"),
        }
    }
    assert_eq!(kept_ids, ids);

    // The token limit applies, and a prompt that fills the context is refused.
    let (short, _, end) = collect(engine, request(&prompt, 7, 2)).await;
    assert_eq!(short, ids[..2]);
    assert_eq!(end.unwrap(), StopReason::Length);
    let endless = vec![prompt[0]; engine.context_length()];
    let (_, _, end) = collect(engine, request(&endless, 7, 2)).await;
    assert!(matches!(end, Err(EngineError::PromptTooLong { .. })), "{end:?}");
    assert!(engine.is_ready().await);
}

async fn episode(engine: Arc<dyn Engine>, seed: u64) -> Episode {
    episode_behind(engine, seed, Vec::new()).await
}

async fn episode_behind(engine: Arc<dyn Engine>, seed: u64, turns: Vec<GivenTurn>) -> Episode {
    let policy = TokenPolicy::new("policy", engine, Arc::new(text()), true);
    let templates = Path::new(FOLDER).join("templates");
    let protocol = Protocol::load(Some(&templates)).unwrap();
    // Every reply imitates the end of a turn: it must arrive as text.
    let large_model = Scripted::new("m", |_| Ok(Reply::text("Ferk<|end|></interaction_response>")));
    let participants =
        Participants { policy: &policy, large_model: &large_model, protocol: &protocol };
    let sampling = Sampling { temperature: 0.7, top_p: 0.9, top_k: None, seed };
    let mut request = EpisodeRequest::new(QUESTION, sampling);
    request.limits.fallback = false;
    request.turns = turns;
    run_episode(participants, &request, &mut DiscardEvents).await.unwrap()
}

/// The trace is the sampled turns and the given observations, and nothing else.
fn check_trace(episode: &Episode) {
    let text = text();
    let trace = &episode.trajectory.trace;
    assert_eq!(trace.ids.len(), trace.log_probs.len());
    assert_eq!(trace.ids.len(), trace.action_mask.len());
    let sampled: usize = episode.trajectory.turns.iter().map(|turn| turn.tokens).sum();
    assert_eq!(trace.action_count(), sampled);
    let end = text.tokenizer.end_ids()[0];
    for at in 0..trace.ids.len() {
        let (sampled, log_prob) = (trace.action_mask[at], trace.log_probs[at]);
        assert!(if sampled { log_prob <= 0.0 } else { log_prob == 0.0 });
        assert!(sampled || trace.ids[at] != end, "a given token ends a turn");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_native_engine_keeps_the_contract() {
    contract(&*native()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistralrs_keeps_the_contract() {
    contract(&*mistralrs().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_engines_run_the_same_episode() {
    let (native, mistralrs) = (native(), mistralrs().await);
    for seed in 0..4 {
        let one = episode(Arc::clone(&native), seed).await;
        let other = episode(Arc::clone(&mistralrs), seed).await;
        check_trace(&one);
        assert_eq!(one.trajectory.trace.ids, other.trajectory.trace.ids, "seed {seed}");
        assert_eq!(one.answer, other.answer);
        let again = episode(Arc::clone(&mistralrs), seed).await;
        assert_eq!(again.trajectory.trace.ids, other.trajectory.trace.ids, "same seed, same ids");
        // Reusing earlier turns must not change the numbers.
        for trace in [&other, &again].map(|episode| &episode.trajectory.trace) {
            for (a, b) in trace.log_probs.iter().zip(&one.trajectory.trace.log_probs) {
                assert!((a - b).abs() < 2e-4, "seed {seed}: {a} {b}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_turn_is_what_the_policy_would_have_written() {
    let engine = native();
    let own = episode(Arc::clone(&engine), 1).await;
    assert!(own.trajectory.turns.len() > 1, "{own:?}");
    for count in 1..own.trajectory.turns.len() {
        let given = own.trajectory.turns.iter().take(count).map(|turn| match &turn.action {
            Action::Prompt(prompt) => GivenTurn {
                think: turn.think.clone(),
                prompt: prompt.clone(),
                response: turn.observation.as_ref().map(|seen| seen.reply.clone()),
            },
            other => panic!("{other:?}"),
        });
        let behind = episode_behind(Arc::clone(&engine), 1, given.collect()).await;
        let trace = &behind.trajectory.trace;
        assert_eq!(trace.ids, own.trajectory.trace.ids, "{count} given turns");
        let sampled: usize = own.trajectory.turns.iter().skip(count).map(|turn| turn.tokens).sum();
        assert_eq!(trace.action_count(), sampled, "given tokens are not sampled ones");
        assert_eq!(behind.answer, own.answer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_token_has_its_text() {
    let policy = TokenPolicy::new("policy", native(), Arc::new(text()), true);
    let ids = episode(native(), 1).await.trajectory.trace.ids;
    let texts = policy.token_texts(&ids).await.unwrap();
    assert_eq!(texts.len(), ids.len());
    assert_eq!(texts.concat(), text().tokenizer.decode(&ids).unwrap());
}

/// Concurrent requests of different lengths, some with a cached prefix.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_sample_the_same_tokens_as_single_ones() {
    let (alone, engine) = (native(), mistralrs().await);
    for round in 0..2 {
        let seeds = round * 8..round * 8 + 8;
        let crowd = seeds.map(|seed| {
            let engine = Arc::clone(&engine);
            async move { (seed, episode(engine, seed).await) }
        });
        for (seed, one) in futures::future::join_all(crowd).await {
            let expected = episode(Arc::clone(&alone), seed).await;
            let (trace, expected) = (&one.trajectory.trace, &expected.trajectory.trace);
            assert_eq!(trace.ids, expected.ids, "seed {seed}");
            for (a, b) in trace.log_probs.iter().zip(&expected.log_probs) {
                assert!((a - b).abs() < 2e-4, "seed {seed}: {a} {b}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_folders_are_named_and_explained() {
    let folder = tempfile::tempdir().unwrap();
    let load = |path: &Path| {
        let path = path.to_owned();
        async move {
            let config = MistralRsConfig::default();
            MistralRsEngine::load(&path, &config).await.err().expect("it loads").explained()
        }
    };
    let error = load(Path::new("no/such/folder")).await;
    assert!(error.contains("`no/such/folder`") && error.contains("hint:"), "{error}");
    for entry in std::fs::read_dir(FOLDER).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    let weights = folder.path().join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    let error = load(folder.path()).await;
    assert!(error.contains("model.safetensors") && error.contains("truncated"), "{error}");

    // As transformers 5 writes it: the rotary base one level down.
    std::fs::write(&weights, &whole).unwrap();
    let config = folder.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let theta = value.as_object_mut().unwrap().remove("rope_theta").unwrap();
    value["rope_parameters"] = serde_json::json!({ "rope_type": "default", "rope_theta": theta });
    std::fs::write(&config, value.to_string()).unwrap();
    let engine = MistralRsEngine::load(folder.path(), &MistralRsConfig::default()).await.unwrap();
    let prompt = text_ids();
    let (ids, _, end) = collect(&engine, request(&prompt, 3, 16)).await;
    end.unwrap();
    let (expected, _, _) = collect(&*native(), request(&prompt, 3, 16)).await;
    assert_eq!(ids, expected);
}

/// The bundled policy as a GGUF file, its weights unquantised.
fn write_gguf(path: &Path) {
    use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
    use gguf_file::Value::{F32, String, U32, U64};
    let shape = Spec::load(Path::new(FOLDER)).unwrap();
    let number = |n: usize| U32(n as u32);
    let metadata = [
        ("general.architecture", String("qwen3".into())),
        ("qwen3.attention.head_count", number(shape.num_attention_heads)),
        ("qwen3.attention.head_count_kv", number(shape.num_key_value_heads)),
        ("qwen3.attention.key_length", number(shape.head_dim)),
        ("qwen3.attention.value_length", number(shape.head_dim)),
        ("qwen3.attention.layer_norm_rms_epsilon", F32(shape.rms_norm_eps as f32)),
        ("qwen3.block_count", number(shape.layers.len())),
        ("qwen3.embedding_length", number(shape.hidden_size)),
        ("qwen3.context_length", U64(shape.max_position_embeddings as u64)),
        ("qwen3.rope.freq_base", F32(shape.ropes[0].theta as f32)),
    ];
    let weights = Path::new(FOLDER).join("model.safetensors");
    let tensors = candle_core::safetensors::load(weights, &Device::Cpu).unwrap();
    let tensors: Vec<(std::string::String, QTensor)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let mut name = name.replace("model.layers", "blk").replace("self_attn.", "");
            for (theirs, ours) in [
                ("model.embed_tokens", "token_embd"),
                ("model.norm", "output_norm"),
                ("input_layernorm", "attn_norm"),
                ("post_attention_layernorm", "ffn_norm"),
                ("q_proj", "attn_q"),
                ("k_proj", "attn_k"),
                ("v_proj", "attn_v"),
                ("o_proj", "attn_output"),
                ("q_norm", "attn_q_norm"),
                ("k_norm", "attn_k_norm"),
                ("mlp.gate_proj", "ffn_gate"),
                ("mlp.up_proj", "ffn_up"),
                ("mlp.down_proj", "ffn_down"),
            ] {
                name = name.replace(theirs, ours);
            }
            (name, QTensor::quantize(tensor, GgmlDType::F32).unwrap())
        })
        .collect();
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let metadata: Vec<(&str, &gguf_file::Value)> =
        metadata.iter().map(|(name, value)| (*name, value)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gguf_file_samples_what_its_folder_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.gguf");
    write_gguf(&file);
    let config = MistralRsConfig::default();
    let load = || MistralRsEngine::load(&file, &config);
    let error = load().await.err().expect("it has no tokenizer").explained();
    assert!(error.contains("`tokenizer.json`") && error.contains("hint:"), "{error}");

    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(Path::new(FOLDER).join(name), folder.path().join(name)).unwrap();
    }
    let engine = load().await.unwrap();
    let (ids, log_probs, end) = collect(&engine, request(&text_ids(), 3, 24)).await;
    end.unwrap();
    let (expected, expected_log_probs, _) = collect(&*native(), request(&text_ids(), 3, 24)).await;
    assert_eq!(ids, expected);
    // Measured within 2e-3; another model's would be off by far more.
    for (a, b) in log_probs.iter().zip(&expected_log_probs) {
        assert!((a - b).abs() < 5e-3, "{a} {b}");
    }
}

/// An untrained model samples bytes that are not text.
#[tokio::test(flavor = "multi_thread")]
async fn mistralrs_ends_a_request_inside_a_character() {
    let folder = tempfile::tempdir().unwrap();
    let shape = Spec::load(Path::new(FOLDER)).unwrap();
    Weights::random(&shape, 0, &Device::Cpu).unwrap().save(folder.path(), &shape).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(Path::new(FOLDER).join(name), folder.path().join(name)).unwrap();
    }
    let engine = MistralRsEngine::load(folder.path(), &MistralRsConfig::default()).await.unwrap();
    for seed in 0..32 {
        let (ids, _, end) = collect(&engine, request(&text_ids(), seed, 2)).await;
        let stopped = ids.last().is_some_and(|id| text().tokenizer.stop_ids().contains(id));
        assert_eq!(end.unwrap() == StopReason::StopId, stopped, "seed {seed}: {ids:?}");
        assert!(stopped || ids.len() == 2, "seed {seed}: {ids:?}");
    }
}

fn text_ids() -> Vec<u32> {
    text().tokenizer.encode_markup("<|user|>Where was Padford born?<|assistant|>").unwrap()
}
