//! Sliding windows over the results of calls, shared by the patterns that judge a dependency.
//!
//! ```text
//!   CountWindow, the last n calls            TimeWindow, the last n slices of time
//!
//!    ┌──── newest                             ┌──────┬──────┬──────┬──────┐
//!    ▼                                        │ 12/3 │ 40/0 │ 38/1 │  7/0 │ calls/failures
//!   0 0 1 0 0 0 1 0 │ oldest falls out        └──────┴──────┴──────┴──────┘
//! ```
//!
//! Both are lock-free, cost the same whatever their size, never allocate after they are built, and
//! are exact when no call is being recorded: their counts are those of their content. Slow calls are
//! counted beside failures, in the same step; a slow failure counts as both.

use std::time::Duration;

mod count;
#[cfg(all(test, backstop_loom))]
mod loom_tests;
#[cfg(all(test, not(backstop_loom)))]
mod tests;
mod time;

pub(crate) use self::count::{CountWindow, Pushed};
pub(crate) use self::time::{Slice, TimeWindow};

/// What one call was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// How long it took, in nanoseconds. Zero where nobody measures.
    pub(crate) took: u64,
    /// It failed.
    pub(crate) failed: bool,
    /// It took too long.
    pub(crate) slow: bool,
}

impl Sample {
    /// Fast and good: what a healthy dependency gives nearly always.
    #[inline]
    pub(crate) const fn is_clean(self) -> bool {
        !self.failed && !self.slow
    }
}

/// What a window keeps beside calls and failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tracks {
    /// Slow calls.
    pub(crate) slow: bool,
    /// The sum of the durations.
    pub(crate) durations: bool,
}

/// The content of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// All calls.
    pub(crate) calls: u64,
    /// Those that failed, slow or not.
    pub(crate) failures: u64,
    /// Those that were slow, failed or not.
    pub(crate) slow: u64,
    /// Those that were both.
    pub(crate) slow_failures: u64,
    /// The sum of the durations, where they are tracked.
    pub(crate) took: Duration,
}
