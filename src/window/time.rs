//! The last slices of time.

use std::time::Duration;

use super::{Counts, Sample, Tracks};
use crate::instant::{Instant, nanos};
use crate::striped::home;
use crate::sync::{AtomicU64, Mutex, Ordering};

mod advance;

/// A window over the last `n` slices of time, the present one included.
///
/// Slices are aligned to the clock's origin, or begin with the first call, and again with the first
/// one after the window has run empty.
///
/// # Exactness
///
/// Each slice's numbers carry the slice they belong to in the same word, so a slice is emptied and
/// counted into in one step. A call counts into the present slice. A thread that is stopped between
/// reading the clock and recording counts late, by as long as it was stopped; it never brings an old
/// slice back.
///
/// # Clocks that go back
///
/// A reading from the past counts as the newest one. A clock that is set back by more than the
/// window and a minute begins an empty window.
// In cache lines of its own: all look at it, and hardly anybody changes it.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct TimeWindow {
    /// Where the first slice begins, in the clock's nanoseconds; [`UNKNOWN`] until the first call.
    /// Moves on by a part of a slice when the window begins anew.
    origin: AtomicU64,
    /// The origin that `newest` is known to go by. Another one: a call moves it just now.
    published: AtomicU64,
    aligned: bool,
    /// Nanoseconds.
    slice: u64,
    slices: u64,
    /// The newest slice there is: its number, and its place in the low [`PLACE_BITS`] bits.
    newest: AtomicU64,
    /// The newest slice with a call that was not clean, plus one; zero when there is none.
    marked: AtomicU64,
    /// `stride` words for each place; then, from `second` on, one more for each.
    ///
    /// Every other thread counts its good calls into those, so that two threads do not wait for each
    /// other at each call. Those of one place are never in one cache line.
    words: Box<[AtomicU64]>,
    stride: usize,
    second: usize,
    tracks: Tracks,
    /// Locked while all words may be emptied, until the slice is published that this was for: what
    /// is counted into that slice is never taken for an old count.
    sweeping: Mutex<()>,
}

/// The slice that a call was counted into: as `newest` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice(u64);

const PLACE_BITS: u32 = 16;
/// What the words of a place count.
const CALLS: usize = 0;
const FAILED: usize = 1;
const SLOW: usize = 2;
const BOTH: usize = 3;

/// A word is a tag, the low bits of the slice's number, above a count.
const COUNT_BITS: u32 = 32;
/// Durations need more room: microseconds below a shorter tag.
const TOOK_BITS: u32 = 40;
/// Counts stop here, out of reach of the tag for all who add at once.
const FULL: u64 = u32::MAX as u64 - 0xffff;
const TOOK_FULL: u64 = (1 << TOOK_BITS) - 1;

/// The words of a cache line.
const LINE: usize = 8;

const UNKNOWN: u64 = u64::MAX;

/// Tags are swept each time this many bits of the slices' numbers are used up.
const SWEEP_BITS: u32 = 22;

impl TimeWindow {
    /// The shortest slice.
    pub(crate) const MIN_SLICE: Duration = Duration::from_micros(100);
    /// The largest number of slices.
    pub(crate) const MAX_SLICES: u32 = 1024;

    /// An empty window of `window` in `slices` slices.
    ///
    /// Slices are at least [`MIN_SLICE`](Self::MIN_SLICE) long, and from one to
    /// [`MAX_SLICES`](Self::MAX_SLICES) in number; builders check that they are.
    ///
    /// Slices are `aligned` to the clock's origin, or begin with the first call.
    pub(crate) fn new(window: Duration, slices: u32, aligned: bool, tracks: Tracks) -> Self {
        let slices = u64::from(slices.clamp(1, Self::MAX_SLICES));
        let slice = (nanos(window) / slices).max(nanos(Self::MIN_SLICE));
        let stride = if tracks.slow { 4 } else { 2 } + usize::from(tracks.durations);
        let second = slices as usize * stride + LINE;
        Self {
            origin: AtomicU64::new(if aligned { 0 } else { UNKNOWN }),
            published: AtomicU64::new(if aligned { 0 } else { UNKNOWN }),
            aligned,
            slice,
            slices,
            newest: AtomicU64::new(0),
            marked: AtomicU64::new(0),
            words: (0..second + slices as usize)
                .map(|_| AtomicU64::new(0))
                .collect(),
            stride,
            second,
            tracks,
            sweeping: Mutex::new(()),
        }
    }

    /// Adds a call that ended at `now`.
    #[inline(always)]
    pub(crate) fn record(&self, sample: Sample, now: Instant) {
        if self.kind_of(sample).is_some() || self.tracks.durations {
            // Not inlined, and field by field: a sample in memory would have to be there for the
            // others too.
            return self.record_slowly(sample.failed, sample.slow, sample.took, now);
        }
        self.record_clean(now);
    }

    /// As [`record`](Self::record), for a good and fast call, where durations are not tracked.
    #[inline(always)]
    pub(crate) fn record_clean(&self, now: Instant) {
        let newest = self.present(now);
        let epoch = newest >> PLACE_BITS;
        let place = (newest & ((1 << PLACE_BITS) - 1)) as usize;
        let word = match home() % 2 {
            0 => place * self.stride + CALLS,
            _ => self.second + place,
        };
        // Without a look at it before: one that has to come from another processor then comes once
        // and not twice.
        let word = &self.words[word];
        let content = word.fetch_add(1, Ordering::Relaxed);
        let count = content & ((1 << COUNT_BITS) - 1);
        if content >> COUNT_BITS != tag(epoch, COUNT_BITS) || count >= FULL {
            Self::added_blindly(word, content, epoch);
        }
    }

    #[inline(never)]
    fn record_slowly(&self, failed: bool, slow: bool, took: u64, now: Instant) {
        let sample = Sample { took, failed, slow };
        self.record_into(sample, now);
    }

    /// One was added to a word that had `content`, which was not that of slice `epoch` or is full.
    #[cold]
    fn added_blindly(word: &AtomicU64, content: u64, epoch: u64) {
        let tag = tag(epoch, COUNT_BITS);
        let behind = tag.wrapping_sub(content >> COUNT_BITS) & mask(COUNT_BITS);
        if behind == 0 {
            word.fetch_sub(1, Ordering::Relaxed);
        } else if behind <= mask(COUNT_BITS) / 2 {
            // What was added to belongs to a slice that has left the window, and goes with it.
            Self::add_slowly(word, epoch, COUNT_BITS, 1, FULL);
        }
        // Else the slice has left the window, and the call counts late, in the newer one.
    }

    /// Adds a call, into the slice that it returns.
    #[inline]
    pub(crate) fn record_into(&self, sample: Sample, now: Instant) -> Slice {
        let newest = self.present(now);
        let epoch = newest >> PLACE_BITS;
        let first = (newest & ((1 << PLACE_BITS) - 1)) as usize * self.stride;
        self.add(first + CALLS, epoch, COUNT_BITS, 1, FULL);
        self.mark(first, epoch, sample);
        self.add_duration(first, epoch, sample.took);
        Slice(newest)
    }

    /// Changes a call that was recorded as `from` into one that is `to`, or takes it back. Too late
    /// when its slice has left the window. Durations stay what they were.
    #[inline]
    pub(crate) fn amend(&self, slice: Slice, from: Sample, to: Option<Sample>) {
        let epoch = slice.0 >> PLACE_BITS;
        let newest = self.newest.load(Ordering::Relaxed) >> PLACE_BITS;
        // A slice from before the clock was set back is in the future, and gone too.
        if newest.wrapping_sub(epoch) >= self.slices {
            return;
        }
        let first = (slice.0 & ((1 << PLACE_BITS) - 1)) as usize * self.stride;
        // The new one first: a look in between sees a call too bad rather than too good.
        if let Some(to) = to {
            self.mark(first, epoch, to);
        }
        if let Some(kind) = self.kind_of(from) {
            self.take(first + kind, epoch);
        }
        if to.is_none() {
            self.take(first + CALLS, epoch);
        }
    }

    /// Counts a call that is not clean once more, as what it is.
    #[inline]
    fn mark(&self, first: usize, epoch: u64, sample: Sample) {
        if let Some(kind) = self.kind_of(sample) {
            // Relaxed: whoever records evaluates afterwards, and sees what it wrote itself.
            self.marked.fetch_max(epoch + 1, Ordering::Relaxed);
            self.add(first + kind, epoch, COUNT_BITS, 1, FULL);
        }
    }

    /// Which word counts such calls; `None` for clean ones.
    #[inline]
    const fn kind_of(&self, sample: Sample) -> Option<usize> {
        match (sample.failed, sample.slow && self.tracks.slow) {
            (true, true) => Some(BOTH),
            (true, false) => Some(FAILED),
            (false, true) => Some(SLOW),
            (false, false) => None,
        }
    }

    #[inline]
    fn add_duration(&self, first: usize, epoch: u64, took: u64) {
        if self.tracks.durations {
            let word = first + self.stride - 1;
            let micros = (took / 1_000).min(TOOK_FULL);
            self.add(word, epoch, TOOK_BITS, micros, TOOK_FULL);
        }
    }

    /// Whether nothing but good and fast calls is in it. Cheap.
    #[inline(always)]
    pub(crate) fn is_clean(&self, now: Instant) -> bool {
        let marked = self.marked.load(Ordering::Relaxed);
        marked == 0 || self.has_left(marked, now)
    }

    /// Whether all slices before `marked` have left the window.
    #[inline(never)]
    fn has_left(&self, marked: u64, now: Instant) -> bool {
        self.epoch(now) >= marked - 1 + self.slices
    }

    /// The content.
    pub(crate) fn counts(&self, now: Instant) -> Counts {
        let epoch = self.epoch(now);
        let mut sums = [0; 5];
        for word in &self.words[self.second..] {
            let word = word.load(Ordering::Relaxed);
            if self.is_live(word, epoch, COUNT_BITS) {
                sums[CALLS] += word & ((1 << COUNT_BITS) - 1);
            }
        }
        for place in self.places() {
            for (kind, (word, sum)) in place.iter().zip(&mut sums).enumerate() {
                let bits = self.bits_of(kind);
                // Relaxed: a count and the tag it belongs to are one word.
                let word = word.load(Ordering::Relaxed);
                if self.is_live(word, epoch, bits) {
                    *sum += word & ((1 << bits) - 1);
                }
            }
        }
        let took = if self.tracks.durations {
            std::mem::take(&mut sums[self.stride - 1])
        } else {
            0
        };
        let [calls, failed, slow, both, _] = sums;
        Counts {
            calls: calls.max(failed + slow + both),
            failures: failed + both,
            slow: slow + both,
            slow_failures: both,
            took: Duration::from_micros(took),
        }
    }

    /// How many calls of the present slice and the `before` slices before it are slow, failed or
    /// not. Zero when slow calls are not tracked.
    pub(crate) fn slow_in_latest(&self, before: u64, now: Instant) -> u64 {
        if !self.tracks.slow {
            return 0;
        }
        let epoch = self.epoch(now);
        self.places()
            .flat_map(|place| [&place[SLOW], &place[BOTH]])
            .map(|word| word.load(Ordering::Relaxed))
            .filter(|word| {
                let age = tag(epoch, COUNT_BITS).wrapping_sub(word >> COUNT_BITS);
                (age & mask(COUNT_BITS)) <= before.min(self.slices - 1)
            })
            .map(|word| word & ((1 << COUNT_BITS) - 1))
            .sum()
    }

    fn places(&self) -> impl Iterator<Item = &[AtomicU64]> {
        self.words[..self.second - LINE].chunks_exact(self.stride)
    }

    /// Empties it. Calls recorded meanwhile may survive or not.
    pub(crate) fn clear(&self) {
        self.newest.store(0, Ordering::Relaxed);
        self.empty();
    }

    fn empty(&self) {
        self.marked.store(0, Ordering::Relaxed);
        if !self.aligned {
            self.published.store(UNKNOWN, Ordering::Relaxed);
            self.origin.store(UNKNOWN, Ordering::Relaxed);
        }
        for word in &self.words {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// How many bits count in the words of this kind.
    const fn bits_of(&self, kind: usize) -> u32 {
        if self.tracks.durations && kind == self.stride - 1 {
            TOOK_BITS
        } else {
            COUNT_BITS
        }
    }

    /// Whether the slice a word belongs to is in the window that ends with slice `epoch`.
    const fn is_live(&self, content: u64, epoch: u64, bits: u32) -> bool {
        tag(epoch, bits).wrapping_sub(content >> bits) & mask(bits) < self.slices
    }

    /// Adds to a word, which becomes that of slice `epoch` if it is still that of an older one.
    #[inline]
    fn add(&self, word: usize, epoch: u64, bits: u32, amount: u64, full: u64) {
        let word = &self.words[word];
        let content = word.load(Ordering::Relaxed);
        let count = content & ((1 << bits) - 1);
        if bits == COUNT_BITS && content >> bits == tag(epoch, bits) && count < full {
            word.fetch_add(amount, Ordering::Relaxed);
        } else {
            Self::add_slowly(word, epoch, bits, amount, full);
        }
    }

    /// Takes one from a word, if it is still that of slice `epoch`.
    #[inline]
    fn take(&self, word: usize, epoch: u64) {
        let one_less = |content: u64| {
            let is_same = content >> COUNT_BITS == tag(epoch, COUNT_BITS);
            let count = content & ((1 << COUNT_BITS) - 1);
            (is_same && count > 0).then(|| content - 1)
        };
        // Relaxed, and no matter if there was nothing to take: as in `add`.
        let _ = self.words[word].fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
    }

    #[cold]
    fn add_slowly(word: &AtomicU64, epoch: u64, bits: u32, amount: u64, full: u64) {
        let tag = tag(epoch, bits);
        let mut content = word.load(Ordering::Relaxed);
        loop {
            let count = content & ((1 << bits) - 1);
            let behind = tag.wrapping_sub(content >> bits) & mask(bits);
            let count = if behind == 0 {
                count.saturating_add(amount).min(full)
            } else if behind <= mask(bits) / 2 {
                amount
            } else {
                // A newer slice has taken the place: this one has left the window.
                return;
            };
            let new = (tag << bits) | count;
            match word.compare_exchange_weak(content, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => content = now,
            }
        }
    }
}

/// The tag of a slice above a count of `bits` bits.
#[inline]
const fn tag(epoch: u64, bits: u32) -> u64 {
    epoch & mask(bits)
}

/// All bits of the tag above a count of `bits` bits.
#[inline]
const fn mask(bits: u32) -> u64 {
    u64::MAX >> bits
}

#[cfg(all(test, not(backstop_loom)))]
impl TimeWindow {
    pub(super) const fn words_in_use(&self) -> usize {
        self.words.len()
    }
}
