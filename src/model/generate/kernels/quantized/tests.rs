#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;
use crate::gguf::{Gguf, TensorType};
use crate::model::generate::kernels::Isa;

const KINDS: [TensorType; 8] = [
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
];

/// Numbers in −1..1, the same each time.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| draw()).collect()
}

/// Rows of random blocks, and their values.
fn matrix(kind: TensorType, rows: usize, depth: usize) -> (Vec<u8>, Vec<f32>) {
    let file = Gguf::open(Path::new("tests/golden/gguf/blocks.gguf")).unwrap();
    let blocks = file.tensor(&format!("{kind:?}")).unwrap().data;
    let blocks: Vec<&[u8]> = blocks.chunks_exact(kind.block_bytes()).collect();
    let count = rows * depth / kind.block_len();
    let data: Vec<u8> =
        (0..count).flat_map(|i| blocks[i * i % blocks.len()].iter().copied()).collect();
    let mut values = vec![0.0; rows * depth];
    crate::gguf::dequantize(kind, &data, &mut values);
    (data, values)
}

fn product(isa: Isa, matrix: &Matrix, x: &[f32], depth: usize, rows: usize) -> Vec<f32> {
    let (mut inputs, mut panels) = (Inputs::default(), Vec::new());
    inputs.round(isa, x, depth, depth, rows);
    let mut out = vec![0.0; rows * matrix.columns()];
    multiply(isa, &inputs, matrix, &mut out, false, &mut panels);
    out
}

#[test]
fn rows_are_kept_exactly() {
    let depth = 512;
    for kind in KINDS {
        let (data, values) = matrix(kind, 21, depth);
        let order: Vec<usize> = (0..21).rev().collect();
        let rows = |order| StoredRows { kind, data: &data, order };
        let packed = Matrix::new(depth, &[rows(None), rows(Some(&order))]).unwrap();
        assert_eq!(packed.columns(), 64);
        let mut row = vec![0.0; depth];
        for at in 0..21 {
            packed.read_row(at, &mut row);
            assert_eq!(row, values[at * depth..][..depth], "{kind:?} {at}");
            packed.read_row(32 + 20 - at, &mut row);
            assert_eq!(row, values[at * depth..][..depth], "{kind:?} {at}");
        }
    }
}

#[test]
fn products_equal_those_of_the_values() {
    let depth = 512;
    for kind in KINDS {
        let (data, values) = matrix(kind, 37, depth);
        let packed = Matrix::new(depth, &[StoredRows { kind, data: &data, order: None }]).unwrap();
        let x = noise(7 * depth, 3);
        let mut first = None;
        for isa in Isa::available() {
            // What the inputs are once they are rounded.
            let mut inputs = Inputs::default();
            inputs.round(isa, &x, depth, depth, 7);
            let rounded: Vec<f64> = inputs
                .numbers
                .iter()
                .enumerate()
                .map(|(i, &n)| f64::from(n) * f64::from(inputs.scales[i / 32]))
                .collect();
            for (x, rounded) in x.iter().zip(&rounded) {
                assert!((f64::from(*x) - rounded).abs() < 1.01 / 254.0, "{x} {rounded}");
            }
            let got = product(isa, &packed, &x, depth, 7);
            for row in 0..7 {
                for column in 0..37 {
                    let terms = (0..depth)
                        .map(|k| rounded[row * depth + k] * f64::from(values[column * depth + k]));
                    let (sum, size) =
                        terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
                    let got = f64::from(got[row * packed.columns() + column]);
                    assert!((got - sum).abs() <= 1e-5 * size, "{isa:?} {kind:?}: {got} {sum}");
                }
            }
            // Instruction sets that fuse multiply and add give the same bits.
            if isa.is_fused() {
                assert_eq!(first.get_or_insert(got.clone()), &got, "{isa:?} {kind:?}");
            }
        }
    }
}

#[test]
fn a_row_is_the_same_bits_in_any_batch() {
    let depth = 512;
    for isa in Isa::available() {
        for kind in KINDS {
            let (data, _) = matrix(kind, 48, depth);
            let rows = StoredRows { kind, data: &data, order: None };
            let packed = Matrix::new(depth, &[rows, rows]).unwrap();
            let x = noise(9 * depth, 5);
            let all = product(isa, &packed, &x, depth, 9);
            for count in 1..9 {
                let some = product(isa, &packed, &x, depth, count);
                assert_eq!(some, all[..some.len()], "{isa:?} {kind:?} {count}");
            }
            let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            let alone = single.install(|| product(isa, &packed, &x, depth, 9));
            assert_eq!(alone, all, "{isa:?} {kind:?}");
        }
    }
}

#[test]
fn products_are_added_and_zeros_are_zero() {
    let depth = 64;
    let (data, _) = matrix(TensorType::Q4_1, 16, depth);
    let rows = StoredRows { kind: TensorType::Q4_1, data: &data, order: None };
    let packed = Matrix::new(depth, &[rows]).unwrap();
    let isa = Isa::detect();
    let mut inputs = Inputs::default();
    let x = [vec![0.0; depth], noise(depth, 1)].concat();
    inputs.round(isa, &x, depth, depth, 2);
    let (mut out, mut panels) = (vec![1.0; 32], Vec::new());
    multiply(isa, &inputs, &packed, &mut out, true, &mut panels);
    assert_eq!(out[..16], [1.0; 16]);
    let plain = product(isa, &packed, &x, depth, 2);
    assert!(out[16..].iter().zip(&plain[16..]).all(|(a, b)| *a == 1.0 + b));
}

#[test]
fn what_is_not_finite_is_not_rounded_to_a_number() {
    let depth = 512;
    for kind in KINDS {
        let (data, _) = matrix(kind, 16, depth);
        let packed = Matrix::new(depth, &[StoredRows { kind, data: &data, order: None }]).unwrap();
        for isa in Isa::available() {
            for (at, value) in [(0, f32::NAN), (40, f32::INFINITY), (511, f32::NEG_INFINITY)] {
                let mut x = noise(2 * depth, 3);
                x[depth + at] = value;
                let got = product(isa, &packed, &x, depth, 2);
                let (plain, odd) = got.split_at(packed.columns());
                assert!(plain.iter().all(|x| x.is_finite()), "{isa:?} {kind:?} {value}");
                assert!(odd.iter().all(|x| x.is_nan()), "{isa:?} {kind:?} {value}");
            }
        }
    }
}

#[test]
fn what_has_no_quantised_form_is_left_to_others() {
    let rows = |kind, data| StoredRows { kind, data, order: None };
    assert!(Matrix::new(32, &[rows(TensorType::F16, &[0; 64])]).is_none());
    // Whole groups, but no whole blocks.
    assert!(Matrix::new(96, &[rows(TensorType::Q4_K, &[0; 144])]).is_none());
}
