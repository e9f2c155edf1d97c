//! Packs trajectories for an update so that common prefixes are computed once.
//!
//! The episodes of a group share their question, and most share their first thought and prompt.
//! Scores and gradient are those of computing each trajectory by itself.

use crate::model::{Batch, Model, ModelError, Selection, TokenScores};
use crate::trajectory::TokenTrace;

/// Some trajectories as one batch.
pub struct Pack {
    /// The tree of their tokens.
    pub batch: Batch,
    /// All sampled tokens in it.
    pub selection: Selection,
    /// The trajectories.
    pub members: Vec<Member>,
}

/// A trajectory of a pack.
pub struct Member {
    /// Which of the packed ones.
    pub index: usize,
    /// The index of each of its sampled tokens in the selection.
    entries: Vec<usize>,
}

impl Pack {
    /// Packs all of `traces`, at most `tokens` tokens together, or one trajectory.
    pub fn all(traces: &[&TokenTrace], tokens: usize) -> Vec<Self> {
        // After sorting, trajectories with the longest common prefixes are adjacent.
        let mut order: Vec<usize> = (0..traces.len()).collect();
        order.sort_by_key(|&index| &traces[index].ids);
        let mut parts: Vec<Vec<usize>> = Vec::new();
        let mut filled = 0;
        for index in order {
            let ids = &traces[index].ids;
            if let Some(part) = parts.last_mut()
                && let Some(&before) = part.last()
            {
                let fresh = ids.len() - Batch::common(&traces[before].ids, ids);
                if filled + fresh <= tokens {
                    part.push(index);
                    filled += fresh;
                    continue;
                }
            }
            parts.push(vec![index]);
            filled = ids.len();
        }
        parts.into_iter().map(|part| Self::new(traces, part)).collect()
    }

    fn new(traces: &[&TokenTrace], part: Vec<usize>) -> Self {
        let sequences: Vec<&[u32]> = part.iter().map(|&index| &traces[index].ids[..]).collect();
        let (batch, rows) = Batch::merge(&sequences);
        let mut selection = Selection::default();
        // The index of each row's own token in the selection.
        let mut entry_of = vec![None; batch.len()];
        let mut members = Vec::with_capacity(part.len());
        for (index, rows) in part.into_iter().zip(rows) {
            let mask = &traces[index].action_mask;
            let sampled = (1..rows.len()).filter(|&at| mask[at]);
            let entries = sampled.map(|at| {
                *entry_of[rows[at] as usize].get_or_insert_with(|| {
                    selection.rows.push(rows[at - 1]);
                    selection.targets.push(traces[index].ids[at]);
                    selection.len() - 1
                })
            });
            members.push(Member { index, entries: entries.collect() });
        }
        Self { batch, selection, members }
    }
}

impl Member {
    /// The log-probabilities of its sampled tokens.
    pub fn log_probs(&self, scores: &TokenScores) -> Vec<f64> {
        self.entries.iter().map(|&entry| f64::from(scores.log_probs[entry])).collect()
    }

    /// The entropies of the distributions that they were sampled from.
    pub fn entropies(&self, scores: &TokenScores) -> Vec<f64> {
        self.entries.iter().map(|&entry| f64::from(scores.entropies[entry])).collect()
    }

    /// Adds its `gradients` to those of the selection.
    pub fn add(&self, gradients: &[f64], sums: &mut [f64]) {
        for (&entry, gradient) in self.entries.iter().zip(gradients) {
            sums[entry] += gradient;
        }
    }
}

/// Log-probabilities under `model` of the sampled tokens of each trajectory, computing at most
/// `tokens` tokens at once.
///
/// # Errors
/// When the model fails.
pub fn log_probs(
    model: &Model,
    traces: &[&TokenTrace],
    tokens: usize,
    temperature: f32,
) -> Result<Vec<Vec<f64>>, ModelError> {
    let mut all = vec![Vec::new(); traces.len()];
    for pack in Pack::all(traces, tokens) {
        let scores = model.score(&pack.batch, &pack.selection, temperature)?;
        for member in &pack.members {
            all[member.index] = member.log_probs(&scores);
        }
    }
    Ok(all)
}

/// Splits `examples` into parts of at most `tokens` tokens, or of one example.
pub fn micro_batches<'t>(examples: &[&'t TokenTrace], tokens: usize) -> Vec<Vec<&'t TokenTrace>> {
    let mut parts: Vec<Vec<&TokenTrace>> = Vec::new();
    let mut filled = 0;
    for &example in examples {
        let length = example.ids.len();
        match parts.last_mut() {
            Some(part) if filled + length <= tokens => {
                part.push(example);
                filled += length;
            }
            _ => {
                parts.push(vec![example]);
                filled = length;
            }
        }
    }
    parts
}

/// Packs conversations, selecting the rows that predict a sampled token.
pub fn pack(examples: &[&TokenTrace]) -> (Batch, Selection) {
    let ids: Vec<&[u32]> = examples.iter().map(|trace| trace.ids.as_slice()).collect();
    let batch = Batch::pack(&ids);
    let mut selection = Selection::default();
    for (trace, &begin) in examples.iter().zip(&batch.starts) {
        for at in 1..trace.ids.len() {
            if trace.action_mask[at] {
                selection.rows.push((begin + at - 1) as u32);
                selection.targets.push(trace.ids[at]);
            }
        }
    }
    (batch, selection)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use candle_core::{DType, Device};

    use super::*;
    use crate::trajectory::SampledToken;

    /// A question, a turn, an observation and a second turn.
    fn trace(question: &[u32], turn: &[u32], observation: &[u32], answer: &[u32]) -> TokenTrace {
        let mut trace = TokenTrace::default();
        for (context, action) in [(question, turn), (observation, answer)] {
            trace.push_context(context);
            action.iter().for_each(|&id| trace.push_action(SampledToken { id, log_prob: -1.0 }));
        }
        trace
    }

    #[test]
    fn scores_are_those_of_each_trajectory_by_itself() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/model/tied");
        let model = Model::load(&folder, DType::F32, &Device::Cpu).unwrap();
        let traces = [
            trace(&[9, 8], &[7, 6, 5], &[4], &[3, 2]),
            trace(&[1, 2, 3], &[4, 5], &[6, 7], &[8, 9]),
            trace(&[1, 2, 3], &[4, 6], &[6, 7], &[8]),
            trace(&[1, 2, 3], &[4, 5], &[6, 7], &[8, 9]),
            // The same ids with fewer sampled ones, and one more id.
            trace(&[1, 2, 3, 4], &[5], &[6, 7], &[8, 9, 1]),
        ];
        let traces: Vec<&TokenTrace> = traces.iter().collect();
        for (tokens, packs, rows) in [(1000, 1, 10 + 4 + 8), (14, 2, 10 + 4 + 8), (1, 5, 0)] {
            let all = Pack::all(&traces, tokens);
            let count = all.iter().map(|pack| pack.batch.len()).sum::<usize>();
            assert_eq!(all.len(), packs);
            assert!(rows == 0 || count == rows, "{count}");
            let mut seen = vec![false; traces.len()];
            for pack in &all {
                let scores = model.score(&pack.batch, &pack.selection, 1.0).unwrap();
                let mut sums = vec![0.0; pack.selection.len()];
                for member in &pack.members {
                    seen[member.index] = true;
                    let alone = super::pack(&[traces[member.index]]);
                    let expected = model.score(&alone.0, &alone.1, 1.0).unwrap();
                    let found = member.log_probs(&scores);
                    assert_eq!(found.len(), expected.log_probs.len());
                    let near = |(a, b): (&f64, &f32)| (a - f64::from(*b)).abs() < 1e-5;
                    assert!(found.iter().zip(&expected.log_probs).all(near));
                    let entropies = member.entropies(&scores);
                    assert!(entropies.iter().zip(&expected.entropies).all(near));
                    member.add(&vec![1.0; found.len()], &mut sums);
                }
                // Each token counts for every trajectory that sampled it.
                let sampled: usize =
                    pack.members.iter().map(|m| traces[m.index].action_count()).sum();
                assert_eq!(sums.iter().sum::<f64>(), sampled as f64);
            }
            assert!(seen.into_iter().all(|seen| seen));
        }
    }
}
