//! Fused against composed, operation by operation.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use candle_core::{DType, Device, Tensor};

use super::types::{AttentionInputs, Delta, Head, Layout, Linear, Norm, ScoreGradients};
use super::{attention, bias, composed, embedding, gated, head, linear, rms_norm, rope};
use crate::model::Batch;
use crate::model::rotary::RotaryTable;
use crate::model::spec::{Gate, Rope};

const EPS: f32 = 1e-6;

fn norm(weight: &Tensor) -> Norm<'_> {
    Norm { weight, eps: EPS, offset: 0.0 }
}

/// Values between −1 and 1 that differ with `seed`.
fn tensor(shape: &[usize], seed: usize) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|i: usize| (((i + 31 * seed) * 2_654_435_761 % 100_003) as f32 / 50_001.5) - 1.0)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn double(x: &Tensor) -> Tensor {
    x.to_dtype(DType::F64).unwrap()
}

fn single(x: &Tensor) -> Tensor {
    x.to_dtype(DType::F32).unwrap()
}

/// Equal within 1e-5 of the largest expected value.
#[track_caller]
fn assert_near(fused: &Tensor, composed: &Tensor) {
    assert_eq!(fused.shape(), composed.shape());
    let list = |x: &Tensor| double(x).flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let (fused, composed) = (list(fused), list(composed));
    let largest = composed.iter().fold(1e-3f64, |most, x| most.max(x.abs()));
    for (i, (a, b)) in fused.iter().zip(&composed).enumerate() {
        assert!((a - b).abs() <= 1e-5 * largest, "at {i}: fused {a}, composed {b}");
    }
}

#[test]
fn rms_norm_agrees() {
    for (rows, width, offset) in [(1, 3, 0.0), (5, 33, 1.0), (300, 64, 0.0)] {
        fn norm(weight: &Tensor, offset: f32) -> Norm<'_> {
            Norm { weight, eps: EPS, offset }
        }
        let (x, weight, d_y) =
            (tensor(&[rows, width], 1), tensor(&[width], 2), tensor(&[rows, width], 3));
        let y = rms_norm::forward(&x, norm(&weight, offset)).unwrap();
        assert_near(&y, &composed::rms_norm(&double(&x), norm(&double(&weight), offset)).unwrap());
        // Both add to what is there.
        let (mut d_x, mut d_weight) = (tensor(&[rows, width], 4), tensor(&[width], 5));
        let (mut e_x, mut e_weight) = (double(&d_x), double(&d_weight));
        rms_norm::backward(&x, norm(&weight, offset), &d_y, &mut d_x, Some(&mut d_weight)).unwrap();
        let (x, weight, d_y) = (double(&x), double(&weight), double(&d_y));
        composed::rms_norm_backward(&x, norm(&weight, offset), &d_y, &mut e_x, Some(&mut e_weight))
            .unwrap();
        assert_near(&d_x, &e_x);
        assert_near(&d_weight, &e_weight);
    }
}

#[test]
fn rope_agrees_with_a_norm_and_without() {
    for (rows, heads, head_dim) in [(1, 1, 2), (7, 3, 6), (300, 2, 32)] {
        let shape = [rows, heads * head_dim];
        let (x, weight, d_y) = (tensor(&shape, 1), tensor(&[head_dim], 2), tensor(&shape, 3));
        let positions: Vec<u32> = (0..rows as u32).map(|row| row % 170).collect();
        let table = RotaryTable::new(&Rope::new(1e4), head_dim, 170);
        let rotation = table.rotation(&positions, &Device::Cpu).unwrap();
        let (x2, weight2, d_y2) = (double(&x), double(&weight), double(&d_y));

        let y = rope::forward(&x, Some(norm(&weight)), &rotation).unwrap();
        let expected = composed::norm_rope(&x2, Some(norm(&weight2)), &rotation).unwrap();
        assert_near(&y, &expected);
        let (mut d_weight, mut e_weight) =
            (tensor(&[head_dim], 5), double(&tensor(&[head_dim], 5)));
        let normed = Some((&x, norm(&weight)));
        let d_x = rope::backward(normed, &rotation, single(&d_y2), Some(&mut d_weight)).unwrap();
        let normed = Some((&x2, norm(&weight2)));
        let e_x = composed::norm_rope_backward(normed, &rotation, &d_y2, Some(&mut e_weight));
        assert_near(&d_x, &e_x.unwrap());
        assert_near(&d_weight, &e_weight);

        let y = rope::forward(&x, None, &rotation).unwrap();
        assert_near(&y, &composed::norm_rope(&x2, None, &rotation).unwrap());
        let d_x = rope::backward(None, &rotation, single(&d_y2), None).unwrap();
        assert_near(&d_x, &composed::norm_rope_backward(None, &rotation, &d_y2, None).unwrap());
    }
}

#[test]
fn gates_agree() {
    for kind in [Gate::Silu, Gate::GeluTanh] {
        let shape = [3, 20_000];
        let gate = (tensor(&shape, 1) * 30.0).unwrap();
        let (up, d_y) = (tensor(&shape, 2), tensor(&shape, 3));
        let y = gated::forward(&gate, &up, kind).unwrap();
        let (gate, up, d_y) = (double(&gate), double(&up), double(&d_y));
        let expected = composed::gated_backward(&gate, &up, &d_y, kind).unwrap();
        assert_near(&y, &composed::gated(&gate, &up, kind).unwrap());
        let gradient = gated::backward(single(&gate), single(&up), single(&d_y), kind).unwrap();
        assert_near(&y, &expected.y);
        assert_near(&gradient.y, &expected.y);
        assert_near(&gradient.d_gate, &expected.d_gate);
        assert_near(&gradient.d_up, &expected.d_up);
    }
}

#[test]
fn biases_agree() {
    let (y, bias_, d_y) = (tensor(&[300, 7], 1), tensor(&[7], 2), tensor(&[300, 7], 3));
    let expected = composed::bias(double(&y), &double(&bias_)).unwrap();
    assert_near(&bias::forward(y, &bias_).unwrap(), &expected);
    let (mut d_bias, mut e_bias) = (tensor(&[7], 4), double(&tensor(&[7], 4)));
    bias::backward(&d_y, &mut d_bias).unwrap();
    composed::bias_backward(&double(&d_y), &mut e_bias).unwrap();
    assert_near(&d_bias, &e_bias);
}

#[test]
fn linear_agrees() {
    for (rows, n, k) in [(1, 1, 1), (9, 40, 7), (600, 70, 130)] {
        let (x, weight, d_y) = (tensor(&[rows, k], 1), tensor(&[n, k], 2), tensor(&[rows, n], 3));
        let (x2, weight2, d_y2) = (double(&x), double(&weight), double(&d_y));
        let delta = Delta { a: tensor(&[3, k], 6), b: tensor(&[n, 3], 7), scale: 0.7 };
        let delta2 = Delta { a: double(&delta.a), b: double(&delta.b), scale: 0.7 };
        for has_delta in [false, true] {
            let linear = Linear { weight: &weight, delta: has_delta.then_some(&delta) };
            let linear2 = Linear { weight: &weight2, delta: has_delta.then_some(&delta2) };
            for residual in [None, Some(tensor(&[rows, n], 4))] {
                let y = linear::forward(&x, linear, residual.as_ref()).unwrap();
                let residual = residual.as_ref().map(double);
                assert_near(&y, &composed::linear(&x2, linear2, residual.as_ref()).unwrap());
            }
            let (mut d_x, mut e_x) = (None, None);
            for _ in 0..2 {
                d_x = Some(linear::backward_input(&d_y, linear, d_x).unwrap());
                e_x = Some(composed::linear_backward_input(&d_y2, linear2, e_x).unwrap());
                assert_near(d_x.as_ref().unwrap(), e_x.as_ref().unwrap());
            }
        }
        let mut d_weight = tensor(&[n, k], 5);
        let mut e_weight = double(&d_weight);
        linear::backward_weight(&d_y, &x, &mut d_weight).unwrap();
        composed::linear_backward_weight(&d_y2, &x2, &mut e_weight).unwrap();
        assert_near(&d_weight, &e_weight);
        let (mut d_a, mut d_b) = (tensor(&[3, k], 8), tensor(&[n, 3], 9));
        let (mut e_a, mut e_b) = (double(&d_a), double(&d_b));
        linear::backward_a(&d_y, &x, &delta, &mut d_a).unwrap();
        linear::backward_b(&d_y, &x, &delta, &mut d_b).unwrap();
        linear::backward_a(&d_y2, &x2, &delta2, &mut e_a).unwrap();
        linear::backward_b(&d_y2, &x2, &delta2, &mut e_b).unwrap();
        assert_near(&d_a, &e_a);
        assert_near(&d_b, &e_b);
    }
}

#[test]
fn embedding_agrees() {
    let (table, ids) = (tensor(&[9, 5], 1), [3, 0, 3, 8]);
    let y = embedding::forward(&table, &ids).unwrap();
    assert_near(&y, &composed::embedding(&double(&table), &ids).unwrap());
    let (d_y, mut d_table) = (tensor(&[4, 5], 2), tensor(&[9, 5], 3));
    let mut e_table = double(&d_table);
    embedding::backward(&d_y, &ids, &mut d_table).unwrap();
    composed::embedding_backward(&double(&d_y), &ids, &mut e_table).unwrap();
    assert_near(&d_table, &e_table);
}

#[test]
fn attention_agrees() {
    let alone = |lengths: &[usize]| lengths.iter().map(|&length| (length, None)).collect();
    for (heads, kv_heads, head_dim, branches) in [
        (1, 1, 2, alone(&[1])),
        (4, 2, 6, alone(&[5, 1, 70, 33])),
        (4, 1, 40, alone(&[32, 64, 3])),
        (3, 3, 16, alone(&[150])),
        // Two trees: of five branches, and of two.
        (
            4,
            2,
            6,
            vec![
                (40, None),
                (70, Some(9)),
                (1, Some(39)),
                (33, Some(60)),
                (3, Some(140)),
                (5, None),
                (9, Some(151)),
            ],
        ),
    ] {
        let mut batch = Batch { starts: vec![0], ..Batch::default() };
        for (length, parent) in branches {
            batch.ids.resize(batch.len() + length, 0);
            batch.starts.push(batch.len());
            batch.parents.push(parent);
        }
        batch.check(1, 1000).unwrap();
        let rows = batch.len();
        let layout = Layout { trees: batch.trees(), heads, kv_heads, head_dim, scale: 0.3 };
        let (wide, narrow) = ([rows, heads * head_dim], [rows, kv_heads * head_dim]);
        let (q, k, v) = ((tensor(&wide, 1) * 3.0).unwrap(), tensor(&narrow, 2), tensor(&narrow, 3));
        let d_y = tensor(&wide, 4);
        let (q2, k2, v2) = (double(&q), double(&k), double(&v));
        for window in [None, Some(2), Some(20), Some(64)] {
            let inputs = AttentionInputs { q: &q, k: &k, v: &v, window };
            let output = attention::forward(&inputs, &layout).unwrap();
            let gradient = attention::backward(&inputs, &layout, &output, &d_y).unwrap();
            let inputs = AttentionInputs { q: &q2, k: &k2, v: &v2, window };
            assert_near(&output.y, &composed::attention::forward(&inputs, &layout).unwrap());
            let expected = composed::attention::backward(&inputs, &layout, &double(&d_y)).unwrap();
            assert_near(&gradient.d_q, &expected.d_q);
            assert_near(&gradient.d_k, &expected.d_k);
            assert_near(&gradient.d_v, &expected.d_v);
        }
    }
}

#[test]
fn head_agrees() {
    // The last two need several blocks of tokens, and of rows.
    for (rows, vocab, width) in [(1, 2, 1), (10, 700, 8), (150, 9000, 16), (1100, 40, 5)] {
        let hidden = (tensor(&[rows, width], 1) * 3.0).unwrap();
        let weight = tensor(&[vocab, width], 2);
        let targets: Vec<u32> = (0..rows).map(|row| (row * 7919 % vocab) as u32).collect();
        let fused = Head { hidden: &hidden, weight: &weight, targets: &targets, temperature: 0.6 };
        let (hidden2, weight2) = (double(&hidden), double(&weight));
        let oracle = Head { hidden: &hidden2, weight: &weight2, ..fused };
        let (scores, log_sums) = head::forward(&fused).unwrap();
        let (expected, _) = head::forward(&oracle).unwrap();
        let vector = |x: &[f32]| Tensor::new(x, &Device::Cpu).unwrap();
        assert_near(&vector(&scores.log_probs), &vector(&expected.log_probs));
        assert_near(&vector(&scores.entropies), &vector(&expected.entropies));
        let d_log_probs = tensor(&[rows], 3).to_vec1::<f32>().unwrap();
        let d_entropies = tensor(&[rows], 4).to_vec1::<f32>().unwrap();
        for entropies in [None, Some(&d_entropies[..])] {
            let gradient = ScoreGradients { log_probs: &d_log_probs, entropies };
            let mut d_weight = tensor(&[vocab, width], 5);
            let mut e_weight = double(&d_weight);
            let d_hidden =
                head::backward(&fused, &scores, &log_sums, gradient, Some(&mut d_weight)).unwrap();
            let e_hidden = composed::head_backward(&oracle, gradient, Some(&mut e_weight)).unwrap();
            assert_near(&d_hidden, &e_hidden);
            assert_near(&d_weight, &e_weight);
        }
    }
}
