//! A window small enough for one word.

use super::{Counts, Sample};
use crate::sync::{AtomicU64, Ordering};

/// The whole window in one word. Zero when it is full and clean.
///
/// ```text
///   63               58       28+28       28           0        56           0
///   │ calls to come  │  ...  │ slow, newest low │ failed │   or   │   failed   │
/// ```
#[derive(Debug)]
pub(super) struct Word {
    /// The failures of a full window.
    mask: u64,
    /// The same for slow calls, further down than they are; zero where those are not tracked.
    slow: u64,
}

impl Word {
    /// How many calls are missing until the window is full.
    pub(super) const MISSING: u32 = 58;
    const SLOW: u32 = 28;

    pub(super) const fn new(size: u64, slow: bool) -> Self {
        Self {
            mask: (1 << size) - 1,
            slow: if slow { (1 << size) - 1 } else { 0 },
        }
    }

    /// Adds a call; the word before and after it.
    #[inline]
    pub(super) fn push(&self, word: &AtomicU64, sample: Sample) -> (u64, u64) {
        let mut old = word.load(Ordering::Relaxed);
        loop {
            let new = self.shifted(old, sample);
            if new == old {
                return (old, new);
            }
            match word.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return (old, new),
                Err(now) => old = now,
            }
        }
    }

    #[inline]
    fn shifted(&self, bits: u64, sample: Sample) -> u64 {
        let missing = (bits >> Self::MISSING).saturating_sub(1) << Self::MISSING;
        let failed = ((bits << 1) | u64::from(sample.failed)) & self.mask;
        if self.slow == 0 {
            return missing | failed;
        }
        let slow = ((bits >> Self::SLOW << 1) | u64::from(sample.slow)) & self.slow;
        missing | (slow << Self::SLOW) | failed
    }

    #[inline]
    pub(super) fn counts(&self, bits: u64, size: u64) -> Counts {
        let marks = bits & ((1 << Self::MISSING) - 1);
        let mut counts = Counts {
            calls: size - (bits >> Self::MISSING),
            ..Counts::default()
        };
        if marks != 0 {
            let failed = marks & self.mask;
            counts.failures = u64::from(failed.count_ones());
            if self.slow != 0 {
                let slow = (marks >> Self::SLOW) & self.slow;
                counts.slow = u64::from(slow.count_ones());
                counts.slow_failures = u64::from((slow & failed).count_ones());
            }
        }
        counts
    }
}
