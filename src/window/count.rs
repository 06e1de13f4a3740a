//! A window over the last `n` calls.

use std::time::Duration;

use super::{Counts, Kind, Sample};
use crate::sync::{AtomicU64, Ordering};

/// A window over the last `n` calls.
///
/// A ring of places, two bits each. A call takes the next place, clears the place of the call that
/// leaves the window, and sets its own bits. Each flipped bit is counted by the thread that flipped
/// it, so the counters equal the content while no call is being recorded, also after races with
/// [`clear`](Self::clear). A thread that is preempted between taking its place and filling it for a
/// whole turn of the ring fills the place of a newer call.
///
/// A good call recorded into a window full of good calls changes nothing. Its owner keeps the word
/// that says so, `marks`, where the fast path looks: the number of bits set in the ring, and
/// [`UNSETTLED`]. Zero when a good call changes nothing.
#[derive(Debug)]
pub(crate) struct CountWindow {
    size: u64,
    /// Good calls may leave the window as it is.
    settles: bool,
    /// Number of the first call since the window was cleared.
    first: AtomicU64,
    /// [`FAILED`] and [`SLOW`] of 32 places a word. The number of places is a power of two, so that
    /// no division is needed to find one.
    words: Box<[AtomicU64]>,
    failures: AtomicU64,
    slow: AtomicU64,
    slow_failures: AtomicU64,
    /// Nanoseconds by place; empty unless durations are measured.
    durations: Box<[AtomicU64]>,
    took: AtomicU64,
    /// Number of the next call.
    next: Line,
}

/// A counter in a cache line of its own: every call into a window that is not clean moves it on, and
/// few change the rest.
#[derive(Debug)]
#[repr(align(64))]
struct Line(AtomicU64);

/// Good calls change the window although nothing in it is marked, as it is not full or never
/// settles. Set in the marks of new windows.
pub(crate) const UNSETTLED: u64 = 1 << 63;

const FAILED: u64 = Kind::Failed as u64;
const SLOW: u64 = Kind::Slow as u64;

impl CountWindow {
    /// Returns an empty window over the last `size` calls, at least one. One that adds up durations,
    /// or where `settles` is false, counts every good call.
    pub(crate) fn new(size: u32, durations: bool, settles: bool) -> Self {
        let size = u64::from(size.max(1));
        let places = size.next_power_of_two().max(32);
        let zeros = |count: u64| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            size,
            settles: settles && !durations,
            first: AtomicU64::new(0),
            words: zeros(places / 32),
            failures: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            slow_failures: AtomicU64::new(0),
            durations: zeros(if durations { places } else { 0 }),
            took: AtomicU64::new(0),
            next: Line(AtomicU64::new(0)),
        }
    }

    /// Records a call. Returns whether a rate may have grown: not if a good call took the place of
    /// another call.
    #[inline(always)]
    pub(crate) fn record(&self, marks: &AtomicU64, sample: Sample) -> bool {
        // Relaxed, here and where nothing else is said: the counters publish nothing else.
        if sample.is_good() && marks.load(Ordering::Relaxed) == 0 {
            return false;
        }
        // SeqCst, as the counters and their loads: of two calls that complete a condition together, one
        // sees both.
        let call = self.next.0.fetch_add(1, Ordering::SeqCst);
        let age = call.wrapping_sub(self.first.load(Ordering::Relaxed));
        let leaving = self.bits(call.wrapping_sub(self.size));
        // Most calls: a good one takes the place of a good one.
        if sample.is_good() && leaving == 0 && age >= self.size && self.durations.is_empty() {
            return false;
        }
        self.fill(marks, call, age, sample)
    }

    /// Fills the place of a call.
    #[cold]
    #[inline(never)]
    fn fill(&self, marks: &AtomicU64, call: u64, age: u64, sample: Sample) -> bool {
        let leaving = call.wrapping_sub(self.size);
        self.flip(marks, leaving, 0);
        self.flip(marks, call, sample.kind as u64);
        if !self.durations.is_empty() {
            self.set_duration(leaving, 0);
            self.set_duration(call, sample.took);
        }
        if age + 1 == self.size {
            self.settle(marks);
        }
        !sample.is_good() || age < self.size
    }

    /// Returns the content.
    pub(crate) fn counts(&self) -> Counts {
        let next = self.next.0.load(Ordering::SeqCst);
        let calls = next.wrapping_sub(self.first.load(Ordering::Relaxed));
        let calls = calls.min(self.size);
        // A counter may pass below zero while two threads flip the bits of one place.
        let counted = |counter: &AtomicU64| {
            let value = counter.load(Ordering::SeqCst) as i64;
            (value.max(0) as u64).min(calls)
        };
        Counts {
            calls,
            failures: counted(&self.failures),
            slow: counted(&self.slow),
            slow_failures: counted(&self.slow_failures),
            took: Duration::from_nanos(self.took.load(Ordering::Relaxed)),
        }
    }

    /// Empties the window. Calls recorded meanwhile may survive or not.
    pub(crate) fn clear(&self, marks: &AtomicU64) {
        let next = self.next.0.load(Ordering::Relaxed);
        self.first.store(next, Ordering::Relaxed);
        // Release: pairs with `settle`.
        marks.fetch_or(UNSETTLED, Ordering::Release);
        for place in 0..self.words.len() as u64 * 32 {
            self.flip(marks, place, 0);
        }
        for place in 0..self.durations.len() as u64 {
            self.set_duration(place, 0);
        }
    }

    #[inline(always)]
    fn bits(&self, call: u64) -> u64 {
        let (word, shift) = self.place(call);
        word.load(Ordering::Relaxed) >> shift & (FAILED | SLOW)
    }

    #[inline(always)]
    fn place(&self, call: u64) -> (&AtomicU64, u64) {
        let words = self.words.len() as u64;
        let word = (call / 32) & (words - 1);
        (&self.words[word as usize], call % 32 * 2)
    }

    /// Sets the bits of a place, and counts those that changed.
    fn flip(&self, marks: &AtomicU64, call: u64, bits: u64) {
        if self.bits(call) == bits {
            return;
        }
        let (word, shift) = self.place(call);
        let held = word
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                Some(held & !((FAILED | SLOW) << shift) | bits << shift)
            })
            .unwrap_or_default();
        let held = held >> shift & (FAILED | SLOW);
        let count = |counter: &AtomicU64, kind: u64| {
            let has = |bits: u64| u64::from(bits & kind == kind);
            if has(bits) != has(held) {
                counter.fetch_add(has(bits).wrapping_sub(has(held)), Ordering::SeqCst);
            }
        };
        count(&self.failures, FAILED);
        count(&self.slow, SLOW);
        count(&self.slow_failures, FAILED | SLOW);
        let number = |bits: u64| u64::from(bits.count_ones());
        // Modulo 2^63, so that a counter below zero leaves `UNSETTLED` alone.
        let _ = marks.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| {
            let counted = all.wrapping_add(number(bits)).wrapping_sub(number(held));
            Some(all & UNSETTLED | counted & !UNSETTLED)
        });
    }

    fn set_duration(&self, call: u64, took: u64) {
        let place = call & (self.durations.len() as u64 - 1);
        let held = self.durations[place as usize].swap(took, Ordering::Relaxed);
        self.took
            .fetch_add(took.wrapping_sub(held), Ordering::Relaxed);
    }

    /// The window has become full.
    #[cold]
    fn settle(&self, marks: &AtomicU64) {
        if !self.settles {
            return;
        }
        // Acquire: if the window was cleared before, the load of `first` sees where it begins.
        marks.fetch_and(!UNSETTLED, Ordering::Acquire);
        if self.counts().calls < self.size {
            marks.fetch_or(UNSETTLED, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
impl CountWindow {
    /// Counts the content place by place. For windows at rest.
    pub(super) fn recounted(&self, marks: &AtomicU64) -> Counts {
        let mut counts = Counts {
            calls: self.counts().calls,
            ..Counts::default()
        };
        for place in 0..self.words.len() as u64 * 32 {
            let bits = self.bits(place);
            counts.failures += u64::from(bits & FAILED != 0);
            counts.slow += u64::from(bits & SLOW != 0);
            counts.slow_failures += u64::from(bits == FAILED | SLOW);
        }
        for took in &self.durations {
            counts.took += Duration::from_nanos(took.load(Ordering::Relaxed));
        }
        let marks = marks.load(Ordering::Relaxed);
        assert_eq!(marks & !UNSETTLED, counts.failures + counts.slow);
        let is_settled = counts.calls == self.size && self.settles;
        assert_eq!(marks & UNSETTLED == 0, is_settled);
        counts
    }
}
