//! A Qwen3 straight from its definition, in f64 loops: what the decoder is tested against.

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::model::config::ModelConfig;
use crate::model::weights::Weights;

/// A small shape whose dimensions are no multiples of anything.
pub(crate) fn odd_config() -> ModelConfig {
    ModelConfig {
        vocab_size: 83,
        hidden_size: 36,
        intermediate_size: 50,
        num_hidden_layers: 2,
        num_attention_heads: 6,
        num_key_value_heads: 2,
        head_dim: 20,
        max_position_embeddings: 128,
        rope_theta: 10_000.0,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: false,
    }
}

/// A small shape of the usual proportions.
pub(crate) fn even_config() -> ModelConfig {
    ModelConfig {
        vocab_size: 96,
        hidden_size: 64,
        intermediate_size: 128,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        max_position_embeddings: 256,
        rope_theta: 1_000_000.0,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: true,
    }
}

/// Weights large enough for attention and logits to be far from uniform.
pub(crate) fn random_weights(config: &ModelConfig, seed: u64) -> Weights {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Weights::build(config, |_, shape| {
        let (center, spread) = match shape {
            [_] => (1.0, 0.5),
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

fn matrix(tensor: &Tensor) -> Vec<Vec<f64>> {
    let rows: Vec<Vec<f32>> = tensor.to_vec2().unwrap();
    rows.into_iter().map(|row| row.into_iter().map(f64::from).collect()).collect()
}

fn vector(tensor: &Tensor) -> Vec<f64> {
    tensor.to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
}

fn project(weight: &[Vec<f64>], x: &[f64]) -> Vec<f64> {
    weight.iter().map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}

fn rms_norm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Normalises and rotates each head.
fn heads(config: &ModelConfig, x: &[f64], norm: &[f64], position: usize) -> Vec<Vec<f64>> {
    let half = config.head_dim / 2;
    x.chunks(config.head_dim)
        .map(|head| {
            let head = rms_norm(head, norm, config.rms_norm_eps);
            let rotate = |i: usize| {
                let power = -2.0 * (i % half) as f64 / config.head_dim as f64;
                let (sin, cos) = (position as f64 * config.rope_theta.powf(power)).sin_cos();
                let other = if i < half { -head[i + half] } else { head[i - half] };
                head[i] * cos + other * sin
            };
            (0..config.head_dim).map(rotate).collect()
        })
        .collect()
}

/// Logits after every token.
pub(crate) fn logits(config: &ModelConfig, weights: &Weights, ids: &[u32]) -> Vec<Vec<f64>> {
    let embed = matrix(&weights.embed);
    let mut stream: Vec<Vec<f64>> = ids.iter().map(|&id| embed[id as usize].clone()).collect();
    for layer in &weights.layers {
        let [q, k, v, o, gate, up, down] = [
            &layer.q_proj,
            &layer.k_proj,
            &layer.v_proj,
            &layer.o_proj,
            &layer.gate_proj,
            &layer.up_proj,
            &layer.down_proj,
        ]
        .map(matrix);
        let [input_norm, post_norm, q_norm, k_norm] =
            [&layer.input_norm, &layer.post_norm, &layer.q_norm, &layer.k_norm].map(vector);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (position, x) in stream.iter_mut().enumerate() {
            let normal = rms_norm(x, &input_norm, config.rms_norm_eps);
            let queries = heads(config, &project(&q, &normal), &q_norm, position);
            keys.push(heads(config, &project(&k, &normal), &k_norm, position));
            values.push(project(&v, &normal));
            let mut attended = Vec::new();
            for (head, query) in queries.iter().enumerate() {
                let kv_head = head / config.group();
                let score = |keys: &Vec<Vec<f64>>| {
                    let dot: f64 = query.iter().zip(&keys[kv_head]).map(|(q, k)| q * k).sum();
                    (dot / (config.head_dim as f64).sqrt()).exp()
                };
                let scores: Vec<f64> = keys.iter().map(score).collect();
                let total: f64 = scores.iter().sum();
                for d in 0..config.head_dim {
                    let at = kv_head * config.head_dim + d;
                    let mixed = scores.iter().zip(&values).map(|(s, v)| s * v[at]).sum::<f64>();
                    attended.push(mixed / total);
                }
            }
            add(x, &project(&o, &attended));
            let normal = rms_norm(x, &post_norm, config.rms_norm_eps);
            let gated: Vec<f64> = project(&gate, &normal)
                .into_iter()
                .zip(project(&up, &normal))
                .map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
                .collect();
            add(x, &project(&down, &gated));
        }
    }
    let (norm, head) = (vector(&weights.norm), matrix(weights.output()));
    stream.iter().map(|x| project(&head, &rms_norm(x, &norm, config.rms_norm_eps))).collect()
}
