//! Random numbers that many callers draw from one handle without a lock.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::sync::{AtomicU64, Ordering};

/// A shared source of random numbers: draw `i` is a pure function of the seed and `i`.
///
/// The only state is the number of draws so far, so concurrent callers never see the same draw
/// twice, and a seeded source gives the same sequence on every machine.
#[derive(Debug)]
pub(crate) struct SharedRng {
    base: u64,
    draws: AtomicU64,
}

impl SharedRng {
    /// A source that is reproducible when `seed` is given, and unpredictable otherwise.
    pub(crate) fn new(seed: Option<u64>) -> Self {
        let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0_u64));
        Self {
            // Drawn, not taken: neighbouring seeds must not give shifted copies of one sequence.
            base: Xoshiro256PlusPlus::seed_from_u64(seed).random(),
            draws: AtomicU64::new(0),
        }
    }

    /// The next number, uniform in `[0, 1)`.
    pub(crate) fn unit(&self) -> f64 {
        // Relaxed: the draw publishes nothing; each caller only needs a number of its own.
        let draw = self.draws.fetch_add(1, Ordering::Relaxed);
        Xoshiro256PlusPlus::seed_from_u64(self.base.wrapping_add(draw)).random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_reproduces_the_sequence() {
        let (a, b) = (SharedRng::new(Some(7)), SharedRng::new(Some(7)));
        for _ in 0..100 {
            assert_eq!(a.unit(), b.unit());
        }
    }

    #[test]
    fn unseeded_sources_differ() {
        let (a, b) = (SharedRng::new(None), SharedRng::new(None));
        assert_ne!(a.unit(), b.unit());
    }

    #[test]
    fn draws_are_uniform_enough() {
        let rng = SharedRng::new(Some(1));
        let mut tenths = [0_u32; 10];
        for _ in 0..100_000 {
            tenths[(rng.unit() * 10.0) as usize] += 1;
        }
        for count in tenths {
            assert!((9_500..10_500).contains(&count), "{tenths:?}");
        }
    }
}
