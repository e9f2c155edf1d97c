//! Configurations that are read, written and refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};

use super::*;

fn config(kind: &str, changes: Value) -> Value {
    let mut value = json!({
        "model_type": kind,
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    });
    for (key, part) in changes.as_object().unwrap() {
        value[key] = part.clone();
    }
    value
}

fn read(kind: &str, changes: Value) -> Spec {
    Spec::from_json(config(kind, changes)).unwrap()
}

fn windows(spec: &Spec) -> Vec<Option<usize>> {
    spec.layers.iter().map(|layer| layer.window).collect()
}

#[test]
fn what_is_written_is_read_back() {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
    let llama3 = json!({
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    });
    for (kind, changes) in [
        ("qwen3", json!({"attention_bias": true, "rope_scaling": yarn, "rope_theta": 1e6})),
        ("qwen3", json!({"eos_token_id": [3, 5], "bos_token_id": 1, "pad_token_id": 0})),
        ("qwen2", json!({"use_sliding_window": true, "sliding_window": 9, "max_window_layers": 2})),
        ("llama", json!({"rope_parameters": llama3, "eos_token_id": 2, "attention_bias": true})),
        (
            "llama",
            json!({"rope_scaling": {"type": "linear", "factor": 2}, "hidden_act": "gelu_new"}),
        ),
        ("mistral", json!({"sliding_window": null, "head_dim": 6})),
        ("mistral", json!({"sliding_window": 7})),
        ("gemma3_text", json!({"rope_scaling": {"rope_type": "linear", "factor": 8.0}})),
        ("gemma3_text", json!({"sliding_window": 5, "sliding_window_pattern": 2})),
    ] {
        let spec = read(kind, changes.clone());
        assert_eq!(Spec::from_json(spec.to_json()).unwrap(), spec, "{kind} {changes}");
    }
}

/// transformers 5 refuses a number of another type than it declares. By
/// `tests/golden/model/written.sh` it reads what is written.
#[test]
fn numbers_are_written_in_the_types_of_transformers() {
    const FLOATS: [&str; 4] =
        ["attention_dropout", "rms_norm_eps", "rope_local_base_freq", "rope_theta"];
    let changes =
        json!({"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0, "rope_theta": 10_000});
    for family in Family::ALL {
        let kind = family.model_type();
        let written = read(kind, changes.clone()).to_json();
        for (key, value) in written.as_object().unwrap() {
            let is_float = FLOATS.contains(&key.as_str());
            assert!(!value.is_number() || value.is_f64() == is_float, "{kind} {key}: {value}");
        }
    }
    for (read_as, written) in [(json!(168.0), json!(168)), (json!(10.5), json!(10.5))] {
        let spec = read("gemma3_text", json!({"query_pre_attn_scalar": read_as}));
        assert_eq!(spec.to_json()["query_pre_attn_scalar"], written);
    }
}

/// GGUF files have no settings for these: readers take them from the architecture.
#[test]
fn what_a_gguf_file_cannot_describe_is_refused() {
    for (kind, changes, said) in [
        ("llama", json!({"hidden_act": "gelu_pytorch_tanh"}), "`gelu_pytorch_tanh`"),
        ("mistral", json!({"hidden_act": "gelu_new", "sliding_window": null}), "`silu`"),
        ("qwen2", json!({"hidden_act": "gelu_pytorch_tanh"}), "`gelu_pytorch_tanh`"),
        ("gemma3_text", json!({"hidden_activation": "silu"}), "`silu`"),
        ("qwen3", json!({"attention_bias": true}), "biases"),
    ] {
        let error = read(kind, changes.clone()).to_gguf().unwrap_err();
        assert!(error.contains(said), "{kind} {changes}: {error}");
    }
    for family in Family::ALL {
        let window = (family == Family::Gemma3).then_some(9);
        let plain = read(family.model_type(), json!({"sliding_window": window}));
        assert_eq!(plain.to_gguf().err(), None, "{family:?}");
        for changed in [
            Spec { norm_offset: 0.5, ..plain.clone() },
            Spec { qk_norm: !plain.qk_norm, ..plain.clone() },
            Spec { post_norms: !plain.post_norms, ..plain.clone() },
            Spec { scaled_embeddings: !plain.scaled_embeddings, ..plain.clone() },
        ] {
            let error = changed.to_gguf().unwrap_err();
            assert!(error.contains("norms or embeddings"), "{family:?}: {error}");
        }
    }
}

#[test]
fn families_have_their_defaults() {
    let spec = read("qwen3", json!({}));
    assert_eq!((spec.head_dim, spec.qk_norm, spec.qkv_bias), (128, true, false));
    let spec = read("qwen2", json!({}));
    assert_eq!((spec.head_dim, spec.qk_norm, spec.qkv_bias), (4, false, true));
    assert!(!spec.output_bias && windows(&spec) == [None; 4]);
    // Code for something else than the model.
    let map = json!({"AutoTokenizer": ["tokenization.My", null]});
    let changes = json!({"architectures": ["Qwen2ForCausalLM"], "auto_map": map});
    assert_eq!(read("qwen2", changes), spec);
    let spec = read("llama", json!({"num_key_value_heads": null}));
    assert_eq!((spec.num_key_value_heads, spec.tie_word_embeddings), (4, false));
    assert_eq!(windows(&read("mistral", json!({}))), [Some(4096); 4]);
    // What stands beside the scaling says more than what stands at the top, as in transformers.
    let parameters = json!({"rope_type": "default", "rope_theta": 5e5});
    let spec = read("qwen3", json!({"rope_theta": 1e4, "rope_parameters": parameters}));
    assert_eq!(spec.ropes[0].theta, 5e5);
    let spec = read("gemma3_text", json!({"num_hidden_layers": 6}));
    let sliding = LayerKind { rope: 1, window: Some(4096) };
    assert_eq!(spec.layers[..5], [sliding; 5]);
    assert_eq!(spec.layers[5], LayerKind::default());
    assert_eq!((spec.ropes[0].theta, spec.ropes[1].theta), (1e6, 1e4));
    assert_eq!((spec.embed_scale(), spec.score_scale()), (4.0, 1.0 / 16.0));
    assert!(spec.tie_word_embeddings);
}

#[test]
fn windows_are_those_of_the_layers() {
    let changes = json!({"use_sliding_window": true, "sliding_window": 9, "max_window_layers": 3});
    assert_eq!(windows(&read("qwen3", changes)), [None, None, None, Some(9)]);
    let (full, sliding) = ("full_attention", "sliding_attention");
    let changes = json!({
        "use_sliding_window": true, "sliding_window": 9,
        "layer_types": [sliding, full, sliding, full],
    });
    assert_eq!(windows(&read("qwen2", changes)), [Some(9), None, Some(9), None]);
    // transformers reads the pattern by the name without a dash only.
    let changes = json!({"sliding_window": 9, "_sliding_window_pattern": 2});
    assert_eq!(windows(&read("gemma3_text", changes)), [Some(9); 4]);
    // Off unless the configuration turns it on.
    let changes = json!({"sliding_window": 9, "max_window_layers": 0});
    assert_eq!(windows(&read("qwen2", changes)), [None; 4]);
}

/// Every key that would change the result is refused by name.
#[test]
fn what_is_not_honoured_is_named() {
    let huge = 1u64 << 60;
    for (kind, changes, said) in [
        ("gpt2", json!({}), "`model_type` `gpt2`"),
        ("gemma3", json!({}), "`model_type` `gemma3`"),
        ("qwen3", json!({"model_type": null}), "`model_type` is missing"),
        ("qwen3", json!({"hidden_act": "relu"}), "`hidden_act` `relu`"),
        ("llama", json!({"hidden_act": "gelu"}), "`hidden_act` `gelu`"),
        ("llama", json!({"mlp_bias": true}), "`mlp_bias` true"),
        ("mistral", json!({"attention_bias": true}), "`attention_bias` true"),
        ("qwen2", json!({"attention_bias": true}), "`attention_bias` is a key"),
        ("llama", json!({"quantization_config": {"bits": 4}}), "`quantization_config`"),
        ("llama", json!({"logit_scale": 0.1}), "`logit_scale` is a key"),
        ("llama", json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "`dynamic`"),
        ("llama", json!({"rope_scaling": {"type": "longrope"}}), "`longrope`"),
        ("llama", json!({"rope_parameters": {"rope_type": "linear"}}), "`rope_parameters.factor`"),
        ("llama", json!({"rope_parameters": {"partial_rotary_factor": 0.5}}), "`rope_parameters.p"),
        ("llama", json!({"rope_parameters": {"mrope_section": [1]}}), "`rope_parameters.mrope_s"),
        ("llama", json!({"rope_scaling": {}, "rope_parameters": {}}), "exclude each other"),
        ("llama", json!({"rope_scaling": {"type": "linear", "factor": 0}}), "`factor` 0"),
        ("llama", json!({"rope_theta": -1}), "`rope_theta` -1"),
        ("llama", json!({"rope_interleaved": true}), "`rope_interleaved` true"),
        (
            "llama",
            json!({"architectures": ["LlamaForSequenceClassification"]}),
            "`LlamaForCausalLM`",
        ),
        ("llama", json!({"architectures": ["LlamaForCausalLM", "Other"]}), "names \"Other\""),
        ("llama", json!({"architectures": "Other"}), "names \"Other\""),
        ("qwen2", json!({"auto_map": {"AutoModelForCausalLM": "modeling.My"}}), "\"modeling.My\""),
        ("gemma3_text", json!({"final_logit_softcapping": 30.0}), "`final_logit_softcapping` 30"),
        ("gemma3_text", json!({"use_bidirectional_attention": true}), "`use_bidirectional_att"),
        ("gemma3_text", json!({"layer_types": ["full_attention"]}), "`layer_types`"),
        ("qwen2", json!({"layer_types": vec!["sliding_attention"; 4]}), "none is in use"),
        ("qwen2", json!({"num_key_value_heads": 3}), "not a multiple"),
        ("qwen2", json!({"head_dim": 5}), "`head_dim` 5 is not even"),
        ("qwen2", json!({"vocab_size": 0}), "`vocab_size` is 0"),
        ("qwen2", json!({"num_hidden_layers": huge}), "`num_hidden_layers` is"),
        ("qwen2", json!({"hidden_size": huge}), "`hidden_size` is 1152921504606846976"),
        ("qwen2", json!({"vocab_size": "many"}), "`vocab_size` is \"many\""),
        ("qwen2", json!({"rms_norm_eps": 0}), "`rms_norm_eps` 0"),
        ("mistral", json!({"sliding_window": 0}), "`sliding_window` is 0"),
        ("gemma3_text", json!({"sliding_window": null}), "`sliding_window` is null"),
    ] {
        let error = Spec::from_json(config(kind, changes.clone())).unwrap_err().to_string();
        assert!(error.contains(said), "{kind} {changes}: {error}");
    }
    assert!(Spec::from_json(json!([])).unwrap_err().to_string().contains("not a JSON object"));
}

/// Frequencies of Llama 3.2's and of Qwen's long form, as transformers computes them; the golden
/// models have those of tiny heads.
#[test]
fn rotary_frequencies_are_scaled() {
    let llama3 = Rope {
        theta: 5e5,
        scaling: RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original: 8192,
        },
    };
    let plain = Rope::new(5e5).frequencies(64);
    let scaled = llama3.frequencies(64);
    assert_eq!(plain[..12], scaled[..12]);
    for (plain, scaled) in plain[18..].iter().zip(&scaled[18..]) {
        assert!((plain / scaled - 32.0).abs() < 1e-3);
    }
    assert!(scaled.windows(2).all(|pair| pair[0] > pair[1]));
}
