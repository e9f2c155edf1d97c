//! Seeds that follow from what they are for, so that a resumed run draws what an uninterrupted one
//! would have.

/// What a seed is for: no two uses share one.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    /// An episode: of a task's sample in a round of a step.
    Episode,
    /// The tasks of a step.
    Tasks,
    /// The order of a step's trajectories.
    Order,
    /// The tasks of the evaluation.
    Evaluation,
}

/// A number that depends on the run's seed, the purpose and every part, and looks random.
pub fn derive(seed: u64, purpose: Purpose, parts: &[u64]) -> u64 {
    let first = mix(seed ^ mix(purpose as u64 + 1));
    parts.iter().fold(first, |hash, &part| mix(hash ^ mix(part)))
}

/// The finaliser of SplitMix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn seeds_differ_in_every_part() {
        let mut seen = BTreeSet::new();
        for seed in 0..3 {
            for purpose in [Purpose::Episode, Purpose::Tasks] {
                for a in 0..10 {
                    for b in 0..10 {
                        assert!(seen.insert(derive(seed, purpose, &[a, b])));
                    }
                }
            }
        }
        assert_eq!(derive(1, Purpose::Order, &[2]), derive(1, Purpose::Order, &[2]));
    }
}
