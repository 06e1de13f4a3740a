//! Random numbers that many callers draw from one handle without a lock.

use std::cell::Cell;
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

/// A source of short streams of random numbers, for callers that need several numbers at once.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Where the streams begin, and how many have begun, if they are reproducible. Otherwise each thread
    /// has numbers of its own: threads do not contend.
    seeded: Option<(u64, AtomicU64)>,
}

impl Streams {
    /// A source that is reproducible when `seed` is given, and unpredictable otherwise.
    pub(crate) fn new(seed: Option<u64>) -> Self {
        Self {
            seeded: seed.map(|seed| (mix(seed), AtomicU64::new(0))),
        }
    }

    /// Begins the next stream.
    #[inline]
    pub(crate) fn begin(&self) -> Stream {
        match &self.seeded {
            None => THREAD.with(|thread| {
                let mut stream = Stream(thread.get());
                if stream.0 == 0 {
                    stream = Stream(RandomState::new().hash_one(0_u64));
                }
                let begun = stream.bits();
                thread.set(stream.0);
                Stream(begun)
            }),
            Some((base, begun)) => {
                // Relaxed: the number publishes nothing.
                let number = begun.fetch_add(1, Ordering::Relaxed);
                Stream(mix(base.wrapping_add(number)))
            }
        }
    }
}

thread_local! {
    /// The numbers of a thread; zero before the first. Without a destructor, it can be used while the
    /// thread ends.
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

/// A stream of random numbers, a pure function of where it begins (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Stream(u64);

impl Stream {
    /// A stream that begins here.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns the next 64 bits.
    #[inline]
    pub(crate) const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Returns a number below `bound`, which is at most 2³².
    #[inline]
    pub(crate) const fn below(&mut self, bound: usize) -> usize {
        // The upper half of the product: without a division, and biased by less than 2⁻³².
        (((self.bits() >> 32) * bound as u64) >> 32) as usize
    }

    /// Returns two different numbers below `bound`, which is from 2 to 2³², in random order.
    #[inline]
    pub(crate) const fn two_below(&mut self, bound: usize) -> (usize, usize) {
        let bits = self.bits();
        let first = (((bits >> 32) * bound as u64) >> 32) as usize;
        let second = (((bits & u32::MAX as u64) * (bound as u64 - 1)) >> 32) as usize;
        (first, if second < first { second } else { second + 1 })
    }

    /// Returns a number in `[0, 1)`.
    #[inline]
    pub(crate) const fn unit(&mut self) -> f64 {
        unit(self.bits())
    }
}

/// Maps 64 bits to a number in `[0, 1)`.
#[inline]
pub(crate) const fn unit(bits: u64) -> f64 {
    const SCALE: f64 = 1.0 / (1_u64 << 53) as f64;
    (bits >> 11) as f64 * SCALE
}

/// Scrambles 64 bits (the finalizer of SplitMix64, Steele, Lea, and Flood 2014).
#[inline]
pub(crate) const fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_a_seed_are_reproducible_and_differ_from_each_other() {
        let (a, b) = (Streams::new(Some(7)), Streams::new(Some(7)));
        let first = a.begin().bits();
        assert_eq!(first, b.begin().bits());
        assert_ne!(first, a.begin().bits());
        assert_ne!(first, Streams::new(Some(8)).begin().bits());
        let free = Streams::new(None);
        assert_ne!(free.begin().bits(), free.begin().bits());
        let other = std::thread::spawn(|| Streams::new(None).begin().bits());
        assert_ne!(free.begin().bits(), other.join().unwrap());
    }

    #[test]
    fn pairs_differ_and_are_uniform_enough() {
        let mut stream = Streams::new(Some(1)).begin();
        let mut pairs = [[0_u32; 5]; 5];
        for _ in 0..100_000 {
            let (first, second) = stream.two_below(5);
            pairs[first][second] += 1;
        }
        for (first, seconds) in pairs.iter().enumerate() {
            for (second, count) in seconds.iter().enumerate() {
                let is_fair = (4_750..5_250).contains(count);
                assert!(
                    if first == second {
                        *count == 0
                    } else {
                        is_fair
                    },
                    "{pairs:?}"
                );
            }
        }
        assert!([(0, 1), (1, 0)].contains(&stream.two_below(2)));
    }

    #[test]
    fn numbers_of_streams_are_uniform_enough() {
        let streams = Streams::new(Some(1));
        let (mut tenths, mut units) = ([0_u32; 10], [0_u32; 10]);
        for _ in 0..50_000 {
            let mut stream = streams.begin();
            for _ in 0..2 {
                tenths[stream.below(10)] += 1;
                units[(stream.unit() * 10.0) as usize] += 1;
            }
        }
        for count in tenths.into_iter().chain(units) {
            assert!((9_500..10_500).contains(&count), "{tenths:?} {units:?}");
        }
    }

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
