//! Snapshots of a breaker.

use std::time::Duration;

use crate::event::State;
use crate::window::Counts;

/// A consistent reading of a breaker. Returned by [`CircuitBreaker::snapshot`](super::CircuitBreaker::snapshot).
///
/// [`CircuitBreakerBuilder::restore`](super::CircuitBreakerBuilder::restore) builds a breaker that continues
/// from it.
#[cfg_attr(feature = "config", derive(serde::Serialize, serde::Deserialize))]
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The name of the breaker.
    #[cfg_attr(feature = "config", serde(deserialize_with = "crate::forms::name"))]
    pub name: &'static std::primitive::str,
    /// The state as last decided.
    pub state: State,
    /// The state apart from isolation.
    pub underlying: State,
    /// Number of changes so far.
    pub generation: u64,
    /// Time since the state was entered.
    #[cfg_attr(feature = "config", serde(with = "crate::forms::duration"))]
    pub in_state: Duration,
    /// The rest of the break: zero if it is over or the circuit is not open, `None` if it has no end. A
    /// [health check](super::CircuitBreaker::check_with) may end it earlier, or keep the circuit open after it.
    #[cfg_attr(
        feature = "config",
        serde(default, with = "crate::forms::optional_duration")
    )]
    pub retry_after: Option<Duration>,
    /// Number of consecutive openings without a close.
    pub consecutive_trips: u32,
    /// Calls in the first window. If the circuit is half-open, or open again after failed probes, these are the
    /// finished probes.
    pub calls: u64,
    /// Calls of [`calls`](Self::calls) that failed, slow or not.
    pub failures: u64,
    /// Calls of [`calls`](Self::calls) that were slow, failed or not.
    pub slow: u64,
    /// Calls of [`calls`](Self::calls) that were slow and failed.
    pub slow_failures: u64,
    /// Sum of the durations of [`calls`](Self::calls). `None` unless
    /// [`measure_durations`](super::CircuitBreakerBuilder::measure_durations) is set.
    #[cfg_attr(
        feature = "config",
        serde(default, with = "crate::forms::optional_duration")
    )]
    pub total_duration: Option<Duration>,
    /// The least number of calls before a rate applies.
    pub min_calls: u64,
    /// Consecutive failures. Zero unless a rule counts them.
    pub consecutive_failures: u32,
    /// Calls rejected since the state changed. Isolation does not reset it.
    pub rejected: u64,
    /// Calls that shadow mode admitted although they would have been rejected, since the state changed.
    pub would_reject: u64,
    /// Number of probes in flight.
    pub probes_in_flight: u32,
    /// Probes that may start now.
    pub probes_free: u32,
}

impl Snapshot {
    /// Returns the number of calls that did not fail.
    pub const fn successes(&self) -> u64 {
        self.calls.saturating_sub(self.failures)
    }

    /// Returns the share of calls that failed, or `None` below [`min_calls`](Self::min_calls).
    pub fn failure_rate(&self) -> Option<f64> {
        self.rate(self.failures)
    }

    /// Returns the share of calls that were slow, or `None` below [`min_calls`](Self::min_calls).
    pub fn slow_rate(&self) -> Option<f64> {
        self.rate(self.slow)
    }

    /// Returns the mean duration of the calls. `None` without calls, or unless
    /// [`measure_durations`](super::CircuitBreakerBuilder::measure_durations) is set.
    pub fn mean_duration(&self) -> Option<Duration> {
        let total = self.total_duration?;
        (self.calls > 0).then(|| {
            let mean = total.as_nanos() / u128::from(self.calls);
            Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX))
        })
    }

    /// Returns a snapshot that restores empty windows.
    pub(crate) const fn without_counts(mut self) -> Self {
        (self.calls, self.failures, self.slow) = (0, 0, 0);
        (self.slow_failures, self.consecutive_failures) = (0, 0);
        self
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
            total_duration: self.total_duration.unwrap_or_default(),
        }
    }
}
