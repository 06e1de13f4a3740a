//! Sliding windows over the results of calls, shared by the circuit breaker and the throttle.
//!
//! ```text
//!   CountWindow, the last n calls            TimeWindow, the last n slices of time
//!
//!    ┌──── newest                             ┌──────┬──────┬──────┬──────┐
//!    ▼                                        │ 12/3 │ 40/0 │ 38/1 │  7/0 │ calls/failures
//!   0 0 1 0 0 0 1 0 │ oldest leaves           └──────┴──────┴──────┴──────┘
//! ```
//!
//! Both are lock-free and never allocate after construction. Recording and evaluating are O(1) at
//! any size: each window keeps running totals. Both are exact while no call is being recorded. A
//! slow failure counts as slow and as a failure.

use std::time::Duration;

mod count;
#[cfg(all(test, backstop_loom))]
mod loom_tests;
#[cfg(all(test, not(backstop_loom)))]
mod tests;
mod time;

pub(crate) use self::count::{CountWindow, UNSETTLED};
pub(crate) use self::time::{Slice, Sums, TimeWindow};

/// The result of one call. Two scalars, so that it travels in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) kind: Kind,
    /// Duration in nanoseconds. Zero where durations are not measured.
    pub(crate) took: u64,
}

/// What a call was: the sum of the bits for failed and slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Good = 0,
    Failed = 1,
    Slow = 2,
    SlowFailure = 3,
}

impl Sample {
    pub(crate) const GOOD: Self = Self::new(false, false, 0);

    #[inline]
    pub(crate) const fn new(failed: bool, slow: bool, took: u64) -> Self {
        let kind = match (failed, slow) {
            (false, false) => Kind::Good,
            (true, false) => Kind::Failed,
            (false, true) => Kind::Slow,
            (true, true) => Kind::SlowFailure,
        };
        Self { kind, took }
    }

    #[inline]
    pub(crate) const fn is_good(self) -> bool {
        matches!(self.kind, Kind::Good)
    }

    #[inline]
    pub(crate) const fn has_failed(self) -> bool {
        self.kind as u8 & Kind::Failed as u8 != 0
    }

    #[inline]
    pub(crate) const fn was_slow(self) -> bool {
        self.kind as u8 & Kind::Slow as u8 != 0
    }
}

/// Counts of the calls in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// All calls.
    pub calls: u64,
    /// Calls that failed, slow or not.
    pub failures: u64,
    /// Calls that were slow, failed or not.
    pub slow: u64,
    /// Calls that were slow and failed.
    pub slow_failures: u64,
    /// Sum of the durations. Zero unless durations are measured.
    pub took: Duration,
}

impl Counts {
    /// Returns the share of calls that failed: zero without calls.
    pub fn failure_rate(&self) -> f64 {
        self.rate(self.failures)
    }

    /// Returns the share of calls that were slow: zero without calls.
    pub fn slow_rate(&self) -> f64 {
        self.rate(self.slow)
    }

    fn rate(&self, bad: u64) -> f64 {
        bad as f64 / self.calls.max(1) as f64
    }
}
