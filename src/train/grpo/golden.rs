//! Against TRL's GRPOTrainer; `tests/golden/grpo/make.py` made the numbers.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device};
use serde::Deserialize;

use super::advantage::{Scaling, advantages};
use super::objective::{Objective, ObjectiveSums, SampledTokens, TokenGradients, UpdateSize};
use crate::model::{Batch, Model, Selection};

#[derive(Deserialize)]
struct Golden {
    group_size: usize,
    prompts: Vec<Vec<u32>>,
    completions: Vec<Vec<u32>>,
    masks: Vec<Vec<u8>>,
    rewards: Vec<f64>,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    objective: Objective,
    log_probs: Vec<Vec<f64>>,
    rollout: Vec<Vec<f64>>,
    reference: Vec<Vec<f64>>,
    entropies: Vec<Vec<f64>>,
    advantages: Vec<f64>,
    loss: f64,
    gradient_norm: f64,
    clip_low: Option<f64>,
    clip_high: Option<f64>,
    kl: Option<f64>,
    entropy: Option<f64>,
}

impl Golden {
    /// All sequences packed, and the rows of their sampled tokens.
    fn pack(&self) -> (Batch, Selection) {
        let sequences: Vec<Vec<u32>> = (self.completions.iter().enumerate())
            .map(|(index, ids)| {
                [self.prompts[index / self.group_size].clone(), ids.clone()].concat()
            })
            .collect();
        let batch = Batch::pack(&sequences);
        let mut selection = Selection::default();
        for (index, mask) in self.masks.iter().enumerate() {
            let begin = batch.starts[index] + self.prompts[index / self.group_size].len();
            for (at, _) in mask.iter().enumerate().filter(|(_, sampled)| **sampled == 1) {
                selection.rows.push((begin + at - 1) as u32);
                selection.targets.push(self.completions[index][at]);
            }
        }
        (batch, selection)
    }

    /// The values of one trajectory's sampled tokens.
    fn sampled(&self, values: &[Vec<f64>], index: usize) -> Vec<f64> {
        let sampled = self.masks[index].iter().zip(&values[index]).filter(|(mask, _)| **mask == 1);
        sampled.map(|(_, value)| *value).collect()
    }
}

fn assert_near(found: f64, expected: f64, what: &str) {
    assert!((found - expected).abs() < 1e-5, "{what}: {found} is not {expected}");
}

#[test]
fn agrees_with_trl() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let text = std::fs::read_to_string(root.join("grpo/cases.json")).unwrap();
    let golden: Golden = serde_json::from_str(&text).unwrap();
    let model = Model::load(&root.join("model/tied"), DType::F32, &Device::Cpu).unwrap();
    let (batch, selection) = golden.pack();
    let size = UpdateSize { sequences: golden.completions.len(), tokens: selection.len() };
    for (name, case) in &golden.cases {
        // TRL's epsilon differs from the published method's.
        let found: Vec<f64> = golden
            .rewards
            .chunks(golden.group_size)
            .flat_map(|rewards| advantages(rewards, Scaling::Deviation, 1e-4).unwrap())
            .collect();
        for (found, expected) in found.iter().zip(&case.advantages) {
            assert_near(*found, *expected, name);
        }

        let (scores, tape) = model.forward(&batch, &selection, 1.0).unwrap();
        let (mut token_gradients, mut sums) = (TokenGradients::default(), ObjectiveSums::default());
        for (index, &advantage) in found.iter().enumerate() {
            let scored = token_gradients.log_probs.len();
            let log_probs = golden.sampled(&case.log_probs, index);
            let entropies = golden.sampled(&case.entropies, index);
            for (at, expected) in log_probs.iter().enumerate() {
                assert_near(f64::from(scores.log_probs[scored + at]), *expected, name);
                assert_near(f64::from(scores.entropies[scored + at]), entropies[at], name);
            }
            let own = &scores.log_probs[scored..scored + log_probs.len()];
            let own: Vec<f64> = own.iter().map(|&p| f64::from(p)).collect();
            let rollout = golden.sampled(&case.rollout, index);
            let reference = golden.sampled(&case.reference, index);
            let cap = case.objective.importance_cap;
            let weights: Option<Vec<f64>> = cap.map(|cap| {
                own.iter()
                    .zip(&rollout)
                    .map(|(own, rollout)| (own - rollout).exp().min(cap))
                    .collect()
            });
            let tokens = SampledTokens {
                log_probs: &own,
                old: if cap.is_some() { &own } else { &rollout },
                reference: (case.objective.kl_coef != 0.0).then_some(reference.as_slice()),
                weights: weights.as_deref(),
                entropies: &entropies,
                advantage,
            };
            case.objective.add(&tokens, size, &mut token_gradients, &mut sums);
        }
        let f32s = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
        let mut gradients = model.gradients().unwrap();
        let (log_probs, entropies) =
            (f32s(&token_gradients.log_probs), f32s(&token_gradients.entropies));
        model.backward(tape, &log_probs, Some(&entropies), &mut gradients).unwrap();

        assert_near(sums.loss, case.loss, name);
        assert_near(gradients.norm().unwrap(), case.gradient_norm, name);
        if case.objective.importance == super::objective::Importance::Token {
            assert_near(sums.clipped_low / sums.tokens, case.clip_low.unwrap(), name);
            assert_near(sums.clipped_high / sums.tokens, case.clip_high.unwrap(), name);
        }
        assert_near(sums.entropy / sums.tokens, case.entropy.unwrap(), name);
        if let Some(kl) = case.kl {
            assert_near(sums.kl / sums.tokens, kl, name);
        }
    }
}
