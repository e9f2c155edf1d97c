//! The gradient of what is sent is that of the objective, checked with PyTorch
//! (`tests/golden/tinker/`).

use std::path::Path;

use serde::Deserialize;

use super::config::LossScale;
use super::learner::{advantages, spread};
use crate::train::grpo::collect::Sample;
use crate::train::grpo::config::GrpoConfig;
use crate::train::grpo::figures::StepFigures;
use crate::train::grpo::learner::TraceScores;
use crate::train::grpo::objective::Objective;
use crate::train::grpo::preset::Preset;
use crate::train::grpo::update::{OtherScores, Update};
use crate::trajectory::{SampledToken, TokenTrace};

#[derive(Deserialize)]
struct Case {
    name: String,
    objective: Objective,
    loss: f64,
    trajectories: Vec<Trajectory>,
    advantages: Advantages,
}

/// One value for each position after the first token.
#[derive(Deserialize)]
struct Trajectory {
    mask: Vec<bool>,
    now: Vec<f64>,
    rollout: Vec<f32>,
    reference: Vec<f64>,
    advantage: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Advantages {
    sum: Vec<Vec<f64>>,
    skyrl_jax: Vec<Vec<f64>>,
}

impl Trajectory {
    fn trace(&self) -> TokenTrace {
        let mut trace = TokenTrace::default();
        trace.push_context(&[0]);
        for (&sampled, &log_prob) in self.mask.iter().zip(&self.rollout) {
            match sampled {
                true => trace.push_action(SampledToken { id: 1, log_prob }),
                false => trace.push_context(&[2]),
            }
        }
        trace
    }

    fn sampled(&self, values: &[f64]) -> Vec<f64> {
        let values = values.iter().zip(&self.mask).filter(|(_, sampled)| **sampled);
        values.map(|(value, _)| *value).collect()
    }
}

fn config(objective: Objective) -> GrpoConfig {
    let text = r#"
        schema_version = 1
        output = "unused"
        model = { path = "unused" }
        tasks = { kind = "world", questions = ["single"] }
        large_model = { path = "unused" }
    "#;
    let config = Preset::Default.complete(toml::from_str(text).unwrap()).unwrap();
    GrpoConfig { objective, ..config }
}

#[test]
fn the_gradients_that_are_sent_are_those_of_the_objective() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tinker/cases.json");
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(cases.len() >= 5);
    for case in cases {
        let config = config(case.objective);
        let traces: Vec<TokenTrace> = case.trajectories.iter().map(Trajectory::trace).collect();
        let samples: Vec<Sample<'_>> = (traces.iter().zip(&case.trajectories))
            .map(|(trace, trajectory)| Sample { trace, advantage: trajectory.advantage })
            .collect();
        let reference: Vec<Vec<f64>> =
            case.trajectories.iter().map(|t| t.sampled(&t.reference)).collect();
        let reference = (config.objective.kl_coef != 0.0).then_some(&reference[..]);
        let mut figures = StepFigures::default();
        let others = OtherScores { before: None, reference };
        let mut update = Update::new(&config, &samples, others, &mut figures);
        for (index, trajectory) in case.trajectories.iter().enumerate() {
            let log_probs = trajectory.sampled(&trajectory.now);
            let entropies = vec![0.0; log_probs.len()];
            let gradients = update.gradients(index, &TraceScores { log_probs, entropies });
            let token_gradients = spread(&traces[index], &gradients.log_probs);
            for (scale, expected) in [
                (LossScale::Sum, &case.advantages.sum[index]),
                (LossScale::SkyrlJax, &case.advantages.skyrl_jax[index]),
            ] {
                let found = advantages(scale, traces.len(), &token_gradients);
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(expected) {
                    let off = (f64::from(*found) - expected).abs();
                    assert!(off < 1e-5 * expected.abs().max(1.0), "{}: off by {off}", case.name);
                }
            }
        }
        let off = (update.loss() - case.loss).abs();
        assert!(off < 1e-6, "{}: the loss is off by {off}", case.name);
    }
}
