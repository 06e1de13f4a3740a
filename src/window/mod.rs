//! Sliding windows over the results of calls, shared by the circuit breaker and the throttle.
//!
//! ```text
//!   CountWindow, the last n calls            TimeWindow, the last n slices of time
//!
//!    ┌──── newest                             ┌──────┬──────┬──────┬──────┐
//!    ▼                                        │ 12/3 │ 40/0 │ 38/1 │  7/0 │ calls/failures
//!   0 0 1 0 0 0 1 0 │ oldest expires          └──────┴──────┴──────┴──────┘
//! ```
//!
//! Both are lock-free and allocate only when they are built. Each keeps running totals, so recording and
//! evaluating are O(1) at any size. Totals are exact while no call is being recorded. A slow failure counts
//! as slow and as a failure.

use std::time::Duration;

mod count;
#[cfg(all(test, backstop_loom))]
mod loom_tests;
#[cfg(all(test, not(backstop_loom)))]
mod tests;
mod time;

pub(crate) use self::count::{COUNTS_SUCCESSES, CountWindow};
pub(crate) use self::time::{Slice, Sums, TimeWindow};

/// The result of one call. Two scalars, so it is passed in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) kind: Kind,
    /// Duration in nanoseconds; zero unless durations are measured.
    pub(crate) duration: u64,
}

/// The kind of a result: a bit for failed and a bit for slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Success = 0,
    Failed = 1,
    Slow = 2,
    SlowFailure = 3,
}

impl Sample {
    pub(crate) const SUCCESS: Self = Self::new(false, false, 0);

    #[inline]
    pub(crate) const fn new(failed: bool, slow: bool, duration: u64) -> Self {
        let kind = match (failed, slow) {
            (false, false) => Kind::Success,
            (true, false) => Kind::Failed,
            (false, true) => Kind::Slow,
            (true, true) => Kind::SlowFailure,
        };
        Self { kind, duration }
    }

    #[inline]
    pub(crate) const fn is_success(self) -> bool {
        matches!(self.kind, Kind::Success)
    }

    #[inline]
    pub(crate) const fn is_failure(self) -> bool {
        self.kind as u8 & Kind::Failed as u8 != 0
    }

    #[inline]
    pub(crate) const fn is_slow(self) -> bool {
        self.kind as u8 & Kind::Slow as u8 != 0
    }
}

/// Counts of the calls in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Number of calls.
    pub calls: u64,
    /// Calls that failed, slow or not.
    pub failures: u64,
    /// Calls that were slow, failed or not.
    pub slow: u64,
    /// Calls that were slow and failed.
    pub slow_failures: u64,
    /// Sum of the durations; zero unless durations are measured.
    pub total_duration: Duration,
}

impl Counts {
    /// Returns the share of calls that failed, or zero if there are no calls.
    pub fn failure_rate(&self) -> f64 {
        self.rate(self.failures)
    }

    /// Returns the share of calls that were slow, or zero if there are no calls.
    pub fn slow_rate(&self) -> f64 {
        self.rate(self.slow)
    }

    fn rate(&self, bad: u64) -> f64 {
        bad as f64 / self.calls.max(1) as f64
    }
}
