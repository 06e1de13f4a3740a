//! The delay that follows a quantile of recent latencies.

use std::time::Duration;

use super::histogram::Histogram;
use crate::instant::{Instant, nanos};
use crate::sync::{AtomicU64, Ordering};

/// A delay that is a quantile of recent latencies, recomputed about once a second.
#[derive(Debug)]
pub(in crate::hedge) struct LatencyDelay {
    histogram: Histogram,
    /// The quantile as the bits of an `f64`.
    quantile: AtomicU64,
    min_calls: u64,
    /// Time for which a computed delay is used.
    holds_nanos: u64,
    /// The delay; [`UNKNOWN`] while too few latencies are known.
    delay: AtomicU64,
    /// Time from which the delay is computed again.
    due_at: AtomicU64,
    /// Number of samples from which the delay is computed again.
    due_count: AtomicU64,
    samples: AtomicU64,
}

const UNKNOWN: u64 = u64::MAX;

impl LatencyDelay {
    pub(in crate::hedge) fn new(quantile: f64, min_calls: u32, window: Duration) -> Self {
        Self {
            histogram: Histogram::new(nanos(window)),
            quantile: AtomicU64::new(quantile.to_bits()),
            min_calls: min_calls.into(),
            holds_nanos: nanos(window) / 32,
            delay: AtomicU64::new(UNKNOWN),
            due_at: AtomicU64::new(0),
            due_count: AtomicU64::new(0),
            samples: AtomicU64::new(0),
        }
    }

    /// Records that a copy took this long, or, if `censored`, longer.
    #[inline]
    pub(in crate::hedge) fn record(&self, now: Instant, nanos: u64, censored: bool) {
        self.histogram.record(now, nanos, censored);
        // Relaxed throughout: the words are independent, and a slightly older delay does no harm.
        let samples = self.samples.fetch_add(1, Ordering::Relaxed) + 1;
        if samples >= self.due_count.load(Ordering::Relaxed) {
            self.compute(now);
        }
    }

    fn quantile(&self) -> f64 {
        f64::from_bits(self.quantile.load(Ordering::Relaxed))
    }

    /// Makes the delay another quantile of the latencies that are known.
    pub(in crate::hedge) fn set_quantile(&self, quantile: f64) {
        self.quantile.store(quantile.to_bits(), Ordering::Relaxed);
        self.due_at.store(0, Ordering::Relaxed);
    }

    /// Returns the delay in nanoseconds; `None` while too few latencies are known.
    #[inline]
    pub(in crate::hedge) fn get(&self, now: Instant) -> Option<u64> {
        if now.as_nanos() >= self.due_at.load(Ordering::Relaxed) {
            self.compute(now);
        }
        match self.delay.load(Ordering::Relaxed) {
            UNKNOWN => None,
            delay => Some(delay),
        }
    }

    /// Like [`get`](Self::get), computed from all latencies that are known. Changes nothing.
    pub(in crate::hedge) fn peek(&self, now: Instant) -> Option<u64> {
        let (delay, known) = self.histogram.quantile(now, self.quantile());
        delay.filter(|_| known >= self.min_calls)
    }

    /// Returns the number of latencies that are known.
    pub(in crate::hedge) fn known(&self, now: Instant) -> u64 {
        self.histogram.known(now)
    }

    /// Returns when all latencies will be forgotten if no other comes.
    pub(in crate::hedge) fn forgotten_at(&self, now: Instant) -> Instant {
        self.histogram.forgotten_at(now)
    }

    /// Computes the delay: as soon as enough latencies are known, then for each sixteenth more of them, and about
    /// once a second.
    #[cold]
    fn compute(&self, now: Instant) {
        let samples = self.samples.load(Ordering::Relaxed);
        let (delay, known) = self.histogram.quantile(now, self.quantile());
        let missing = self.min_calls.saturating_sub(known);
        let due_count = samples + missing.max(known / 16).max(1);
        self.due_count.store(due_count, Ordering::Relaxed);
        let due_at = now.after(self.holds_nanos);
        self.due_at.store(due_at.as_nanos(), Ordering::Relaxed);
        let delay = delay.filter(|_| known >= self.min_calls);
        self.delay
            .store(delay.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }
}
