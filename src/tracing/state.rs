//! Decides when summaries of rejections are due. Time is an argument.

use std::sync::atomic::{AtomicU64, Ordering};

/// Rejections of one kind that are not logged yet, and when their next summary may be written.
#[derive(Debug, Default)]
pub(super) struct Tally {
    count: AtomicU64,
    /// When the next summary is due, in nanoseconds of the clock. Zero before the first rejection.
    due: AtomicU64,
}

impl Tally {
    /// Counts a rejection. Returns the number of rejections to write if a summary is due, or otherwise when it will be.
    pub(super) fn add(&self, now: u64, interval: u64) -> Result<u64, u64> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.take(now, interval)
            .ok_or_else(|| self.due.load(Ordering::Relaxed))
    }

    /// Returns the number of rejections to write if a summary is due. Only one of several threads gets it.
    pub(super) fn take(&self, now: u64, interval: u64) -> Option<u64> {
        // Relaxed: the counts publish no other memory. The thread that moves `due` takes what has been counted; the
        // rest becomes part of the next summary.
        let due = self.due.load(Ordering::Relaxed);
        if now < due || self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let next = now.saturating_add(interval).max(1);
        self.due
            .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
            .ok()?;
        self.rest()
    }

    /// Returns the number of all rejections that were not logged, due or not.
    pub(super) fn rest(&self) -> Option<u64> {
        let count = self.count.swap(0, Ordering::Relaxed);
        (count > 0).then_some(count)
    }

    /// Returns when the next summary is due, if any rejection is not logged yet.
    pub(super) fn next(&self) -> Option<u64> {
        (self.count.load(Ordering::Relaxed) > 0).then(|| self.due.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_first_is_logged_and_then_one_line_a_second() {
        let tally = Tally::default();
        let mut lines = Vec::new();
        // 10 000 a second for three seconds.
        for call in 0..30_000 {
            let now = SECOND + call * SECOND / 10_000;
            lines.extend(tally.add(now, SECOND).ok());
        }
        assert_eq!(lines, [1, 10_000, 10_000]);
        assert_eq!(tally.next(), Some(4 * SECOND));
        assert_eq!(tally.take(4 * SECOND - 1, SECOND), None);
        assert_eq!(tally.take(4 * SECOND, SECOND), Some(9_999));
        assert_eq!((tally.next(), tally.rest()), (None, None));
    }
}
