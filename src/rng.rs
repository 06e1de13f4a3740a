//! Random numbers without locks: SplitMix64 (Steele, Lea, and Flood 2014).

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::process;

use crate::sync::{AtomicU64, Ordering};

/// A source of random numbers that threads share.
///
/// A seeded source is reproducible: its `n`-th stream is a pure function of the seed and `n`. An unseeded
/// source draws from a generator of the calling thread, so threads do not contend.
#[derive(Debug)]
pub(crate) struct SharedRng {
    /// The mixed seed and the number of streams begun. `None` without a seed. Boxed, because few handles have one.
    seeded: Option<Box<(u64, AtomicU64)>>,
}

impl SharedRng {
    /// Returns a source that is reproducible if `seed` is given, and unpredictable otherwise.
    pub(crate) fn new(seed: Option<u64>) -> Self {
        Self {
            // Mixed, so that consecutive seeds do not give shifted copies of one sequence.
            seeded: seed.map(|seed| Box::new((mix(seed), AtomicU64::new(0)))),
        }
    }

    /// Returns whether the source is reproducible.
    pub(crate) const fn is_seeded(&self) -> bool {
        self.seeded.is_some()
    }

    /// Begins the next stream, for callers that need several numbers at once.
    #[inline]
    pub(crate) fn stream(&self) -> Stream {
        match &self.seeded {
            None => THREAD.with(|thread| {
                let mut stream = Stream(thread.get());
                if stream.0 == 0 {
                    stream = Stream(identifier()[0]);
                }
                let begun = stream.bits();
                thread.set(stream.0);
                Stream(begun)
            }),
            Some(seeded) => {
                let (base, begun) = &**seeded;
                // Relaxed: the counter orders nothing else.
                let number = begun.fetch_add(1, Ordering::Relaxed);
                Stream(mix(base.wrapping_add(number)))
            }
        }
    }

    /// Returns the next number, uniform in `[0, 1)`.
    #[inline]
    pub(crate) fn unit(&self) -> f64 {
        self.stream().unit()
    }
}

/// Returns 128 random bits that identify one thing among those of all processes.
pub(crate) fn identifier() -> [u64; 2] {
    identifier_in(&RandomState::new(), process::id())
}

/// A forked process continues with the random states of its parent, so its number is hashed, too.
fn identifier_in(random: &RandomState, process: u32) -> [u64; 2] {
    [0_u8, 1].map(|half| random.hash_one((process, half)))
}

thread_local! {
    /// The state of the thread's generator; zero before the first draw. It has no destructor, so it can be
    /// used while the thread ends.
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

/// A stream of random numbers: a pure function of its first state.
#[derive(Clone, Debug)]
pub(crate) struct Stream(u64);

impl Stream {
    /// Returns the stream with this state.
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
        // The upper half of the product avoids a division. The bias is below 2⁻³².
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

/// Scrambles 64 bits: the finalizer of SplitMix64.
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
        let (a, b) = (SharedRng::new(Some(7)), SharedRng::new(Some(7)));
        let first = a.stream().bits();
        assert_eq!(first, b.stream().bits());
        assert_ne!(first, a.stream().bits());
        assert_ne!(first, SharedRng::new(Some(8)).stream().bits());
    }

    #[test]
    fn identifiers_of_forked_processes_differ() {
        let random = RandomState::new();
        let (parent, child) = (identifier_in(&random, 1), identifier_in(&random, 2));
        assert_ne!(parent[0], child[0]);
        assert_ne!(parent[1], child[1]);
        assert_ne!(parent[0], parent[1]);
        assert_ne!(identifier(), identifier());
    }

    #[test]
    fn streams_without_a_seed_differ_within_a_thread_and_between_threads() {
        let unseeded = SharedRng::new(None);
        assert_ne!(unseeded.stream().bits(), unseeded.stream().bits());
        assert_ne!(unseeded.unit(), unseeded.unit());
        let other = std::thread::spawn(|| SharedRng::new(None).stream().bits());
        assert_ne!(unseeded.stream().bits(), other.join().unwrap());
    }

    #[test]
    fn pairs_differ_and_are_uniform() {
        let mut stream = SharedRng::new(Some(1)).stream();
        let mut pairs = [[0_u32; 5]; 5];
        for _ in 0..100_000 {
            let (first, second) = stream.two_below(5);
            pairs[first][second] += 1;
        }
        for (first, seconds) in pairs.iter().enumerate() {
            for (second, count) in seconds.iter().enumerate() {
                let expected = if first == second { 0..1 } else { 4_750..5_250 };
                assert!(expected.contains(count), "{pairs:?}");
            }
        }
        assert!([(0, 1), (1, 0)].contains(&stream.two_below(2)));
    }

    #[test]
    fn numbers_are_uniform_within_streams_and_across_them() {
        let rng = SharedRng::new(Some(1));
        let (mut below, mut within, mut across) = ([0_u32; 10], [0_u32; 10], [0_u32; 10]);
        for _ in 0..50_000 {
            let mut stream = rng.stream();
            for _ in 0..2 {
                below[stream.below(10)] += 1;
                within[(stream.unit() * 10.0) as usize] += 1;
                across[(rng.unit() * 10.0) as usize] += 1;
            }
        }
        for tenths in [below, within, across] {
            let is_uniform = tenths.iter().all(|count| (9_500..10_500).contains(count));
            assert!(is_uniform, "{tenths:?}");
        }
    }
}
