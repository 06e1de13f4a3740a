//! A window over the last `n` calls.

use std::time::Duration;

use super::{Counts, Kind, Sample};
use crate::sync::{AtomicU64, Ordering};

/// A window over the last `n` calls.
///
/// A ring of slots with two bits each. A call takes the next slot, clears the slot of the call that leaves
/// the window, and sets its own bits. The thread that flips a bit also updates the totals, so the totals
/// equal the content while no call is being recorded, also after races with [`clear`](Self::clear). If a
/// thread is preempted between taking its slot and filling it until the ring has come around, it overwrites
/// a newer call.
///
/// A success recorded into a window full of successes changes nothing. The `dirty` word of the window shows whether
/// that is the case. The owner keeps it, next to the other data of its fast path: the number of bits set in the ring,
/// and [`COUNTS_SUCCESSES`]. Zero if a success changes nothing.
#[derive(Debug)]
pub(crate) struct CountWindow {
    size: u64,
    /// Whether successes need not be recorded into a window full of successes.
    skips_successes: bool,
    /// Number of the first call since the window was cleared.
    first: AtomicU64,
    /// [`FAILED`] and [`SLOW`] of 32 slots a word. The number of slots is a power of two, so finding one
    /// takes no division.
    words: Box<[AtomicU64]>,
    failures: AtomicU64,
    slow: AtomicU64,
    slow_failures: AtomicU64,
    /// Nanoseconds by slot; empty unless durations are measured.
    durations: Box<[AtomicU64]>,
    total_duration: AtomicU64,
    next: NextCall,
}

/// The number of the next call. In a cache line of its own, because every call that is recorded writes it
/// and few write the rest.
#[derive(Debug)]
#[repr(align(64))]
struct NextCall(AtomicU64);

/// The bit of the `dirty` word that makes successes count: set until the window is full, and forever in
/// windows that do not skip them.
pub(crate) const COUNTS_SUCCESSES: u64 = 1 << 63;

const FAILED: u64 = Kind::Failed as u64;
const SLOW: u64 = Kind::Slow as u64;

impl CountWindow {
    /// Returns an empty window over the last `size` calls, at least one. Without `skips_successes`, and with
    /// `durations`, every success is recorded.
    pub(crate) fn new(size: u32, durations: bool, skips_successes: bool) -> Self {
        let size = u64::from(size.max(1));
        let slots = size.next_power_of_two().max(32);
        let zeros = |count: u64| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            size,
            skips_successes: skips_successes && !durations,
            first: AtomicU64::new(0),
            words: zeros(slots / 32),
            failures: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            slow_failures: AtomicU64::new(0),
            durations: zeros(if durations { slots } else { 0 }),
            total_duration: AtomicU64::new(0),
            next: NextCall(AtomicU64::new(0)),
        }
    }

    /// Records a call. Returns whether a rate may have grown: not if a success replaced another call.
    #[inline(always)]
    pub(crate) fn record(&self, dirty: &AtomicU64, sample: Sample) -> bool {
        // Relaxed, here and wherever there is no comment: the totals order nothing else.
        if sample.is_success() && dirty.load(Ordering::Relaxed) == 0 {
            return false;
        }
        // SeqCst, like the updates and loads of the totals: of two calls that complete a condition together,
        // one observes both.
        let call = self.next.0.fetch_add(1, Ordering::SeqCst);
        let age = call.wrapping_sub(self.first.load(Ordering::Relaxed));
        let expired = self.bits(call.wrapping_sub(self.size));
        // The common case: a success replaces a success.
        if sample.is_success() && expired == 0 && age >= self.size && self.durations.is_empty() {
            return false;
        }
        self.fill(dirty, call, age, sample)
    }

    /// Fills the slot of a call.
    #[cold]
    #[inline(never)]
    fn fill(&self, dirty: &AtomicU64, call: u64, age: u64, sample: Sample) -> bool {
        let expired = call.wrapping_sub(self.size);
        self.set_bits(dirty, expired, 0);
        self.set_bits(dirty, call, sample.kind as u64);
        if !self.durations.is_empty() {
            self.set_duration(expired, 0);
            self.set_duration(call, sample.duration);
        }
        if age + 1 == self.size {
            self.skip_successes(dirty);
        }
        !sample.is_success() || age < self.size
    }

    /// Returns the content.
    pub(crate) fn counts(&self) -> Counts {
        let next = self.next.0.load(Ordering::SeqCst);
        let calls = next.wrapping_sub(self.first.load(Ordering::Relaxed));
        let calls = calls.min(self.size);
        // A total may pass below zero while two threads update one slot.
        let total = |counter: &AtomicU64| {
            let value = counter.load(Ordering::SeqCst) as i64;
            (value.max(0) as u64).min(calls)
        };
        Counts {
            calls,
            failures: total(&self.failures),
            slow: total(&self.slow),
            slow_failures: total(&self.slow_failures),
            total_duration: Duration::from_nanos(self.total_duration.load(Ordering::Relaxed)),
        }
    }

    /// Returns the calls in the window, oldest first, with their durations.
    pub(crate) fn samples(&self) -> impl ExactSizeIterator<Item = Sample> {
        let next = self.next.0.load(Ordering::SeqCst);
        let calls = next.wrapping_sub(self.first.load(Ordering::Relaxed));
        let calls = calls.min(self.size);
        // No window has more than `u32::MAX` calls.
        (0..calls as u32).map(move |index| {
            let call = next.wrapping_sub(calls).wrapping_add(u64::from(index));
            let bits = self.bits(call);
            let slot = call & (self.durations.len() as u64).wrapping_sub(1);
            let duration = self.durations.get(slot as usize);
            let duration = duration.map_or(0, |duration| duration.load(Ordering::Relaxed));
            Sample::new(bits & FAILED != 0, bits & SLOW != 0, duration)
        })
    }

    /// Empties the window. Calls recorded concurrently may or may not survive.
    pub(crate) fn clear(&self, dirty: &AtomicU64) {
        let next = self.next.0.load(Ordering::Relaxed);
        self.first.store(next, Ordering::Relaxed);
        // Release: pairs with `skip_successes`.
        dirty.fetch_or(COUNTS_SUCCESSES, Ordering::Release);
        for slot in 0..self.words.len() as u64 * 32 {
            self.set_bits(dirty, slot, 0);
        }
        for slot in 0..self.durations.len() as u64 {
            self.set_duration(slot, 0);
        }
    }

    #[inline(always)]
    fn bits(&self, call: u64) -> u64 {
        let (word, shift) = self.slot(call);
        word.load(Ordering::Relaxed) >> shift & (FAILED | SLOW)
    }

    #[inline(always)]
    fn slot(&self, call: u64) -> (&AtomicU64, u64) {
        let words = self.words.len() as u64;
        let word = (call / 32) & (words - 1);
        (&self.words[word as usize], call % 32 * 2)
    }

    /// Sets the bits of a call's slot, and updates the totals by the difference.
    fn set_bits(&self, dirty: &AtomicU64, call: u64, bits: u64) {
        if self.bits(call) == bits {
            return;
        }
        let (word, shift) = self.slot(call);
        let old = word
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                Some(word & !((FAILED | SLOW) << shift) | bits << shift)
            })
            .unwrap_or_default();
        let old = old >> shift & (FAILED | SLOW);
        let update = |total: &AtomicU64, kind: u64| {
            let has = |bits: u64| u64::from(bits & kind == kind);
            if has(bits) != has(old) {
                total.fetch_add(has(bits).wrapping_sub(has(old)), Ordering::SeqCst);
            }
        };
        update(&self.failures, FAILED);
        update(&self.slow, SLOW);
        update(&self.slow_failures, FAILED | SLOW);
        let ones = |bits: u64| u64::from(bits.count_ones());
        // Modulo 2^63, so that a number below zero does not carry into `COUNTS_SUCCESSES`.
        let _ = dirty.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| {
            let number = all.wrapping_add(ones(bits)).wrapping_sub(ones(old));
            Some(all & COUNTS_SUCCESSES | number & !COUNTS_SUCCESSES)
        });
    }

    fn set_duration(&self, call: u64, duration: u64) {
        let slot = call & (self.durations.len() as u64 - 1);
        let old = self.durations[slot as usize].swap(duration, Ordering::Relaxed);
        let difference = duration.wrapping_sub(old);
        self.total_duration.fetch_add(difference, Ordering::Relaxed);
    }

    /// Starts to skip successes in a window that has become full.
    #[cold]
    fn skip_successes(&self, dirty: &AtomicU64) {
        if !self.skips_successes {
            return;
        }
        // Acquire: if the window was cleared in between, the load of `first` observes the clear.
        dirty.fetch_and(!COUNTS_SUCCESSES, Ordering::Acquire);
        if self.counts().calls < self.size {
            dirty.fetch_or(COUNTS_SUCCESSES, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
impl CountWindow {
    /// Counts the content slot by slot, and checks the `dirty` word against it. Only correct while no call is being
    /// recorded.
    pub(super) fn recounted(&self, dirty: &AtomicU64) -> Counts {
        let mut counts = Counts {
            calls: self.counts().calls,
            ..Counts::default()
        };
        for slot in 0..self.words.len() as u64 * 32 {
            let bits = self.bits(slot);
            counts.failures += u64::from(bits & FAILED != 0);
            counts.slow += u64::from(bits & SLOW != 0);
            counts.slow_failures += u64::from(bits == FAILED | SLOW);
        }
        for duration in &self.durations {
            counts.total_duration += Duration::from_nanos(duration.load(Ordering::Relaxed));
        }
        let dirty = dirty.load(Ordering::Relaxed);
        assert_eq!(dirty & !COUNTS_SUCCESSES, counts.failures + counts.slow);
        let skips = counts.calls == self.size && self.skips_successes;
        assert_eq!(dirty & COUNTS_SUCCESSES == 0, skips);
        counts
    }
}
