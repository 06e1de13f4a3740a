//! Latencies of the recent past, in two windows that rotate.

use crate::instant::Instant;
use crate::sync::{AtomicU64, Ordering};

/// Latencies by size, in bounded memory: about 34 KB, whatever the traffic. Lock-free.
///
/// Buckets are as wide as 1/32 of their latency. Each stores its shortest and its longest latency, so quantiles between
/// them are interpolated to the nanosecond, and are exact if all calls take equally long. A copy that was dropped
/// before its end is a censored sample: it would have taken longer than it had.
///
/// Windows follow the clock: a rotation replaces the older of the two. Samples that other threads record
/// during a rotation may be lost.
#[derive(Debug)]
pub(super) struct Histogram {
    window_nanos: u64,
    /// Number of the current window.
    epoch: AtomicU64,
    windows: [Window; 2],
}

#[derive(Debug)]
struct Window {
    buckets: Box<[Bucket]>,
}

#[derive(Debug)]
struct Bucket {
    /// Number of latencies, and of censored ones in the upper half.
    counts: AtomicU64,
    /// The longest latency, and the shortest one in the upper half, from the start of the bucket.
    range: AtomicU64,
}

/// Log2 of the number of buckets for each power of two.
#[cfg(not(backstop_loom))]
const SUB_BUCKET_BITS: u32 = 5;
/// Longer latencies count as this long: 137 s. Offsets in a bucket then fit in 32 bits.
#[cfg(not(backstop_loom))]
const LONGEST: u64 = (1 << 37) - 1;
// Few buckets, so that loom can explore the model.
#[cfg(backstop_loom)]
const SUB_BUCKET_BITS: u32 = 0;
#[cfg(backstop_loom)]
const LONGEST: u64 = 3;

const BUCKETS: usize = index(LONGEST) + 1;
const NO_RANGE: u64 = (u32::MAX as u64) << 32;

/// Returns the bucket of a latency.
const fn index(nanos: u64) -> usize {
    let shift = (nanos | 1 << SUB_BUCKET_BITS).ilog2() - SUB_BUCKET_BITS;
    ((shift as usize) << SUB_BUCKET_BITS) + (nanos >> shift) as usize
}

/// Returns the shortest latency of a bucket.
const fn start(index: usize) -> u64 {
    let shift = (index >> SUB_BUCKET_BITS).saturating_sub(1);
    ((index - (shift << SUB_BUCKET_BITS)) as u64) << shift
}

impl Histogram {
    pub(super) fn new(window_nanos: u64) -> Self {
        Self {
            window_nanos: window_nanos.max(1),
            epoch: AtomicU64::new(0),
            windows: [Window::new(), Window::new()],
        }
    }

    /// Records that a copy took this long, or, if `censored`, longer.
    #[inline]
    pub(super) fn record(&self, now: Instant, nanos: u64, censored: bool) {
        let nanos = nanos.min(LONGEST);
        let epoch = self.rotate(now);
        let bucket = &self.windows[epoch as usize % 2].buckets[index(nanos)];
        if !censored {
            bucket.extend((nanos - start(index(nanos))) as u32);
        }
        bucket.count(censored);
    }

    /// Makes the window of `now` the current one if it is later. Returns the current one.
    #[inline]
    fn rotate(&self, now: Instant) -> u64 {
        let epoch = now.as_nanos() / self.window_nanos;
        // Relaxed, here and below: a sample that lands in the wrong window changes little.
        let current = self.epoch.load(Ordering::Relaxed);
        if epoch <= current {
            return current;
        }
        self.begin(current, epoch);
        epoch
    }

    #[cold]
    fn begin(&self, current: u64, epoch: u64) {
        let relaxed = Ordering::Relaxed;
        let exchanged = self
            .epoch
            .compare_exchange(current, epoch, relaxed, relaxed);
        if exchanged.is_err() {
            // Another thread has begun the window.
            return;
        }
        self.windows[epoch as usize % 2].clear();
        if epoch > current + 1 {
            self.windows[(epoch as usize + 1) % 2].clear();
        }
    }

    /// Returns the latency that a share of `quantile` of the calls does not exceed, and the number of
    /// latencies that are known. Changes nothing.
    ///
    /// The share of calls above a latency is the Kaplan-Meier estimate: a censored sample counts among all up to its
    /// latency, and among none beyond. If too many samples are censored to determine the quantile, the longest of all
    /// latencies is returned.
    pub(super) fn quantile(&self, now: Instant, quantile: f64) -> (Option<u64>, u64) {
        let windows = self.windows(now);
        let (mut known, mut at_risk) = (0, 0);
        for total in totals(&windows) {
            known += total.exact;
            at_risk += total.exact + total.censored;
        }
        // The margin keeps rounding from moving the quantile to the next bucket.
        let (target, tolerance) = (1.0 - quantile, 1e-9);
        let (mut share, mut longest) = (1.0, None);
        for (at, total) in totals(&windows).enumerate() {
            if total.exact > 0 {
                // Other threads may have recorded samples since the totals were added up.
                let lost = total.exact as f64 / at_risk.max(total.exact) as f64;
                let rest = share * (1.0 - lost);
                if rest <= target + tolerance {
                    let part = ((share - target) / (share - rest)).clamp(0.0, 1.0);
                    return (Some(total.between(at, part)), known);
                }
                share = rest;
                longest = Some(total.between(at, 1.0));
            } else if total.censored > 0 {
                longest = Some(start(at));
            }
            at_risk = at_risk.saturating_sub(total.exact + total.censored);
        }
        (longest, known)
    }

    /// Returns the number of latencies that are known. Changes nothing.
    pub(super) fn known(&self, now: Instant) -> u64 {
        let windows = self.windows(now);
        totals(&windows).map(|total| total.exact).sum()
    }

    /// Returns when all samples will be forgotten if no other comes.
    pub(super) fn forgotten_at(&self, now: Instant) -> Instant {
        let windows = self.windows(now);
        if totals(&windows).all(|total| total.exact + total.censored == 0) {
            return now;
        }
        let epoch = self.epoch.load(Ordering::Relaxed);
        Instant::from_nanos((epoch + 2).saturating_mul(self.window_nanos))
    }

    /// Returns the current window at `now` and the one before, if they have samples.
    fn windows(&self, now: Instant) -> [Option<&Window>; 2] {
        let current = self.epoch.load(Ordering::Relaxed);
        let age = (now.as_nanos() / self.window_nanos).saturating_sub(current);
        [0, 1].map(|past| {
            let counts = age + past <= 1 && past <= current;
            counts.then(|| &self.windows[(current.wrapping_sub(past)) as usize % 2])
        })
    }
}

/// Returns the buckets of the windows added up.
fn totals(windows: &[Option<&Window>; 2]) -> impl Iterator<Item = Total> {
    (0..BUCKETS).map(move |at| {
        let mut total = Total::EMPTY;
        for window in windows.iter().flatten() {
            total.add(&window.buckets[at]);
        }
        total
    })
}

impl Window {
    fn new() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| Bucket::new()).collect(),
        }
    }

    fn clear(&self) {
        for bucket in &self.buckets {
            bucket.counts.store(0, Ordering::Relaxed);
            bucket.range.store(NO_RANGE, Ordering::Relaxed);
        }
    }
}

impl Bucket {
    fn new() -> Self {
        Self {
            counts: AtomicU64::new(0),
            range: AtomicU64::new(NO_RANGE),
        }
    }

    #[inline]
    fn count(&self, censored: bool) {
        let one = if censored { 1 << 32 } else { 1 };
        // Counts saturate at 2^31. The other half of the range absorbs concurrent additions.
        let counts = self.counts.load(Ordering::Relaxed);
        if (counts as u32).max((counts >> 32) as u32) < u32::MAX / 2 {
            self.counts.fetch_add(one, Ordering::Relaxed);
        }
    }

    /// Extends the range to include a latency. Most latencies are inside already.
    #[inline]
    fn extend(&self, offset: u32) {
        let mut range = self.range.load(Ordering::Relaxed);
        loop {
            let (longest, shortest) = (range as u32, (range >> 32) as u32);
            if shortest <= offset && offset <= longest {
                return;
            }
            let extended = (shortest.min(offset) as u64) << 32 | longest.max(offset) as u64;
            let relaxed = Ordering::Relaxed;
            match (self.range).compare_exchange_weak(range, extended, relaxed, relaxed) {
                Ok(_) => return,
                Err(current) => range = current,
            }
        }
    }
}

/// A bucket of both windows.
#[derive(Clone, Copy, Debug)]
struct Total {
    exact: u64,
    censored: u64,
    shortest: u32,
    longest: u32,
}

impl Total {
    const EMPTY: Self = Self {
        exact: 0,
        censored: 0,
        shortest: u32::MAX,
        longest: 0,
    };

    fn add(&mut self, bucket: &Bucket) {
        let counts = bucket.counts.load(Ordering::Relaxed);
        let range = bucket.range.load(Ordering::Relaxed);
        self.exact += counts & u64::from(u32::MAX);
        self.censored += counts >> 32;
        self.shortest = self.shortest.min((range >> 32) as u32);
        self.longest = self.longest.max(range as u32);
    }

    /// Returns the latency that the given part of the bucket's samples does not exceed.
    fn between(&self, index: usize, part: f64) -> u64 {
        // A thread may have counted a latency, and another one may have cleared its range since.
        let shortest = self.shortest.min(self.longest);
        let width = self.longest - shortest;
        start(index) + u64::from(shortest) + (f64::from(width) * part).round() as u64
    }
}

#[cfg(all(test, not(backstop_loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_latency_has_a_bucket_that_begins_at_or_before_it() {
        assert_eq!(BUCKETS, 1056);
        for at in 0..BUCKETS {
            assert_eq!(index(start(at)), at);
        }
        for power in 0..37 {
            for nanos in [(1 << power) - 1, 1 << power, (1 << power) + 1] {
                let at = index(nanos);
                assert!(start(at) <= nanos && (at + 1 == BUCKETS || nanos < start(at + 1)));
                assert!(nanos - start(at) <= nanos / 32);
            }
        }
        assert_eq!(index(LONGEST), BUCKETS - 1);
    }
}
