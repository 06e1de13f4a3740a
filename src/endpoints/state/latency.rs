//! The latency of a node: an exponentially weighted moving average.

use std::time::Duration;

use crate::instant::{Instant, nanos};
use crate::sync::{AtomicU64, Ordering};

/// A moving average of latencies that decays with time, not with the number of samples.
///
/// A sample weighs about `1 − exp(−t / decay)`, where `t` is the time since the sample before it. Without new
/// samples the average decays towards zero, so a node that was slow is tried again.
#[derive(Debug)]
pub(crate) struct Latency {
    /// The average in nanoseconds as the bits of an `f64`, at least 1; [`UNKNOWN`] before the first sample.
    average: AtomicU64,
    /// Time of the last sample, in nanoseconds.
    sampled_at: AtomicU64,
}

/// The bits of zero.
const UNKNOWN: u64 = 0;

/// The least weight of a sample. Without it, the samples of one instant would not count.
const MIN_WEIGHT: f64 = 1.0 / 1024.0;

/// The decay of an average, with precomputed factors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decay {
    /// `1 / (64 × decay)`, with the decay in nanoseconds.
    per_part: f64,
    /// Idle times up to this one are ignored: the average would change by at most 6 %, and most reads
    /// save an exponential.
    ignored: u64,
}

impl Decay {
    /// Above zero.
    pub(crate) fn new(decay: Duration) -> Self {
        Self {
            per_part: (nanos(decay) as f64 * 64.0).recip(),
            ignored: nanos(decay) / 16,
        }
    }

    fn weight(self, elapsed: u64) -> f64 {
        (1.0 - self.left_after(elapsed)).max(MIN_WEIGHT)
    }

    /// Returns the share that is left of an average after this many nanoseconds, `exp(−elapsed / decay)`.
    ///
    /// As `(1 − x / 64)⁶⁴`, which is at most 0.005 too low and takes six multiplications: picks call it for
    /// each candidate.
    #[inline]
    fn left_after(self, elapsed: u64) -> f64 {
        let mut left = (1.0 - elapsed as f64 * self.per_part).max(0.0);
        for _ in 0..6 {
            left *= left;
        }
        left
    }
}

impl Latency {
    pub(crate) fn new() -> Self {
        Self {
            average: AtomicU64::new(UNKNOWN),
            sampled_at: AtomicU64::new(0),
        }
    }

    /// Records a sample of this many nanoseconds.
    pub(crate) fn record(&self, sample: u64, now: Instant, decay: Decay) {
        let sample = (sample as f64).max(1.0);
        let now = now.as_nanos();
        // Relaxed, here and below: the two words are independent. Concurrent samples may both count the time since
        // the previous sample, which increases their weight a little.
        let before = self.sampled_at.load(Ordering::Relaxed);
        if now > before {
            self.sampled_at.store(now, Ordering::Relaxed);
        }
        let weight = decay.weight(now.saturating_sub(before));
        let mut bits = self.average.load(Ordering::Relaxed);
        loop {
            let average = match bits {
                UNKNOWN => sample,
                bits => f64::from_bits(bits) + weight * (sample - f64::from_bits(bits)),
            };
            let new = average.max(1.0).to_bits();
            let stored =
                self.average
                    .compare_exchange_weak(bits, new, Ordering::Relaxed, Ordering::Relaxed);
            match stored {
                Ok(_) => return,
                Err(current) => bits = current,
            }
        }
    }

    /// Records that a call was cancelled after this many nanoseconds: its latency is at least that.
    pub(crate) fn record_at_least(&self, elapsed: u64, now: Instant, decay: Decay) {
        if self
            .at(now, decay)
            .is_none_or(|average| elapsed as f64 > average)
        {
            self.record(elapsed, now, decay);
        }
    }

    /// Returns the average in nanoseconds, at least 1. `None` before the first sample.
    #[inline]
    pub(crate) fn at(&self, now: Instant, decay: Decay) -> Option<f64> {
        let bits = self.average.load(Ordering::Relaxed);
        if bits == UNKNOWN {
            return None;
        }
        let average = f64::from_bits(bits);
        let idle = now
            .as_nanos()
            .saturating_sub(self.sampled_at.load(Ordering::Relaxed));
        if idle <= decay.ignored {
            return Some(average);
        }
        Some((average * decay.left_after(idle)).max(1.0))
    }

    /// Discards all samples.
    pub(crate) fn clear(&self) {
        self.average.store(UNKNOWN, Ordering::Relaxed);
    }
}
