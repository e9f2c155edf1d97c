//! Which examples a step takes: a function of the seed and the step's number.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::seed;

/// Goes through all examples, in a new order in each epoch.
pub struct Order {
    seed: u64,
    round: Option<u64>,
    order: Vec<usize>,
}

impl Order {
    /// An order of `len` examples.
    pub fn new(len: usize, seed: u64) -> Self {
        Self { seed, round: None, order: (0..len).collect() }
    }

    /// The examples of step `step`.
    pub fn batch(&mut self, step: u64, size: usize) -> Vec<usize> {
        let len = self.order.len() as u64;
        (0..size as u64)
            .map(|index| {
                let position = step * size as u64 + index;
                let round = position / len;
                if self.round != Some(round) {
                    self.order = (0..len as usize).collect();
                    let seed = seed::of_round(self.seed, round);
                    self.order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
                    self.round = Some(round);
                }
                self.order[(position % len) as usize]
            })
            .collect()
    }
}
