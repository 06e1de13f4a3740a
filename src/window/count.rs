//! The last `n` calls.

use std::time::Duration;

use super::{Counts, Sample, Tracks};
use crate::sync::{AtomicU64, Ordering};

/// A window over the last `n` calls.
///
/// A good call recorded into a window that is full of good calls changes nothing and writes nothing,
/// so a healthy dependency costs no shared write.
///
/// # Exactness
///
/// Small windows, up to 56 calls or 28 with slow calls, are one atomic word: every record is one
/// step. Larger ones are a ring of bits: a call takes the next place, then fills it. The counters
/// always come to equal the content; a thread that is stopped between the two for a whole turn of
/// the ring fills a place that is a newer call's by then.
#[derive(Debug)]
pub(crate) struct CountWindow {
    size: u64,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Word(Word),
    Ring(Ring),
}

impl CountWindow {
    /// An empty window over the last `size` calls, at least one.
    pub(crate) fn new(size: u32, tracks: Tracks) -> Self {
        let size = u64::from(size.max(1));
        let in_a_word = if tracks.slow { 28 } else { 56 };
        let form = if size <= in_a_word && !tracks.durations {
            Form::Word(Word::new(size, tracks.slow))
        } else {
            Form::Ring(Ring::new(size, tracks))
        };
        Self { size, form }
    }

    /// Whether a good call would change nothing.
    #[inline]
    pub(crate) fn is_settled(&self) -> bool {
        match &self.form {
            Form::Word(word) => word.bits.load(Ordering::Relaxed) == word.size << Word::CALLS,
            Form::Ring(ring) => ring.durations.is_empty() && ring.is_full_and_clean(self.size),
        }
    }

    /// Adds a call, and gives the content after it.
    #[inline]
    pub(crate) fn record(&self, sample: Sample) -> Counts {
        match &self.form {
            Form::Word(word) => word.counts(word.push(sample).1),
            Form::Ring(ring) => {
                ring.push(self.size, sample);
                ring.counts(self.size)
            }
        }
    }

    /// As [`record`](Self::record), but gives the content only if the share of the failures or of
    /// the slow calls can have grown: not when a clean call took the place of another.
    #[inline]
    pub(crate) fn push(&self, sample: Sample) -> Option<Counts> {
        match &self.form {
            Form::Word(word) => {
                let (old, new) = word.push(sample);
                let was_full = old >> Word::CALLS == self.size;
                (!(was_full && sample.is_clean())).then(|| word.counts(new))
            }
            Form::Ring(ring) => {
                let was_full = ring.push(self.size, sample);
                (!(was_full && sample.is_clean())).then(|| ring.counts(self.size))
            }
        }
    }

    /// The content.
    pub(crate) fn counts(&self) -> Counts {
        match &self.form {
            Form::Word(word) => word.counts(word.bits.load(Ordering::Relaxed)),
            Form::Ring(ring) => ring.counts(self.size),
        }
    }

    /// Empties it. Calls recorded meanwhile may survive or not.
    pub(crate) fn clear(&self) {
        match &self.form {
            Form::Word(word) => word.bits.store(0, Ordering::Relaxed),
            Form::Ring(ring) => ring.clear(),
        }
    }
}

/// The whole window in one word.
///
/// ```text
///   63       58        28+28       28           0        56           0
///   │ calls  │ ...  │ slow, newest low │ failed │   or   │   failed   │
/// ```
#[derive(Debug)]
struct Word {
    bits: AtomicU64,
    /// The failures of a full window; with slow calls, those are as many bits above.
    mask: u64,
    size: u64,
    slow: bool,
}

impl Word {
    const CALLS: u32 = 58;
    const SLOW: u32 = 28;

    fn new(size: u64, slow: bool) -> Self {
        Self {
            bits: AtomicU64::new(0),
            mask: (1 << size) - 1,
            size,
            slow,
        }
    }

    /// Adds a call; the word before and after it.
    #[inline]
    fn push(&self, sample: Sample) -> (u64, u64) {
        // Relaxed, here and below: the word is all there is, and it publishes nothing else.
        let mut old = self.bits.load(Ordering::Relaxed);
        loop {
            let new = self.shifted(old, sample);
            if new == old {
                return (old, new);
            }
            match self
                .bits
                .compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return (old, new),
                Err(now) => old = now,
            }
        }
    }

    #[inline]
    fn shifted(&self, bits: u64, sample: Sample) -> u64 {
        let calls = ((bits >> Self::CALLS) + 1).min(self.size) << Self::CALLS;
        let failed = ((bits << 1) | u64::from(sample.failed)) & self.mask;
        if !self.slow {
            return calls | failed;
        }
        let slow = ((bits >> Self::SLOW << 1) | u64::from(sample.slow)) & self.mask;
        calls | (slow << Self::SLOW) | failed
    }

    #[inline]
    fn counts(&self, bits: u64) -> Counts {
        let calls = bits >> Self::CALLS;
        let marks = bits & ((1 << Self::CALLS) - 1);
        let mut counts = Counts {
            calls,
            ..Counts::default()
        };
        if marks != 0 {
            let failed = marks & self.mask;
            counts.failures = u64::from(failed.count_ones());
            if self.slow {
                let slow = (marks >> Self::SLOW) & self.mask;
                counts.slow = u64::from(slow.count_ones());
                counts.slow_failures = u64::from((slow & failed).count_ones());
            }
        }
        counts
    }
}

/// A ring of places, one or two bits each.
#[derive(Debug)]
struct Ring {
    /// How many places were given out since the window was empty.
    taken: AtomicU64,
    /// What the places hold: [`FAILED`] and, where slow calls are tracked, [`SLOW`].
    words: Box<[AtomicU64]>,
    bits: u64,
    failures: AtomicU64,
    slow: AtomicU64,
    slow_failures: AtomicU64,
    /// Nanoseconds by place, where durations are tracked, and their sum.
    durations: Box<[AtomicU64]>,
    took: AtomicU64,
}

const FAILED: u64 = 1;
const SLOW: u64 = 2;

impl Ring {
    fn new(size: u64, tracks: Tracks) -> Self {
        let zeros = |count: u64| (0..count).map(|_| AtomicU64::new(0)).collect();
        let bits = if tracks.slow { 2 } else { 1 };
        Self {
            taken: AtomicU64::new(0),
            words: zeros((size * bits).div_ceil(64)),
            bits,
            failures: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            slow_failures: AtomicU64::new(0),
            durations: zeros(if tracks.durations { size } else { 0 }),
            took: AtomicU64::new(0),
        }
    }

    /// Adds a call; whether it took the place of another.
    #[inline]
    fn push(&self, size: u64, sample: Sample) -> bool {
        if sample.is_clean() && self.durations.is_empty() && self.is_full_and_clean(size) {
            return true;
        }
        // Relaxed, here and below: places and counters are each right by themselves at rest, and
        // publish nothing else.
        let taken = self.taken.fetch_add(1, Ordering::Relaxed);
        self.fill(taken % size, sample);
        taken >= size
    }

    #[inline]
    fn is_full_and_clean(&self, size: u64) -> bool {
        self.failures.load(Ordering::Relaxed) == 0
            && self.slow.load(Ordering::Relaxed) == 0
            && self.taken.load(Ordering::Relaxed) >= size
    }

    #[inline]
    fn fill(&self, place: u64, sample: Sample) {
        if !self.durations.is_empty() {
            let before = self.durations[place as usize].swap(sample.took, Ordering::Relaxed);
            self.took
                .fetch_add(sample.took.wrapping_sub(before), Ordering::Relaxed);
        }
        let word = &self.words[(place * self.bits / 64) as usize];
        let shift = place * self.bits % 64;
        let slow = sample.slow && self.bits == 2;
        let new = u64::from(sample.failed) * FAILED + u64::from(slow) * SLOW;
        let all = (1 << self.bits) - 1;
        let mut content = word.load(Ordering::Relaxed);
        loop {
            let old = (content >> shift) & all;
            if old == new {
                return;
            }
            let changed = content ^ ((old ^ new) << shift);
            match word.compare_exchange_weak(content, changed, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return self.recount(old, new),
                Err(now) => content = now,
            }
        }
    }

    /// Follows a place that held `old` and holds `new`.
    fn recount(&self, old: u64, new: u64) {
        let counters = [
            (&self.failures, FAILED),
            (&self.slow, SLOW),
            (&self.slow_failures, FAILED | SLOW),
        ];
        for (counter, kind) in counters {
            let (before, after) = (old & kind == kind, new & kind == kind);
            if before != after {
                // Minus one is a wrapping plus: a counter may pass below zero while two threads
                // follow one place, and `counted` reads that as zero.
                let change = if after { 1 } else { u64::MAX };
                counter.fetch_add(change, Ordering::Relaxed);
            }
        }
    }

    fn counts(&self, size: u64) -> Counts {
        let calls = self.taken.load(Ordering::Relaxed).min(size);
        let mut counts = Counts {
            calls,
            failures: counted(&self.failures, calls),
            ..Counts::default()
        };
        if self.bits == 2 {
            counts.slow = counted(&self.slow, calls);
            counts.slow_failures = counted(&self.slow_failures, calls);
        }
        if !self.durations.is_empty() {
            counts.took = Duration::from_nanos(self.took.load(Ordering::Relaxed));
        }
        counts
    }

    fn clear(&self) {
        for place in [&self.words, &self.durations].into_iter().flatten() {
            place.store(0, Ordering::Relaxed);
        }
        for counter in [
            &self.failures,
            &self.slow,
            &self.slow_failures,
            &self.took,
            &self.taken,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// A counter's value, between zero and `calls` also while it is being changed.
fn counted(counter: &AtomicU64, calls: u64) -> u64 {
    let value = counter.load(Ordering::Relaxed);
    if value > u64::MAX / 2 {
        0
    } else {
        value.min(calls)
    }
}

#[cfg(test)]
impl CountWindow {
    /// The counts by looking at every place, for windows at rest.
    pub(super) fn recounted(&self) -> Counts {
        let Form::Ring(ring) = &self.form else {
            return self.counts();
        };
        let mut counts = Counts {
            calls: ring.taken.load(Ordering::Relaxed).min(self.size),
            ..Counts::default()
        };
        for place in 0..self.size {
            let word = ring.words[(place * ring.bits / 64) as usize].load(Ordering::Relaxed);
            let held = (word >> (place * ring.bits % 64)) & ((1 << ring.bits) - 1);
            counts.failures += u64::from(held & FAILED != 0);
            counts.slow += u64::from(held & SLOW != 0);
            counts.slow_failures += u64::from(held == FAILED | SLOW);
        }
        for took in &ring.durations {
            counts.took += Duration::from_nanos(took.load(Ordering::Relaxed));
        }
        counts
    }
}
