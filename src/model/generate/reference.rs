//! The model by its definition, in f64 loops: the reference of the decoder's tests.

use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::model::config::AdapterConfig;
use crate::model::lora::Adapter;
use crate::model::slots::{Projection, Slot};
use crate::model::spec::{Family, Gate, LayerKind, Rope, Spec};
use crate::model::weights::Weights;

/// A small shape whose dimensions are no multiples of anything.
pub(crate) fn odd_spec() -> Spec {
    Spec {
        vocab_size: 83,
        hidden_size: 36,
        intermediate_size: 50,
        layers: vec![LayerKind::default(); 2],
        num_attention_heads: 6,
        num_key_value_heads: 2,
        head_dim: 20,
        max_position_embeddings: 128,
        ..Family::Qwen3.spec()
    }
}

/// A small shape of the usual proportions.
pub(crate) fn even_spec() -> Spec {
    Spec {
        vocab_size: 96,
        hidden_size: 64,
        intermediate_size: 128,
        layers: vec![LayerKind::default(); 3],
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        max_position_embeddings: 256,
        ropes: vec![Rope::new(1_000_000.0)],
        tie_word_embeddings: true,
        ..Family::Qwen3.spec()
    }
}

/// Biases, and no norms of heads.
pub(crate) fn biased_spec() -> Spec {
    Spec { qkv_bias: true, output_bias: true, qk_norm: false, ..odd_spec() }
}

/// All options of Gemma, with windows that end within blocks.
pub(crate) fn windowed_spec() -> Spec {
    let gemma = Family::Gemma3.spec();
    Spec {
        layers: [None, Some(7), Some(21)]
            .map(|window| LayerKind { rope: usize::from(window.is_some()), window })
            .to_vec(),
        ropes: gemma.ropes.clone(),
        query_pre_attn_scalar: Some(24.0),
        norm_offset: 1.0,
        post_norms: true,
        gate: Gate::GeluTanh,
        scaled_embeddings: true,
        ..odd_spec()
    }
}

/// One of each kind.
pub(crate) fn specs() -> [Spec; 4] {
    [odd_spec(), even_spec(), biased_spec(), windowed_spec()]
}

/// Weights large enough for attention and logits to be far from uniform.
pub(crate) fn random_weights(spec: &Spec, seed: u64) -> Weights {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Weights::build(spec, |name, shape| {
        let (center, spread) = match shape {
            [_] if name.ends_with(".bias") => (0.0, 0.5),
            [_] => (1.0 - spec.norm_offset, 0.5),
            [_, inputs] => (0.0, 3.0 / (*inputs as f32).sqrt()),
            _ => unreachable!("weights are vectors and matrices"),
        };
        let count = shape.iter().product();
        let values: Vec<f32> =
            (0..count).map(|_| center + spread * rng.random_range(-1.0..1.0f32)).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    })
    .unwrap()
}

/// An adapter of these projections that changes about as much as it leaves.
pub(crate) fn random_adapter(
    spec: &Spec,
    rank: usize,
    targets: &[Projection],
    seed: u64,
) -> Adapter {
    let config = AdapterConfig { rank, alpha: 1.5 * rank as f64, targets: targets.to_vec() };
    let mut adapter = Adapter::new(spec, config, seed, DType::F32, &Device::Cpu).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for (_, tensor) in adapter.named_mut() {
        let spread = 1.5 / (tensor.dims()[1] as f32).sqrt();
        let values: Vec<f32> =
            (0..tensor.elem_count()).map(|_| spread * rng.random_range(-1.0..1.0f32)).collect();
        *tensor = Tensor::from_vec(values, tensor.dims(), &Device::Cpu).unwrap();
    }
    adapter
}

fn matrix(tensor: &Tensor) -> Vec<Vec<f64>> {
    let rows: Vec<Vec<f32>> = tensor.to_vec2().unwrap();
    rows.into_iter().map(|row| row.into_iter().map(f64::from).collect()).collect()
}

fn vector(tensor: &Tensor) -> Vec<f64> {
    tensor.to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
}

fn project(weight: &[Vec<f64>], x: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
    let mut y: Vec<f64> =
        weight.iter().map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect();
    bias.into_iter().for_each(|bias| add(&mut y, bias));
    y
}

fn rms_norm(spec: &Spec, x: &[f64], weight: &[f64]) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean + spec.rms_norm_eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * scale * (w + f64::from(spec.norm_offset))).collect()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Normalises each head where there is a norm, and rotates it.
fn heads(
    spec: &Spec,
    rope: &Rope,
    x: &[f64],
    norm: Option<&[f64]>,
    position: usize,
) -> Vec<Vec<f64>> {
    let (half, frequencies) = (spec.head_dim / 2, rope.frequencies(spec.head_dim));
    x.chunks(spec.head_dim)
        .map(|head| {
            let head = norm.map_or_else(|| head.to_vec(), |norm| rms_norm(spec, head, norm));
            let rotate = |i: usize| {
                let (sin, cos) = (position as f64 * f64::from(frequencies[i % half])).sin_cos();
                let other = if i < half { -head[i + half] } else { head[i - half] };
                head[i] * cos + other * sin
            };
            (0..spec.head_dim).map(rotate).collect()
        })
        .collect()
}

fn activate(gate: Gate, x: f64) -> f64 {
    match gate {
        Gate::Silu => x / (1.0 + (-x).exp()),
        Gate::GeluTanh => {
            let root = (2.0 / std::f64::consts::PI).sqrt();
            0.5 * x * (1.0 + (root * (x + 0.044715 * x.powi(3))).tanh())
        }
    }
}

/// Logits after every token.
pub(crate) fn logits(spec: &Spec, weights: &Weights, ids: &[u32]) -> Vec<Vec<f64>> {
    let embed = matrix(&weights.embed);
    let scale = if spec.scaled_embeddings { (spec.hidden_size as f64).sqrt() } else { 1.0 };
    let scaled = |&id: &u32| embed[id as usize].iter().map(|x| x * scale).collect();
    let mut stream: Vec<Vec<f64>> = ids.iter().map(scaled).collect();
    for (layer, kind) in weights.layers.iter().zip(&spec.layers) {
        let [q, k, v, o, gate, up, down] =
            Projection::ALL.map(|which| matrix(layer.need(which.slot()).unwrap()));
        let [q_bias, k_bias, v_bias, o_bias] =
            [Slot::QueryBias, Slot::KeyBias, Slot::ValueBias, Slot::OutputBias]
                .map(|slot| layer.get(slot).map(vector));
        let [input_norm, mlp_norm, q_norm, k_norm, post_attention_norm, post_mlp_norm] = [
            Slot::InputNorm,
            Slot::MlpNorm,
            Slot::QueryNorm,
            Slot::KeyNorm,
            Slot::PostAttentionNorm,
            Slot::PostMlpNorm,
        ]
        .map(|slot| layer.get(slot).map(vector));
        let (input_norm, mlp_norm) = (input_norm.unwrap(), mlp_norm.unwrap());
        let after = |made: Vec<f64>, norm: &Option<Vec<f64>>| match norm {
            Some(norm) => rms_norm(spec, &made, norm),
            None => made,
        };
        let rope = &spec.ropes[kind.rope];
        let scalar = spec.query_pre_attn_scalar.unwrap_or(spec.head_dim as f64);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (position, x) in stream.iter_mut().enumerate() {
            let normal = rms_norm(spec, x, &input_norm);
            let made = project(&q, &normal, q_bias.as_deref());
            let queries = heads(spec, rope, &made, q_norm.as_deref(), position);
            let made = project(&k, &normal, k_bias.as_deref());
            keys.push(heads(spec, rope, &made, k_norm.as_deref(), position));
            values.push(project(&v, &normal, v_bias.as_deref()));
            let first = (position + 1).saturating_sub(kind.window.unwrap_or(usize::MAX));
            let mut attended = Vec::new();
            for (head, query) in queries.iter().enumerate() {
                let kv_head = head / spec.group();
                let score = |keys: &Vec<Vec<f64>>| {
                    let dot: f64 = query.iter().zip(&keys[kv_head]).map(|(q, k)| q * k).sum();
                    (dot / scalar.sqrt()).exp()
                };
                let scores: Vec<f64> = keys[first..].iter().map(score).collect();
                let total: f64 = scores.iter().sum();
                for d in 0..spec.head_dim {
                    let at = kv_head * spec.head_dim + d;
                    let mixed =
                        scores.iter().zip(&values[first..]).map(|(s, v)| s * v[at]).sum::<f64>();
                    attended.push(mixed / total);
                }
            }
            add(x, &after(project(&o, &attended, o_bias.as_deref()), &post_attention_norm));
            let normal = rms_norm(spec, x, &mlp_norm);
            let gated: Vec<f64> = project(&gate, &normal, None)
                .into_iter()
                .zip(project(&up, &normal, None))
                .map(|(gate, up)| activate(spec.gate, gate) * up)
                .collect();
            add(x, &after(project(&down, &gated, None), &post_mlp_norm));
        }
    }
    let (norm, head) = (vector(&weights.norm), matrix(weights.output()));
    stream.iter().map(|x| project(&head, &rms_norm(spec, x, &norm), None)).collect()
}
