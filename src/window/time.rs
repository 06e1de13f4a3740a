//! A window over the last slices of time.

use std::time::Duration;

use crate::instant::{Instant, nanos};
use crate::striped::home;
use crate::sync::{AtomicU64, Ordering};

/// A window over the last `n` slices of time, the current one included.
///
/// Counters only grow. When a slice begins, their values are saved as its *marks*, so the content of
/// the window is the difference between the counters and the marks of the oldest slice in it:
///
/// ```text
///   time ──────────────────────────────────────────────────►
///            │ oldest      │             │ newest
///            │ marks: 40   │ marks: 52   │ marks: 58     counter: 61
///            └──────────────── content: 61 − 40 ────────────────┘
/// ```
///
/// Recording is one atomic addition and evaluating is a subtraction, at any number of slices. A
/// slice without calls has no marks and takes no room, so beginning a slice is amortized O(1) too.
///
/// # Exactness
///
/// A call counts into the newest slice when it is added. A thread that is preempted between reading
/// the clock and recording counts late, by the time it was preempted; it never brings an old slice
/// back.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct TimeWindow {
    /// When the newest slice ends, in nanoseconds. Zero before the first slice.
    ends: AtomicU64,
    /// Numbers of the newest and the oldest slice in the window. They grow in the order in which slices
    /// begin: see [`after`](Self::after).
    newest: AtomicU64,
    oldest: AtomicU64,
    /// Length of a slice and of the window, in nanoseconds.
    slice: u64,
    window: u64,
    /// Slices are aligned to the clock's origin. Otherwise the first one begins with the first call,
    /// and again with the first call after the window has run empty.
    aligned: bool,
    kinds: u8,
    places: u16,
    /// When each slice began, then its marks: `1 + kinds` words for each. Two slices more than fit in
    /// the window, so a slice is overwritten only after a later one has begun without it.
    slices: Box<[AtomicU64]>,
    counters: [Counters; 2],
}

/// Half of the counters: every other thread counts into those of its own, so that two threads do not
/// contend for a cache line on each call.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Counters([AtomicU64; MAX_KINDS]);

/// The largest number of kinds.
pub(crate) const MAX_KINDS: usize = 5;

/// The slice that a call was counted into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice(u64);

/// How much of each kind is in the window.
pub(crate) type Sums = [u64; MAX_KINDS];

impl TimeWindow {
    /// The shortest slice.
    pub(crate) const MIN_SLICE: Duration = Duration::from_micros(100);
    /// The largest number of slices.
    pub(crate) const MAX_SLICES: u32 = 1024;

    /// Returns an empty window of `window` in `slices` slices, which counts `kinds` kinds of calls.
    ///
    /// Builders check that the slices are in range; here they are clamped.
    pub(crate) fn new(window: Duration, slices: u32, aligned: bool, kinds: usize) -> Self {
        let slices = u64::from(slices.clamp(1, Self::MAX_SLICES));
        let slice = (nanos(window) / slices).max(nanos(Self::MIN_SLICE));
        let places = slices as u16 + 2;
        let words = usize::from(places) * (1 + kinds);
        Self {
            ends: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            oldest: AtomicU64::new(0),
            slice,
            window: slice * slices,
            aligned,
            kinds: kinds as u8,
            places,
            slices: (0..words).map(|_| AtomicU64::new(0)).collect(),
            counters: [Counters::default(), Counters::default()],
        }
    }

    /// Moves on to the slice of `now`. Call before [`add`](Self::add).
    #[inline]
    pub(crate) fn advance(&self, now: Instant) {
        // Acquire: pairs with the end of `begin_slice`, so that what is added next is newer than the
        // marks of the slice.
        if now.as_nanos() >= self.ends.load(Ordering::Acquire) {
            self.begin_slice(now.as_nanos());
        }
    }

    /// Adds to the newest slice.
    #[inline]
    pub(crate) fn add(&self, kind: usize, amount: u64) {
        // SeqCst, as the loads in `totals`: of two calls that complete a condition together, one sees
        // both. And at least Release: see `begin_slice`.
        self.counters[home() % 2].0[kind].fetch_add(amount, Ordering::SeqCst);
    }

    /// Begins the slice of `now` if it has not begun.
    ///
    /// Any number of threads may do so at once. Each writes the same slice in full before it
    /// publishes it, and only maxima, so the last one changes nothing.
    #[cold]
    fn begin_slice(&self, now: u64) {
        loop {
            // Acquire, also in the second load: a thread that adds to the next slice has seen it
            // published, so marks that contain what it added are never written.
            let newest = self.newest.load(Ordering::Acquire);
            let began = self.began(newest);
            let begins = self.begin_of(now, began);
            // Late readings, and the first slice of aligned ones, which begins at zero.
            if begins <= began && (self.aligned || self.ends.load(Ordering::Relaxed) != 0) {
                self.ends
                    .fetch_max(began.saturating_add(self.slice), Ordering::AcqRel);
                return;
            }
            let marks = self.totals();
            if self.newest.load(Ordering::Acquire) != newest {
                continue;
            }
            let next = self.after(newest);
            self.write_slice(next, begins, marks);
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

    fn write_slice(&self, number: u64, begins: u64, marks: Sums) {
        let words = self.slice(number);
        words[0].fetch_max(begins, Ordering::Relaxed);
        for (word, mark) in words[1..].iter().zip(marks) {
            word.fetch_max(mark, Ordering::Relaxed);
        }
    }

    /// When the slice of `now` begins, after one that began at `began`.
    fn begin_of(&self, now: u64, began: u64) -> u64 {
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

    /// Drops slices that are out of the window when the newest one begins at `begins`.
    fn drop_slices(&self, newest: u64, begins: u64) {
        let mut oldest = self.oldest.load(Ordering::Acquire);
        while oldest < newest && begins.saturating_sub(self.began(oldest)) >= self.window {
            oldest = self.after(oldest);
        }
        self.oldest.fetch_max(oldest, Ordering::AcqRel);
    }

    /// Returns when a call that is added at `now` has left the window, in nanoseconds: a slice later
    /// than it must, to spare late readings.
    #[inline]
    pub(crate) fn leaves(&self, now: Instant) -> u64 {
        let stays = self.window.saturating_add(self.slice);
        now.as_nanos().saturating_add(stays)
    }

    /// Returns the content while the newest slice lasts: for calls that have just been added.
    #[inline]
    pub(crate) fn sums(&self) -> Sums {
        loop {
            let oldest = self.oldest.load(Ordering::Acquire);
            let sums = self.since(oldest);
            // A slice that has left the window may be overwritten meanwhile.
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

    /// Whether a slice began in the last `span` nanoseconds.
    fn is_within(&self, slice: u64, span: u64, now: Instant) -> bool {
        now.as_nanos().saturating_sub(self.began(slice)) < span
    }

    /// What was added since a slice began.
    fn since(&self, slice: u64) -> Sums {
        let marks = &self.slice(slice)[1..];
        let mut sums = self.totals();
        for (sum, mark) in sums.iter_mut().zip(marks) {
            *sum = sum.saturating_sub(mark.load(Ordering::Acquire));
        }
        sums
    }

    /// The counters.
    fn totals(&self) -> Sums {
        let mut sums = Sums::default();
        for half in &self.counters {
            for (sum, counter) in sums.iter_mut().zip(&half.0[..usize::from(self.kinds)]) {
                *sum = sum.wrapping_add(counter.load(Ordering::SeqCst));
            }
        }
        sums
    }

    /// The slice that calls are being added to.
    #[inline]
    pub(crate) fn newest(&self) -> Slice {
        Slice(self.newest.load(Ordering::Relaxed))
    }

    /// Adds to a slice that may have ended, unless it has left the window.
    #[inline]
    pub(crate) fn add_to(&self, slice: Slice, kind: usize) {
        let newest = self.newest.load(Ordering::Relaxed);
        if slice.0 < self.oldest.load(Ordering::Relaxed) {
            return;
        }
        self.add(kind, 1);
        // As if it had been counted before the later slices began. A slice that begins at this moment
        // may contain it too, and shows it once more while that slice is the oldest.
        let mut later = self.after(slice.0);
        while later <= newest {
            self.slice(later)[1 + kind].fetch_add(1, Ordering::Relaxed);
            later = self.after(later);
        }
    }

    /// Empties the window: a slice begins that is the only one in it. Calls recorded meanwhile may
    /// survive or not.
    pub(crate) fn clear(&self) {
        loop {
            let newest = self.newest.load(Ordering::Acquire);
            let (began, marks) = (self.began(newest), self.totals());
            if self.newest.load(Ordering::Acquire) != newest {
                continue;
            }
            let next = self.after(newest);
            self.write_slice(next, began, marks);
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

    /// The bits of a slice's number that say where its words are. Above them the laps are counted, so that
    /// no division is needed to find a slice, whatever the number of places.
    const PLACE: u64 = 0xffff;

    /// The number of the slice after this one.
    #[inline]
    const fn after(&self, slice: u64) -> u64 {
        let next = slice + 1;
        if next & Self::PLACE == self.places as u64 {
            (next | Self::PLACE) + 1
        } else {
            next
        }
    }

    /// The number of the slice before this one, which is not the first.
    const fn before(&self, slice: u64) -> u64 {
        match slice & Self::PLACE {
            0 => (slice - 1) & !Self::PLACE | (self.places as u64 - 1),
            _ => slice - 1,
        }
    }

    /// The words of a slice.
    fn slice(&self, number: u64) -> &[AtomicU64] {
        let stride = 1 + usize::from(self.kinds);
        let place = (number & Self::PLACE) as usize;
        &self.slices[place * stride..][..stride]
    }
}

#[cfg(all(test, not(backstop_loom)))]
impl TimeWindow {
    pub(super) const fn words_in_use(&self) -> usize {
        self.slices.len()
    }
}
