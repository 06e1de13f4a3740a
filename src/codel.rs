//! CoDel for request queues: the state machine of bulkheads and load shedders, also for queues of your own.
//!
//! # What it protects
//!
//! Protects the waiters of a queue. A standing queue delays every call by the same time without serving more of them.
//! CoDel distinguishes a standing queue from a burst that drains, and selects the waiters to drop.
//!
//! ```text
//!  delay  │      ╭╮  burst: the smallest delay of the interval is low
//!         │     ╭╯╰╮          ╭──────── standing queue: never below the target
//!  target │─ ─ ╭╯─ ╰╮─ ─ ─ ─ ╭╯─ ─ ─ ─
//!         │───╯     ╰───────╯
//!         └─────────┬─────────┬─────────► time, in intervals
//! ```
//!
//! # When not to use it
//!
//! In front of a [`Bulkhead`](crate::Bulkhead): its builder has
//! [`codel`](crate::bulkhead::BulkheadBuilder::codel).
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use backstop::{Clock, ManualClock};
//! use backstop::codel::Codel;
//!
//! let clock = ManualClock::new();
//! let mut codel = Codel::builder().build(clock.now())?;
//! let ms = Duration::from_millis;
//!
//! // Every call at the head of the queue has waited for 20 ms or longer.
//! for _ in 0..20 {
//!     clock.advance(ms(10));
//!     codel.should_drop(ms(20), clock.now());
//! }
//! assert!(codel.is_overloaded());
//! assert!(codel.should_drop(ms(11), clock.now()), "more than twice the target");
//! assert!(!codel.should_drop(ms(9), clock.now()));
//! # Ok::<(), backstop::ConfigError>(())
//! ```
//!
//! # Defaults
//!
//! | setting | default |
//! |---|---|
//! | `target` | 5 ms |
//! | `interval` | 100 ms |
//! | `stale_after` | 2 targets |
//!
//! # With other layers
//!
//! It is a pure state machine, without a clock and without a lock. Serve the newest waiters first while it
//! [is overloaded](Codel::is_overloaded), because their callers are the least likely to have given up.
//!
//! # Source
//!
//! folly's `Codel`, after Nichols and Jacobson, "Controlling queue delay" (2012). Facebook adapted it to servers: it
//! uses the *smallest* delay of an interval, so a burst that drains is not an overload, but a queue that never empties
//! is.

use std::fmt;
use std::time::Duration;

use crate::debug::DebugLimit;
use crate::error::ConfigError;
use crate::instant::{Instant, nanos};

/// Detects a standing queue from queue delays, and selects the waiters to drop.
///
/// Records the smallest delay of each interval. If it was above the target, the queue is overloaded from the first
/// waiter after the interval on. While it is overloaded, waiters older than twice the target are dropped.
#[derive(Clone)]
pub struct Codel {
    /// Nanoseconds.
    target: u64,
    /// Nanoseconds.
    interval: u64,
    /// Multiple of `target` from which a waiter is stale.
    stale_after: u64,
    interval_end: Instant,
    /// The smallest delay of the current interval in nanoseconds, or `None` before its first waiter.
    min_delay: Option<u64>,
    overloaded: bool,
}

/// Builds a [`Codel`]. The table of defaults is on the [module page](self).
#[derive(Clone, Copy, PartialEq)]
#[must_use = "a builder does nothing until `build`"]
pub struct CodelBuilder {
    target: Duration,
    interval: Duration,
    stale_after: u32,
}

crate::debug::debug_settings!(CodelBuilder { stale_after; target, interval });

impl Codel {
    pub(crate) const TARGET: Duration = Duration::from_millis(5);
    pub(crate) const INTERVAL: Duration = Duration::from_millis(100);
    /// Waiters older than this many targets are dropped under overload.
    const STALE_AFTER: u32 = 2;

    /// Returns a builder with the default settings.
    pub const fn builder() -> CodelBuilder {
        CodelBuilder {
            target: Self::TARGET,
            interval: Self::INTERVAL,
            stale_after: Self::STALE_AFTER,
        }
    }

    /// Checks a target and an interval; `Err` explains the mistake.
    pub(crate) fn check(target: Duration, interval: Duration) -> Result<(), &'static str> {
        if target.is_zero() {
            Err("needs a target above zero")
        } else if target >= interval {
            Err("needs a target shorter than its interval")
        } else {
            Ok(())
        }
    }

    /// Returns the machine for values that have been [checked](Self::check).
    pub(crate) const fn new(target: Duration, interval: Duration) -> Self {
        Self {
            target: nanos(target),
            interval: nanos(interval),
            stale_after: Self::STALE_AFTER as u64,
            interval_end: Instant::ORIGIN,
            min_delay: None,
            overloaded: false,
        }
    }

    /// Changes the target and the interval. The current interval keeps its end.
    ///
    /// # Errors
    ///
    /// A target that is zero or not below the interval. Then nothing changes.
    pub fn retune(&mut self, target: Duration, interval: Duration) -> Result<(), ConfigError> {
        Self::check(target, interval)
            .map_err(|problem| ConfigError::new("codel", "target", problem))?;
        self.target = nanos(target);
        self.interval = nanos(interval);
        Ok(())
    }

    /// Records the delay of a waiter at the head of the queue at `now`. Returns whether to drop it.
    pub fn should_drop(&mut self, delay: Duration, now: Instant) -> bool {
        let delay = nanos(delay);
        match self.min_delay {
            Some(min) if now > self.interval_end => {
                self.interval_end = now + Duration::from_nanos(self.interval);
                self.overloaded = min > self.target;
                // The first waiter of an interval is never dropped, so that there is always a delay to measure.
                self.min_delay = Some(delay);
                false
            }
            None => {
                self.min_delay = Some(delay);
                false
            }
            Some(min) => {
                self.min_delay = Some(min.min(delay));
                self.is_stale(delay)
            }
        }
    }

    /// Returns the largest delay under overload, in nanoseconds.
    const fn tolerated(&self) -> u64 {
        self.target.saturating_mul(self.stale_after)
    }

    const fn is_stale(&self, delay: u64) -> bool {
        self.overloaded && delay > self.tolerated()
    }

    /// Records that the queue was empty, so it is not a standing queue.
    pub const fn drained(&mut self) {
        self.min_delay = Some(0);
    }

    /// Returns whether the last complete interval was an overload.
    pub const fn is_overloaded(&self) -> bool {
        self.overloaded
    }

    /// Like [`is_overloaded`](Self::is_overloaded), but `false` after a whole interval without waiters, because then
    /// there is no queue.
    pub(crate) fn is_overloaded_at(&self, now: Instant) -> bool {
        self.overloaded && now <= self.interval_end + Duration::from_nanos(self.interval)
    }

    /// Returns the smallest delay of the current interval as a share of the delay at which waiters are dropped, from 0
    /// to 1.
    pub fn load(&self) -> f64 {
        (self.min_delay.unwrap_or(0) as f64 / self.tolerated() as f64).min(1.0)
    }

    /// Returns the smallest delay of the current interval, or `None` before its first waiter.
    pub fn min_delay(&self) -> Option<Duration> {
        self.min_delay.map(Duration::from_nanos)
    }

    /// Returns the target: a healthy queue has a smaller delay in each interval.
    pub const fn target(&self) -> Duration {
        Duration::from_nanos(self.target)
    }

    /// Returns the length of an interval.
    pub const fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval)
    }
}

impl CodelBuilder {
    /// Sets the target: a healthy queue has a delay of at most this in each interval. Default 5 ms.
    pub const fn target(mut self, target: Duration) -> Self {
        self.target = target;
        self
    }

    /// Sets the length of an interval, long enough for a burst to drain. Default 100 ms.
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets the age, in targets, above which waiters are dropped under overload. Default 2.
    pub const fn stale_after(mut self, targets: u32) -> Self {
        self.stale_after = targets;
        self
    }

    /// Builds the machine. Its first interval ends at `now`.
    ///
    /// # Errors
    ///
    /// A target that is zero or not below the interval, or `stale_after` of 0.
    pub fn build(self, now: Instant) -> Result<Codel, ConfigError> {
        if self.stale_after == 0 {
            return Err(ConfigError::new(
                "codel",
                "stale_after",
                "must be at least 1",
            ));
        }
        let mut codel = Codel::new(self.target, self.interval);
        codel.retune(self.target, self.interval)?;
        codel.stale_after = u64::from(self.stale_after);
        codel.interval_end = now;
        Ok(codel)
    }
}

impl fmt::Debug for Codel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codel")
            .field("target", &DebugLimit(&self.target()))
            .field("interval", &DebugLimit(&self.interval()))
            .field("stale_after", &DebugLimit(&self.stale_after))
            .field("min_delay", &DebugLimit(&self.min_delay()))
            .field("overloaded", &self.overloaded)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }
    fn at(millis: u64) -> Instant {
        Instant::ORIGIN + ms(millis)
    }

    #[test]
    fn a_standing_queue_is_an_overload_and_a_burst_is_not() {
        let mut codel = Codel::new(Codel::TARGET, Codel::INTERVAL);
        assert!(!codel.should_drop(ms(100), at(110)));
        assert!(!codel.should_drop(ms(50), at(200)));
        assert!(codel.should_drop(ms(50), at(200)));
        assert!(!codel.should_drop(ms(10), at(201)), "not above 2 × target");
        codel.drained();
        assert!(!codel.should_drop(ms(50), at(310)));
        assert!(!codel.is_overloaded());
        assert!(!codel.should_drop(ms(50), at(320)));
    }

    #[test]
    fn an_interval_above_the_target_is_an_overload_after_its_end() {
        for (delay, overload) in [(5, false), (6, true)] {
            let mut codel = Codel::new(Codel::TARGET, Codel::INTERVAL);
            for (now, delay) in [(10, 1), (20, delay), (30, delay)] {
                codel.should_drop(ms(delay), at(now));
            }
            // The interval started at 20 ms and ends at 120 ms, inclusive.
            codel.should_drop(ms(delay), at(120));
            assert!(!codel.is_overloaded());
            codel.should_drop(ms(delay), at(121));
            assert_eq!(codel.is_overloaded(), overload);
        }
    }

    #[test]
    fn an_interval_without_waiters_ends_the_overload() {
        let mut codel = Codel::new(Codel::TARGET, Codel::INTERVAL);
        for now in [10, 20, 121] {
            codel.should_drop(ms(50), at(now));
        }
        // The interval ends at 221 ms, and the next one at 321 ms.
        assert!(codel.is_overloaded_at(at(321)));
        assert!(!codel.is_overloaded_at(at(322)));
    }

    #[test]
    fn extreme_values_saturate() {
        for target in [Duration::from_nanos(1), ms(5), Duration::MAX] {
            let mut codel = Codel::new(target, Duration::MAX);
            for now in [Instant::ORIGIN, at(1), Instant::FAR_FUTURE, at(1)] {
                for delay in [Duration::ZERO, Duration::MAX] {
                    codel.should_drop(delay, now);
                    assert!((0.0..=1.0).contains(&codel.load()));
                }
            }
        }
        assert!(Codel::check(Duration::ZERO, ms(1)).is_err());
        assert!(Codel::check(ms(2), ms(1)).is_err());
        assert!(Codel::check(ms(1), ms(1)).is_err());
        assert!(Codel::check(ms(1), Duration::MAX).is_ok());
        let error = Codel::builder().stale_after(0).build(at(0)).unwrap_err();
        assert_eq!(error.setting(), "stale_after");
        let mut codel = Codel::builder().stale_after(u32::MAX).build(at(0)).unwrap();
        assert!(codel.retune(ms(5), ms(5)).is_err());
        assert_eq!(codel.target(), Codel::TARGET);
    }
}
