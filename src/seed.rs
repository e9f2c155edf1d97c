//! All derivations of seeds. A seed depends only on its purpose, so that a repeated or resumed run
//! draws the same numbers.

/// The golden ratio as a fraction of 2^64: its multiples are far apart.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The purpose of a seed in a training run: no two purposes share one.
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

/// The seed of the `index`-th of several things that share `seed`: the turns of an episode, the
/// choices of a request. The first has `seed` itself.
pub fn nth(seed: u64, index: u64) -> u64 {
    seed.wrapping_add(index.wrapping_mul(GOLDEN))
}

/// The seed of an epoch over the examples of a run.
pub fn of_round(seed: u64, round: u64) -> u64 {
    seed ^ round.wrapping_mul(GOLDEN)
}

/// The seed of a named thing: the question of an evaluation.
pub fn of_name(seed: u64, name: &str) -> u64 {
    seed.wrapping_mul(GOLDEN) ^ u64::from(crc32c::crc32c(name.as_bytes()))
}

/// A seed that every endpoint accepts: a non-negative number in 32 signed bits. It depends on every
/// bit of `seed`.
pub fn for_endpoint(seed: u64) -> i32 {
    (scramble(seed) >> 33) as i32
}

/// The seed of the `index`-th turn or sample requested from an endpoint, derived from the caller's
/// own: close to it, because some endpoints accept small numbers only, and within 31 bits.
pub fn near(seed: u64, index: u64) -> u64 {
    seed.wrapping_add(index) & i32::MAX as u64
}

/// Whether a caller chose this seed: seeds that are drawn have 64 bits.
pub fn is_chosen(seed: u64) -> bool {
    seed <= i32::MAX as u64
}

/// The seed of a training question of a prompt search.
pub fn of_question(seed: u64, id: &str) -> u64 {
    seed ^ u64::from(crc32c::crc32c(id.as_bytes()))
}

/// The seed of the `index`-th proposal in a round of a prompt search.
pub fn of_proposal(seed: u64, round: u64, index: u64) -> u64 {
    seed.wrapping_add(round << 32).wrapping_add(index)
}

/// The seed of the `index`-th of several samples of one prompt, as endpoints take it.
pub fn of_sample(seed: u64, index: u64) -> u64 {
    (seed ^ index) & i32::MAX as u64
}

/// A step of SplitMix64.
fn mix(value: u64) -> u64 {
    scramble(value.wrapping_add(GOLDEN))
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit of `value`.
pub fn scramble(value: u64) -> u64 {
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

    /// Published runs depend on these values.
    #[test]
    fn seeds_stay_what_they_are() {
        assert_eq!(scramble(GOLDEN), 0xE220_A839_7B1D_CDAF, "SplitMix64's first number of seed 0");
        assert_eq!(nth(5, 0), 5);
        assert_eq!(nth(0, 1), GOLDEN);
        assert_eq!(of_round(3, 0), 3);
        assert_eq!(of_name(0, "123456789"), 0xE306_9283);
        assert_eq!((near(7, 0), near(7, 2), near(i32::MAX as u64, 1)), (7, 9, 0));
        assert!(is_chosen(i32::MAX as u64) && !is_chosen(1 << 31));
        assert_eq!(of_question(0, "123456789"), 0xE306_9283);
        assert_eq!(of_proposal(1, 2, 3), (2 << 32) + 4);
        assert_eq!((of_sample(6, 3), of_sample(u64::MAX, 0)), (5, i32::MAX as u64));
        assert_eq!(for_endpoint(GOLDEN), 0x7110_541C, "its upper 31 bits");
    }
}
