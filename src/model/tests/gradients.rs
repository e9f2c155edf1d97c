//! The gradient against finite differences, and changes that must not affect it.

use candle_core::DType;

use super::{
    assert_near, batch, cast, factors, gradients, list, model, tiny, tiny_gemma, tiny_llama, wave,
};
use crate::model::{Adapter, AdapterConfig, Batch, Model, Projection, Selection};

/// `Σ a·log_probs + b·entropies`, the scores computed in f64.
fn objective(model: &Model, batch: &Batch, selection: &Selection) -> f64 {
    let (a, b) = factors(selection);
    let scores = model.score(batch, selection, 0.8).unwrap();
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    dot(&a, &scores.log_probs) + dot(&b, &scores.entropies)
}

fn with_adapter(spec: &crate::model::Spec) -> Model {
    let base = model(spec);
    let adapter = AdapterConfig { rank: 3, alpha: 6.0, targets: Projection::ALL.to_vec() };
    let adapter = Adapter::new(spec, adapter, 5, DType::F32, &candle_core::Device::Cpu).unwrap();
    let mut model = base.with_adapter(adapter);
    // As after some training: `B` is no longer zero.
    for (index, (name, tensor)) in model.trainable_mut().into_iter().enumerate() {
        if name.contains("lora_B") {
            *tensor = (wave(tensor.dims(), index) * 0.2).unwrap();
        }
    }
    model
}

/// Every option, trained whole and by an adapter.
fn models() -> Vec<Model> {
    let mut models = Vec::new();
    for spec in [tiny(false), tiny(true), tiny_llama(), tiny_gemma()] {
        models.extend([model(&spec), with_adapter(&spec)]);
    }
    models
}

/// The fused gradient against central differences of the portable forward in f64, along one
/// direction for each trainable tensor.
#[test]
fn agrees_with_differences() {
    const STEP: f64 = 5e-4;
    let batch = batch();
    let selection = Selection::next_tokens(&batch);
    for model in models() {
        let gradients = gradients(&model, &batch, &selection);
        for (index, (name, gradient)) in gradients.iter().enumerate() {
            let direction = wave(gradient.dims(), index + 40);
            let analytic: f64 =
                list(gradient).iter().zip(list(&direction)).map(|(g, d)| g * d).sum();
            let moved = |step: f64| {
                let mut model = cast(&model, DType::F64);
                let change = (direction.to_dtype(DType::F64).unwrap() * step).unwrap();
                let (_, tensor) = model.trainable_mut().swap_remove(index);
                *tensor = (&*tensor + change).unwrap();
                objective(&model, &batch, &selection)
            };
            let numeric = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            let scale = analytic.abs().max(1.0);
            assert!(
                (analytic - numeric).abs() < 5e-3 * scale,
                "{name}: {analytic}, by differences {numeric}"
            );
        }
    }
}

#[test]
fn every_trainable_tensor_has_a_gradient() {
    let batch = batch();
    let selection = Selection::next_tokens(&batch);
    for model in models() {
        let gradients = gradients(&model, &batch, &selection);
        let names: Vec<String> = model.trainable().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, gradients.iter().map(|(name, _)| name).collect::<Vec<_>>());
        for (name, gradient) in gradients.iter() {
            let values = list(gradient);
            assert!(values.iter().all(|x| x.is_finite()), "{name}");
            assert!(values.iter().any(|x| x.abs() > 1e-4), "{name} has no gradient");
        }
    }
}

/// The largest relative difference that rounding to f16 may make in a gradient.
const HALF: f64 = 0.05;

#[test]
fn fused_agrees_with_composed() {
    let batch = batch();
    let selection = Selection::next_tokens(&batch);
    for model in models() {
        let fused = gradients(&model, &batch, &selection);
        let portable = gradients(&cast(&model, DType::F64), &batch, &selection);
        assert_near(&fused, &portable, 1e-4);
        // Half precision uses the composed form with its own roundings.
        let half = gradients(&cast(&model, DType::F16), &batch, &selection);
        assert_near(&half, &portable, HALF);
        // bf16 has three bits less; the weights' own rounding is excluded from the comparison.
        let rounded = cast(&model, DType::BF16);
        let portable = gradients(&cast(&rounded, DType::F64), &batch, &selection);
        assert_near(&gradients(&rounded, &batch, &selection), &portable, 8.0 * HALF);
    }
}

#[test]
fn recomputing_changes_nothing() {
    let (batch, spec) = (batch(), tiny(true));
    let selection = Selection::next_tokens(&batch);
    for mut model in [model(&spec), with_adapter(&spec)] {
        let kept = gradients(&model, &batch, &selection);
        model.set_recompute(true);
        assert_near(&gradients(&model, &batch, &selection), &kept, 0.0);
    }
}

#[test]
fn packed_sequences_do_not_see_each_other() {
    let model = model(&tiny(true));
    let packed = batch();
    let selection = Selection::next_tokens(&packed);
    let together = gradients(&model, &packed, &selection);
    let scores = model.score(&packed, &selection, 0.8).unwrap();
    let (a, b) = factors(&selection);
    let mut alone = model.gradients().unwrap();
    let mut done = 0;
    for pair in packed.starts.windows(2) {
        let single = Batch::pack(&[&packed.ids[pair[0]..pair[1]]]);
        let selection = Selection::next_tokens(&single);
        if selection.is_empty() {
            continue;
        }
        let (single_scores, tape) = model.forward(&single, &selection, 0.8).unwrap();
        let range = done..done + selection.len();
        for (x, y) in single_scores.log_probs.iter().zip(&scores.log_probs[range.clone()]) {
            assert!((x - y).abs() < 1e-5);
        }
        model.backward(tape, &a[range.clone()], Some(&b[range.clone()]), &mut alone).unwrap();
        done = range.end;
    }
    assert_eq!(done, selection.len());
    assert_near(&alone, &together, 1e-5);
}

/// Sequences with common prefixes: one that another continues, one twice, and one of its own.
#[test]
fn what_sequences_share_is_computed_once() {
    let common: Vec<u32> = (0..40).map(|i| i * 5 % 23).collect();
    let sequences = [
        vec![22, 3, 4],
        common[..20].to_vec(),
        [&common[..20], &[7, 7, 1]].concat(),
        [&common[..20], &[7, 8]].concat(),
        [&common[..20], &[7, 8]].concat(),
        common.clone(),
    ];
    let (apart, (merged, rows)) = (Batch::pack(&sequences), Batch::merge(&sequences));
    assert_eq!(merged.len(), 3 + 20 + 3 + 1 + 20);
    assert_eq!(merged.parents, [None, None, Some(22), Some(23), Some(22)]);
    for (sequence, rows) in sequences.iter().zip(&rows) {
        let at = |&row: &u32| row as usize;
        assert!(rows.iter().map(at).map(|row| merged.ids[row]).eq(sequence.iter().copied()));
        let positions = merged.positions();
        assert!(rows.iter().map(at).map(|row| positions[row]).eq(0..rows.len() as u32));
    }
    let selection = Selection::next_tokens(&apart);
    let pairs = rows.iter().flat_map(|rows| &rows[..rows.len() - 1]);
    let shared = Selection { rows: pairs.copied().collect(), ..selection.clone() };
    for model in [model(&tiny(true)), with_adapter(&tiny(false))] {
        for dtype in [DType::F32, DType::F64] {
            let model = cast(&model, dtype);
            let expected = model.score(&apart, &selection, 0.8).unwrap();
            let found = model.score(&merged, &shared, 0.8).unwrap();
            let pairs = expected.log_probs.iter().zip(&found.log_probs);
            assert!(pairs.map(|(a, b)| (a - b).abs()).all(|gap| gap < 1e-5));
            let expected = gradients(&model, &apart, &selection);
            assert_near(&gradients(&model, &merged, &shared), &expected, 1e-5);
        }
    }
}

#[test]
fn what_no_selected_row_sees_has_no_influence() {
    let model = model(&tiny(false));
    let first = Batch::pack(&[[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]]);
    let selection = Selection { rows: vec![1, 3], targets: vec![3, 5] };
    let mut second = first.clone();
    // After the last selected row, and in another sequence.
    second.ids[4..].copy_from_slice(&[20, 21, 22, 0, 1, 19, 18, 17]);
    assert_eq!(
        model.score(&first, &selection, 0.8).unwrap(),
        model.score(&second, &selection, 0.8).unwrap()
    );
    let (a, b) = (gradients(&model, &first, &selection), gradients(&model, &second, &selection));
    assert_near(&a, &b, 0.0);
}

#[test]
fn gradients_add_up_and_scale() {
    let model = model(&tiny(true));
    let batch = batch();
    let selection = Selection::next_tokens(&batch);
    let once = gradients(&model, &batch, &selection);
    let mut twice = model.gradients().unwrap();
    for _ in 0..2 {
        let (a, b) = factors(&selection);
        let (_, tape) = model.forward(&batch, &selection, 0.8).unwrap();
        model.backward(tape, &a, Some(&b), &mut twice).unwrap();
    }
    assert!((twice.norm().unwrap() / once.norm().unwrap() - 2.0).abs() < 1e-5);
    twice.scale(0.5).unwrap();
    assert_near(&twice, &once, 1e-5);
    twice.clear().unwrap();
    assert_eq!(twice.norm().unwrap(), 0.0);
}
