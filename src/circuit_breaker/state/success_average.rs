//! The exponentially weighted success rate of Finagle's failure accrual.

use super::trip_rule::Span;
use crate::instant::{Instant, nanos};
use crate::sync::{AtomicU64, Ordering};
use crate::window::Counts;

/// An exponentially weighted average of successes (Finagle's `Ema`): the weight of the old average is
/// `exp(-dt / window)`.
#[derive(Debug)]
pub(super) struct SuccessAverage {
    /// The average as a 32-bit float above the 32-bit stamp of the last call, so both are updated by one CAS.
    /// Zero before the first call.
    word: AtomicU64,
    /// When the average was cleared, in nanoseconds.
    began: AtomicU64,
    /// The window, in units or in calls.
    window: f64,
    /// Nanoseconds in a unit of stamps; zero for a window of calls.
    unit: u64,
    span: Span,
}

impl SuccessAverage {
    /// Units in a window of time. 32-bit stamps wrap around after 262 144 windows.
    const UNITS_PER_WINDOW: u64 = 1 << 14;

    pub(super) fn new(span: Span) -> Self {
        let (window, unit) = match span {
            Span::Calls(calls) => (f64::from(calls), 0),
            Span::Time(window) => {
                let unit = (nanos(window) / Self::UNITS_PER_WINDOW).max(1);
                (nanos(window) as f64 / unit as f64, unit)
            }
        };
        Self {
            word: AtomicU64::new(0),
            began: AtomicU64::new(0),
            window,
            unit,
            span,
        }
    }

    /// Resets the average.
    pub(super) fn clear(&self, now: Instant) {
        self.began.store(now.as_nanos(), Ordering::Relaxed);
        self.word.store(0, Ordering::Relaxed);
    }

    /// Continues an average over the same window.
    pub(super) fn continue_from(&self, old: &Self) {
        let copy = |to: &AtomicU64, from: &AtomicU64| {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        };
        copy(&self.began, &old.began);
        copy(&self.word, &old.word);
    }

    /// Begins with an average, right after a clear.
    pub(super) fn start(&self, average: f64) {
        let bits = u64::from((average as f32).to_bits());
        self.word.store((bits << 32) | 1, Ordering::Relaxed);
    }

    pub(super) fn is_clean(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        word == 0 || Self::value(word) == 1.0
    }

    fn began(&self) -> Instant {
        // Relaxed, here as everywhere: the values order nothing else. A call that races with a clear may get a
        // wrong weight once.
        Instant::from_nanos(self.began.load(Ordering::Relaxed))
    }

    fn value(word: u64) -> f64 {
        f64::from(f32::from_bits((word >> 32) as u32))
    }

    /// Adds a call. Returns the average once the window has been full, or has passed, for the first time.
    pub(super) fn update(&self, success: bool, counts: &Counts, now: Instant) -> Option<f64> {
        let average = self.add(success, now);
        let is_warm = match self.span {
            Span::Calls(calls) => counts.calls >= u64::from(calls),
            Span::Time(window) => now.saturating_duration_since(self.began()) >= window,
        };
        is_warm.then_some(average)
    }

    fn add(&self, success: bool, now: Instant) -> f64 {
        let sample = f64::from(u8::from(success));
        let mut old = self.word.load(Ordering::Relaxed);
        let stamp = self.stamp(self.began(), now);
        loop {
            let average = if old == 0 {
                sample
            } else {
                let elapsed = match self.unit {
                    0 => 1,
                    _ => ahead(stamp, old as u32),
                };
                let weight = (-(elapsed as f64) / self.window).exp();
                Self::value(old) * weight + sample * (1.0 - weight)
            };
            let bits = u64::from((average as f32).to_bits());
            let newest = match old {
                0 => stamp,
                _ => (old as u32).wrapping_add(ahead(stamp, old as u32)).max(1),
            };
            let new = (bits << 32) | u64::from(newest);
            if new == old {
                return average;
            }
            match self
                .word
                .compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return average,
                Err(now) => old = now,
            }
        }
    }

    /// Returns the time since the clear, in units.
    fn stamp(&self, began: Instant, now: Instant) -> u32 {
        let elapsed = now.as_nanos().saturating_sub(began.as_nanos());
        // Never zero, because the word of a first failure must not be zero.
        (elapsed.checked_div(self.unit).unwrap_or(0) as u32).max(1)
    }
}

/// Returns how far `stamp` is ahead of `old`; zero for a late thread with an older stamp.
const fn ahead(stamp: u32, old: u32) -> u32 {
    let ahead = stamp.wrapping_sub(old);
    if ahead > u32::MAX / 2 { 0 } else { ahead }
}
