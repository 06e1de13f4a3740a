//! A window over the last slices of time.

use std::time::Duration;

use crate::instant::{Instant, nanos};
use crate::striped::thread_index;
use crate::sync::{AtomicU64, Ordering};

/// A window over the last `n` slices of time, the current one included.
///
/// Counters only grow. When a slice begins, their values are saved as its *baseline*, so the content of
/// the window is the difference between the counters and the baseline of the oldest slice in it:
///
/// ```text
///   time ──────────────────────────────────────────────────────►
///            │ oldest        │               │ newest
///            │ baseline: 40  │ baseline: 52  │ baseline: 58   counter: 61
///            └────────────────── content: 61 − 40 ──────────────────┘
/// ```
///
/// Recording is one atomic addition and evaluating is a subtraction, at any number of slices. A slice
/// without calls is not stored, so beginning a slice is amortized O(1) too.
///
/// # Exactness
///
/// A call counts into the newest slice at the time it is added. A thread that is preempted between reading
/// the clock and recording therefore counts late; it never brings an old slice back.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct TimeWindow {
    /// When the newest slice ends, in nanoseconds. Zero before the first slice.
    ends: AtomicU64,
    /// Numbers of the newest and the oldest slice in the window. Numbers grow with time: see
    /// [`after`](Self::after).
    newest: AtomicU64,
    oldest: AtomicU64,
    /// Length of a slice and of the window, in nanoseconds.
    slice: u64,
    window: u64,
    /// Whether slices are aligned to the clock's origin. Otherwise the first slice begins with the first call, and
    /// again with the first call after the window has run empty.
    aligned: bool,
    kinds: u8,
    slots: u16,
    /// The start and the baseline of each slice: `1 + kinds` words each. There are two slots more than
    /// slices in the window, so a slice is overwritten only after a later one has begun without it.
    slices: Box<[AtomicU64]>,
    counters: [Counters; 2],
}

/// Half of the counters: threads alternate between the halves, so two threads do not contend for a cache
/// line on each call.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Counters([AtomicU64; MAX_KINDS]);

/// The largest number of counters per slice.
pub(crate) const MAX_KINDS: usize = 5;

/// The slice that a call was counted into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice(u64);

/// The content of the window, by kind.
pub(crate) type Sums = [u64; MAX_KINDS];

impl TimeWindow {
    /// The shortest slice.
    pub(crate) const MIN_SLICE: Duration = Duration::from_micros(100);
    /// The largest number of slices.
    pub(crate) const MAX_SLICES: u32 = 1024;

    /// Returns an empty window of length `window` in `slices` slices, which counts `kinds` kinds of calls.
    /// Clamps values that are out of range; builders have checked them.
    pub(crate) fn new(window: Duration, slices: u32, aligned: bool, kinds: usize) -> Self {
        let slices = u64::from(slices.clamp(1, Self::MAX_SLICES));
        let slice = (nanos(window) / slices).max(nanos(Self::MIN_SLICE));
        let slots = slices as u16 + 2;
        let words = usize::from(slots) * (1 + kinds);
        Self {
            ends: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            oldest: AtomicU64::new(0),
            slice,
            window: slice * slices,
            aligned,
            kinds: kinds as u8,
            slots,
            slices: (0..words).map(|_| AtomicU64::new(0)).collect(),
            counters: [Counters::default(), Counters::default()],
        }
    }

    /// Begins the slice of `now` unless it has begun. Must be called before [`add`](Self::add).
    #[inline]
    pub(crate) fn advance(&self, now: Instant) {
        // Acquire: pairs with the end of `begin_slice`, so that additions come after the slice's baseline.
        if now.as_nanos() >= self.ends.load(Ordering::Acquire) {
            self.begin_slice(now.as_nanos());
        }
    }

    /// Adds to the newest slice.
    #[inline]
    pub(crate) fn add(&self, kind: usize, amount: u64) {
        // SeqCst, like the loads in `totals`: of two calls that complete a condition together, one observes
        // both. At least Release is needed: see `begin_slice`.
        self.counters[thread_index() % 2].0[kind].fetch_add(amount, Ordering::SeqCst);
    }

    /// Begins the slice of `now` unless it has begun.
    ///
    /// Threads may race: each writes the whole slice before it publishes it, and all writes are maxima, so
    /// a late thread changes nothing.
    #[cold]
    fn begin_slice(&self, now: u64) {
        loop {
            // Acquire, also in the second load: a thread that adds to the next slice has observed its
            // publication, so a baseline that contains that addition is never written.
            let newest = self.newest.load(Ordering::Acquire);
            let began = self.began(newest);
            let begins = self.start_of(now, began);
            // Covers late readings, and the first aligned slice, which begins at zero.
            if begins <= began && (self.aligned || self.ends.load(Ordering::Relaxed) != 0) {
                self.ends
                    .fetch_max(began.saturating_add(self.slice), Ordering::AcqRel);
                return;
            }
            let baseline = self.totals();
            if self.newest.load(Ordering::Acquire) != newest {
                continue;
            }
            let next = self.after(newest);
            self.write_slice(next, begins, baseline);
            self.drop_slices(next, begins);
            // Release, here and below: pairs with the loads above and in `advance`.
            let order = Ordering::AcqRel;
            let _ = self
                .newest
                .compare_exchange(newest, next, order, Ordering::Relaxed);
            self.ends
                .fetch_max(begins.saturating_add(self.slice), order);
        }
    }

    fn write_slice(&self, number: u64, begins: u64, baseline: Sums) {
        let words = self.slice(number);
        words[0].fetch_max(begins, Ordering::Relaxed);
        for (word, value) in words[1..].iter().zip(baseline) {
            word.fetch_max(value, Ordering::Relaxed);
        }
    }

    /// Returns when the slice of `now` begins, given that the newest slice began at `began`.
    fn start_of(&self, now: u64, began: u64) -> u64 {
        if self.aligned {
            return now - now % self.slice;
        }
        let passed = now.saturating_sub(began);
        let is_first = self.ends.load(Ordering::Relaxed) == 0;
        if is_first || passed >= self.window {
            now
        } else {
            began + (passed - passed % self.slice)
        }
    }

    /// Drops the slices that are out of the window once the newest slice begins at `begins`.
    fn drop_slices(&self, newest: u64, begins: u64) {
        let mut oldest = self.oldest.load(Ordering::Acquire);
        while oldest < newest && begins.saturating_sub(self.began(oldest)) >= self.window {
            oldest = self.after(oldest);
        }
        self.oldest.fetch_max(oldest, Ordering::AcqRel);
    }

    /// Returns when a call added at `now` has certainly left the window, in nanoseconds. One slice is added
    /// for threads with late readings.
    #[inline]
    pub(crate) fn expires_at(&self, now: Instant) -> u64 {
        let stays = self.window.saturating_add(self.slice);
        now.as_nanos().saturating_add(stays)
    }

    /// Returns the length of a slice.
    pub(crate) const fn slice_length(&self) -> Duration {
        Duration::from_nanos(self.slice)
    }

    /// Returns the content right after an addition.
    #[inline]
    pub(crate) fn sums(&self) -> Sums {
        loop {
            let oldest = self.oldest.load(Ordering::Acquire);
            let sums = self.since(oldest);
            // A slice that has left the window may have been overwritten in between.
            if self.oldest.load(Ordering::Acquire) == oldest {
                return sums;
            }
        }
    }

    /// Returns the content at `now`. Changes nothing.
    pub(crate) fn sums_at(&self, now: Instant) -> Sums {
        let newest = self.newest.load(Ordering::Acquire);
        let mut slice = self.oldest.load(Ordering::Acquire);
        while slice <= newest {
            if self.is_within(slice, self.window, now) {
                return self.since(slice);
            }
            slice = self.after(slice);
        }
        [0; MAX_KINDS]
    }

    /// Returns the content at `now` by slice, oldest first, with the start of each. Changes nothing.
    pub(crate) fn slices_at(&self, now: Instant) -> Vec<(Instant, Sums)> {
        loop {
            let oldest = self.oldest.load(Ordering::Acquire);
            let newest = self.newest.load(Ordering::Acquire);
            let mut slices = Vec::new();
            let mut slice = oldest;
            while slice <= newest {
                if self.is_within(slice, self.window, now) {
                    slices.push((Instant::from_nanos(self.began(slice)), self.since(slice)));
                }
                slice = self.after(slice);
            }
            // A slice that has left the window may have been overwritten in between.
            if self.oldest.load(Ordering::Acquire) != oldest {
                continue;
            }
            let later: Vec<Sums> = slices.iter().skip(1).map(|(_, sums)| *sums).collect();
            for ((_, sums), later) in slices.iter_mut().zip(later) {
                for (sum, later) in sums.iter_mut().zip(later) {
                    *sum = sum.saturating_sub(later);
                }
            }
            return slices;
        }
    }

    /// Returns the content of the current slice and the `before` slices before it.
    pub(crate) fn sums_of_latest(&self, before: u64, now: Instant) -> Sums {
        let span = before.saturating_add(1).saturating_mul(self.slice);
        let span = span.min(self.window);
        let mut first = self.newest.load(Ordering::Acquire);
        if !self.is_within(first, span, now) {
            return [0; MAX_KINDS];
        }
        let oldest = self.oldest.load(Ordering::Acquire);
        while first > oldest && self.is_within(self.before(first), span, now) {
            first = self.before(first);
        }
        self.since(first)
    }

    /// Returns whether a slice began in the last `span` nanoseconds.
    fn is_within(&self, slice: u64, span: u64, now: Instant) -> bool {
        now.as_nanos().saturating_sub(self.began(slice)) < span
    }

    /// Returns the additions since a slice began.
    fn since(&self, slice: u64) -> Sums {
        let baseline = &self.slice(slice)[1..];
        let mut sums = self.totals();
        for (sum, value) in sums.iter_mut().zip(baseline) {
            *sum = sum.saturating_sub(value.load(Ordering::Acquire));
        }
        sums
    }

    /// Returns the counters, both halves added up.
    fn totals(&self) -> Sums {
        let mut sums = Sums::default();
        for half in &self.counters {
            for (sum, counter) in sums.iter_mut().zip(&half.0[..usize::from(self.kinds)]) {
                *sum = sum.wrapping_add(counter.load(Ordering::SeqCst));
            }
        }
        sums
    }

    /// Returns the slice that calls are added to.
    #[inline]
    pub(crate) fn newest(&self) -> Slice {
        Slice(self.newest.load(Ordering::Relaxed))
    }

    /// Adds one to a slice that may have ended. Does nothing if it has left the window.
    #[inline]
    pub(crate) fn add_to(&self, slice: Slice, kind: usize) {
        let newest = self.newest.load(Ordering::Relaxed);
        if slice.0 < self.oldest.load(Ordering::Relaxed) {
            return;
        }
        self.add(kind, 1);
        // Raises the baselines of the later slices, as if the call had been counted before they began. A slice that
        // begins concurrently may miss this. Then the window also contains the call while that slice is the oldest.
        let mut later = self.after(slice.0);
        while later <= newest {
            self.slice(later)[1 + kind].fetch_add(1, Ordering::Relaxed);
            later = self.after(later);
        }
    }

    /// Empties the window by beginning a slice that is the only one in it. Calls recorded concurrently may or may not
    /// survive.
    pub(crate) fn clear(&self) {
        loop {
            let newest = self.newest.load(Ordering::Acquire);
            let (began, baseline) = (self.began(newest), self.totals());
            if self.newest.load(Ordering::Acquire) != newest {
                continue;
            }
            let next = self.after(newest);
            self.write_slice(next, began, baseline);
            self.oldest.fetch_max(next, Ordering::AcqRel);
            let order = Ordering::AcqRel;
            let published = self
                .newest
                .compare_exchange(newest, next, order, Ordering::Relaxed);
            if published.is_ok() {
                break;
            }
        }
        if !self.aligned {
            self.ends.store(0, Ordering::Release);
        }
    }

    fn began(&self, slice: u64) -> u64 {
        self.slice(slice)[0].load(Ordering::Relaxed)
    }

    /// The bits of a slice's number that are its slot. The bits above count the laps around the ring, so
    /// finding a slot takes no division, whatever the number of slots.
    const SLOT: u64 = 0xffff;

    /// Returns the number of the slice after this one.
    #[inline]
    const fn after(&self, slice: u64) -> u64 {
        let next = slice + 1;
        if next & Self::SLOT == self.slots as u64 {
            (next | Self::SLOT) + 1
        } else {
            next
        }
    }

    /// Returns the number of the slice before this one, which must not be the first.
    const fn before(&self, slice: u64) -> u64 {
        match slice & Self::SLOT {
            0 => (slice - 1) & !Self::SLOT | (self.slots as u64 - 1),
            _ => slice - 1,
        }
    }

    /// Returns the words of a slice.
    fn slice(&self, number: u64) -> &[AtomicU64] {
        let stride = 1 + usize::from(self.kinds);
        let slot = (number & Self::SLOT) as usize;
        &self.slices[slot * stride..][..stride]
    }
}

#[cfg(all(test, not(backstop_loom)))]
impl TimeWindow {
    pub(super) const fn words_in_use(&self) -> usize {
        self.slices.len()
    }
}
