//! A reading of a breaker.

use std::time::Duration;

use crate::event::State;
use crate::window::Counts;

/// What a breaker was like at one moment. Made by
/// [`CircuitBreaker::snapshot`](super::CircuitBreaker::snapshot).
///
/// [`CircuitBreakerBuilder::restore`](super::CircuitBreakerBuilder::restore) builds a breaker that
/// goes on from it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The state, as last decided.
    pub state: State,
    /// The state but for isolation.
    pub underlying: State,
    /// How many changes there were.
    pub generation: u64,
    /// How long the state has been what it is.
    pub in_state: Duration,
    /// How long the break still is: zero when it is over or there is none, `None` when it does not
    /// end by itself.
    pub retry_after: Option<Duration>,
    /// How often the circuit has opened without closing in between.
    pub trips: u32,
    /// Calls in the first window; while half-open, and after a trial that failed, trial calls that
    /// ended.
    pub calls: u64,
    /// Those of them that failed, slow or not.
    pub failures: u64,
    /// Those of them that were slow, failed or not.
    pub slow: u64,
    /// Those of them that were both.
    pub slow_failures: u64,
    /// How long they took together, where
    /// [`measure_durations`](super::CircuitBreakerBuilder::measure_durations) says so.
    pub total_duration: Option<Duration>,
    /// How many calls a rate needs before it says anything.
    pub min_calls: u64,
    /// Failures in a row. Zero when no rule asks for it.
    pub consecutive_failures: u32,
    /// Calls refused since the state changed, isolation apart.
    pub rejected: u64,
    /// Trial calls in flight.
    pub probes_in_flight: u32,
    /// Trial calls that may start now.
    pub probes_free: u32,
}

impl Snapshot {
    /// Calls that did not fail.
    pub const fn successes(&self) -> u64 {
        self.calls.saturating_sub(self.failures)
    }

    /// The share of calls that failed; `None` while there are fewer than
    /// [`min_calls`](Self::min_calls).
    pub fn failure_rate(&self) -> Option<f64> {
        self.rate(self.failures)
    }

    /// The share of calls that were slow; `None` while there are fewer than
    /// [`min_calls`](Self::min_calls).
    pub fn slow_rate(&self) -> Option<f64> {
        self.rate(self.slow)
    }

    /// How long the calls took on the average, where
    /// [`measure_durations`](super::CircuitBreakerBuilder::measure_durations) says so; `None` when
    /// there are none.
    pub fn mean_duration(&self) -> Option<Duration> {
        let total = self.total_duration?;
        (self.calls > 0).then(|| {
            let mean = total.as_nanos() / u128::from(self.calls);
            Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX))
        })
    }

    fn rate(&self, bad: u64) -> Option<f64> {
        (self.calls > 0 && self.calls >= self.min_calls).then(|| bad as f64 / self.calls as f64)
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            calls: self.calls,
            failures: self.failures,
            slow: self.slow,
            slow_failures: self.slow_failures,
            took: self.total_duration.unwrap_or_default(),
        }
    }
}
