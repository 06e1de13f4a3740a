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

/// The result of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Duration in nanoseconds. Zero where durations are not measured.
    pub(crate) took: u64,
    pub(crate) failed: bool,
    pub(crate) slow: bool,
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
