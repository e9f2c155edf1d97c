//! Tests of the whole model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod adapters;
mod checkpoints;
mod gguf;
mod golden;
mod gradients;
mod sentence;

use candle_core::{DType, Device, Tensor};

use super::spec::LayerKind;
use super::{Batch, Family, Gradients, Model, Selection, Spec, Weights};

/// The CPU, and a GPU if there is one that the program was built for.
pub(crate) fn devices() -> Vec<Device> {
    let cuda = candle_core::utils::cuda_is_available().then(|| Device::new_cuda(0));
    std::iter::once(Device::Cpu).chain(cuda.into_iter().flatten()).collect()
}

fn tiny(tied: bool) -> Spec {
    Spec {
        vocab_size: 23,
        hidden_size: 12,
        intermediate_size: 20,
        layers: vec![LayerKind::default(); 2],
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 6,
        max_position_embeddings: 128,
        tie_word_embeddings: tied,
        ..Family::Qwen3.spec()
    }
}

/// A tiny model with the options that [`tiny`] leaves out.
fn tiny_gemma() -> Spec {
    let Spec { ropes, norm_offset, post_norms, gate, .. } = Family::Gemma3.spec();
    Spec {
        layers: vec![LayerKind { rope: 1, window: Some(5) }, LayerKind::default()],
        ropes,
        norm_offset,
        post_norms,
        gate,
        qkv_bias: true,
        output_bias: true,
        scaled_embeddings: true,
        query_pre_attn_scalar: Some(9.0),
        ..tiny(true)
    }
}

/// A tiny model without norms of heads.
fn tiny_llama() -> Spec {
    Spec { qk_norm: false, ..tiny(false) }
}

/// Weights large enough for every part to matter; norms differ from 1.
fn model(spec: &Spec) -> Model {
    let weights = Weights::random(spec, 7, &Device::Cpu).unwrap();
    let mut model = Model::new(spec.clone(), weights);
    for (index, (_, tensor)) in model.trainable_mut().into_iter().enumerate() {
        *tensor = if tensor.rank() == 1 {
            let shift = wave(tensor.dims(), index);
            (&*tensor + (shift * 0.3).unwrap()).unwrap()
        } else {
            (&*tensor * 15.0).unwrap()
        };
    }
    model
}

/// Values between −1 and 1.
fn wave(shape: &[usize], seed: usize) -> Tensor {
    let values: Vec<f32> =
        (0..shape.iter().product()).map(|i: usize| ((i * 7 + seed * 13) as f32).sin()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The same model in another type.
fn cast(model: &Model, dtype: DType) -> Model {
    let weights = model.weights().to_dtype(dtype).unwrap();
    let cast = Model::new(model.spec().clone(), weights);
    let Some(mut adapter) = model.adapter().cloned() else { return cast };
    for (_, tensor) in adapter.named_mut() {
        *tensor = tensor.to_dtype(dtype).unwrap();
    }
    cast.with_adapter(adapter)
}

fn batch() -> Batch {
    Batch::pack(&[vec![3, 1, 4, 1, 5, 9, 2, 6], vec![22], (0..40).map(|i| i * 5 % 23).collect()])
}

/// Weights of the scores: `Σ a·log_probs + b·entropies` is the function whose gradient is tested.
fn factors(selection: &Selection) -> (Vec<f32>, Vec<f32>) {
    let n = [selection.len()];
    (wave(&n, 3).to_vec1().unwrap(), wave(&n, 8).to_vec1().unwrap())
}

fn gradients(model: &Model, batch: &Batch, selection: &Selection) -> Gradients {
    let mut gradients = model.gradients().unwrap();
    let (a, b) = factors(selection);
    let (_, tape) = model.forward(batch, selection, 0.8).unwrap();
    model.backward(tape, &a, Some(&b), &mut gradients).unwrap();
    gradients
}

fn list(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference, as a part of the largest expected value.
fn distance(a: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(a.shape(), expected.shape());
    let (a, expected) = (list(a), list(expected));
    let largest = expected.iter().fold(1e-6f64, |most, x| most.max(x.abs()));
    assert!(a.iter().all(|x| x.is_finite()));
    a.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest
}

#[track_caller]
fn assert_near(a: &Gradients, expected: &Gradients, tolerance: f64) {
    assert_eq!(a.iter().count(), expected.iter().count());
    for ((name, a), (_, expected)) in a.iter().zip(expected.iter()) {
        let distance = distance(a, expected);
        assert!(distance <= tolerance, "{name}: {distance}");
    }
}
