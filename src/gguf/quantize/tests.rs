#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;
use crate::gguf::{Gguf, dequantize, is_finite};

const SEARCHED: [TensorType; 3] = [TensorType::Q4_K, TensorType::Q5_0, TensorType::Q6_K];

/// Rows of weights, and the squared errors of llama.cpp (`tests/golden/gguf/rows.py`).
fn golden() -> Gguf {
    Gguf::open(Path::new("tests/golden/gguf/rows.gguf")).unwrap()
}

fn normal() -> Vec<f32> {
    golden().tensor("normal").unwrap().to_f32()
}

fn read_back(kind: TensorType, values: &[f32]) -> Vec<f32> {
    let data = quantize(kind, values).unwrap();
    assert!(is_finite(kind, &data), "{kind:?}");
    let mut read = vec![0.0; values.len()];
    dequantize(kind, &data, &mut read);
    read
}

fn squared_error(kind: TensorType, values: &[f32]) -> f64 {
    let read = read_back(kind, values);
    read.iter().zip(values).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// The root of the squared error, as a part of that of the values' squares.
fn relative_error(kind: TensorType, values: &[f32]) -> f64 {
    let squares: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
    (squared_error(kind, values) / squares).sqrt()
}

#[test]
fn rows_are_quantised_better_than_by_llama_cpp() {
    let file = golden();
    assert_eq!(file.tensors().count(), 4);
    for (name, rows) in file.tensors() {
        // Measured, at most: 0.990, 0.986 and 0.980.
        for (kind, most) in SEARCHED.into_iter().zip([0.992, 0.988, 0.982]) {
            let theirs = file.float(&format!("{name}.{kind:?}")).unwrap().unwrap();
            let ratio = (squared_error(kind, &rows.to_f32()) / theirs).sqrt();
            assert!(ratio <= most, "{name} in {kind:?}: {ratio}");
        }
    }
}

/// Values of so many blocks that a type can express: `of` makes a group of its index and numbers,
/// among them the least and the largest.
fn grid<const N: usize>(groups: usize, low: i32, of: impl Fn(usize, f32) -> f32) -> Vec<f32> {
    let number = move |i: usize| match i % N {
        0 => low,
        1 => -low - 1,
        other => low + (i * 7 + other * i / N) as i32 % -(2 * low),
    };
    (0..groups * N).map(|i| of(i / N, number(i) as f32)).collect()
}

#[test]
fn values_on_the_grid_are_exact() {
    let q5_0 = grid::<32>(64, -16, |group, number| (group + 1) as f32 / 1024.0 * number);
    let q6_k = grid::<16>(64, -32, |group, number| {
        let block = (group / 16 + 1) as f32 / 512.0;
        let multiple = [-128.0, 127.0, 3.0, -50.0, 1.0, 0.0][group % 16 % 6];
        block * multiple * number
    });
    let q4_k = grid::<32>(64, -8, |group, number| {
        let block = (group / 8 + 1) as f32 / 256.0;
        let scale = [63.0, 1.0, 40.0, 0.0, 17.0][group % 8 % 5];
        let minimum = [5.0, 0.0, 63.0, 33.0, 16.0, 48.0][group % 8 % 6];
        block * scale * (number + 8.0) - block * 0.5 * minimum
    });
    for (kind, values) in
        [(TensorType::Q5_0, q5_0), (TensorType::Q6_K, q6_k), (TensorType::Q4_K, q4_k)]
    {
        assert_eq!(read_back(kind, &values), values, "{kind:?}");
    }
}

#[test]
fn zeros_stay_zeros() {
    for kind in SEARCHED {
        let data = quantize(kind, &[0.0; 512]).unwrap();
        assert!(halves(kind).iter().all(|&at| data[at..at + 2] == [0, 0]), "{kind:?}");
        assert_eq!(read_back(kind, &[0.0; 512]), [0.0; 512]);
    }
}

/// Only the scale is rounded; where it is below the normal halves, a bit more.
#[test]
fn equal_values_keep_the_precision_of_the_scale() {
    for kind in SEARCHED {
        for value in [0.5, -0.5, 0.07, -3.0, 1234.5] {
            let error = relative_error(kind, &[value; 256]);
            assert!(error <= 1e-3, "{value} in {kind:?}: {error}");
        }
    }
}

#[test]
fn a_large_value_takes_no_precision_from_other_groups() {
    for (kind, most) in SEARCHED.into_iter().zip([0.085, 0.045, 0.02]) {
        for outlier in [0.5, -0.5] {
            let mut values = normal();
            values.iter_mut().step_by(256).for_each(|x| *x = outlier);
            let read = read_back(kind, &values);
            let far = |i: usize| (i % 256 >= 32).then(|| (values[i], read[i]));
            let far: Vec<(f32, f32)> = (0..values.len()).filter_map(far).collect();
            let squares =
                |of: fn(&(f32, f32)) -> f32| far.iter().map(of).map(|x| x * x).sum::<f32>();
            let error = (squares(|(a, b)| a - b) / squares(|(a, _)| *a)).sqrt();
            assert!(error <= most, "{outlier} in {kind:?}: {error}");
            let error = (read[0] / outlier - 1.0).abs();
            assert!(error <= 0.05, "{outlier} in {kind:?}: {error}");
        }
    }
}

/// Where the scale is so small that halves are coarse, numbers make up for it.
#[test]
fn small_values_keep_their_precision() {
    for (kind, most) in SEARCHED.into_iter().zip([0.08, 0.05, 0.025]) {
        for by in [1.0, 1e-2, 1e-4] {
            let values: Vec<f32> = normal().into_iter().map(|x| x * by).collect();
            let error = relative_error(kind, &values);
            assert!(error <= most, "{by} in {kind:?}: {error}");
        }
        let tiny = [f32::MIN_POSITIVE, -f32::MIN_POSITIVE].repeat(128);
        assert!(read_back(kind, &tiny).iter().all(|x| x.abs() < 1e-5), "{kind:?}");
    }
}

#[test]
fn what_a_type_cannot_hold_is_not_finite() {
    for kind in SEARCHED.into_iter().chain([TensorType::Q8_0]) {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e9, -1e9, f32::MAX, f32::MIN] {
            for at in [0, 77, 255] {
                let mut values = normal();
                values[at] = value;
                let data = quantize(kind, &values).unwrap();
                assert!(!is_finite(kind, &data), "{value} at {at} in {kind:?}");
            }
        }
    }
}
