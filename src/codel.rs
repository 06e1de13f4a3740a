//! CoDel for request queues: the state machine that bulkheads and load shedders share, and that you
//! can put in front of a queue of your own.
//!
//! # What it protects
//!
//! Those who wait. A queue that stands for long makes everybody late, by the time it takes to get
//! through it, and helps nobody. CoDel tells such a queue from a burst that drains, and says whom to
//! drop.
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
//! // Everybody who gets to the head of the line has waited for 20 ms or more.
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
//! # With its neighbours
//!
//! It is a plain machine without a clock or a lock. Serve the newest first while it
//! [is overloaded](Codel::is_overloaded): those have the best chance that somebody still waits for
//! them.
//!
//! # Source
//!
//! folly's `Codel`, after Nichols and Jacobson, "Controlling queue delay" (2012), changed by Facebook
//! for servers: it looks at the *smallest* delay of an interval, so a burst that drains is no
//! overload, while a queue that never empties is.

use std::time::Duration;

use crate::error::ConfigError;
use crate::instant::{Instant, nanos};

/// Decides from queue delays whether a queue stands, and which of its entries are too old.
///
/// In each interval it keeps the smallest delay. The first entry after the end of an interval
/// decides: when that smallest delay was above the target, the queue is overloaded. While it is,
/// entries that waited longer than twice the target are dropped.
#[derive(Clone, Debug)]
pub struct Codel {
    target: u64,
    interval: u64,
    stale_after: u64,
    interval_end: Instant,
    /// The smallest delay since the interval began; `None` before its first entry.
    min_delay: Option<u64>,
    overloaded: bool,
}

/// Builds a [`Codel`].
///
/// | setting | default |
/// |---|---|
/// | [`target`](Self::target) | 5 ms |
/// | [`interval`](Self::interval) | 100 ms |
/// | [`stale_after`](Self::stale_after) | 2 targets |
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "a builder does nothing until `build`"]
pub struct CodelBuilder {
    target: Duration,
    interval: Duration,
    stale_after: u32,
}

impl Codel {
    pub(crate) const TARGET: Duration = Duration::from_millis(5);
    pub(crate) const INTERVAL: Duration = Duration::from_millis(100);
    /// Entries older than this many targets are dropped under overload.
    const STALE_AFTER: u32 = 2;

    /// Sets everything.
    pub const fn builder() -> CodelBuilder {
        CodelBuilder {
            target: Self::TARGET,
            interval: Self::INTERVAL,
            stale_after: Self::STALE_AFTER,
        }
    }

    /// Why a target and an interval make no sense together, with the setting at fault.
    pub(crate) fn check(target: Duration, interval: Duration) -> Result<(), &'static str> {
        if target.is_zero() {
            Err("needs a target above zero")
        } else if target >= interval {
            Err("needs a target shorter than its interval")
        } else {
            Ok(())
        }
    }

    /// With values that have been checked.
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

    /// Changes target and interval; the current interval goes on to its end.
    ///
    /// # Errors
    ///
    /// A target of zero, or not shorter than the interval. Then nothing changes.
    pub fn retune(&mut self, target: Duration, interval: Duration) -> Result<(), ConfigError> {
        Self::check(target, interval)
            .map_err(|problem| ConfigError::new("codel", "target", problem))?;
        self.target = nanos(target);
        self.interval = nanos(interval);
        Ok(())
    }

    /// An entry that waited for `delay` is at the head at `now`. `true`: drop it.
    pub fn should_drop(&mut self, delay: Duration, now: Instant) -> bool {
        let delay = nanos(delay);
        match self.min_delay {
            Some(min) if now > self.interval_end => {
                self.interval_end = now + Duration::from_nanos(self.interval);
                self.overloaded = min > self.target;
                // One entry an interval passes in any case: it is the new measure.
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

    const fn tolerated(&self) -> u64 {
        self.target.saturating_mul(self.stale_after)
    }

    const fn is_stale(&self, delay: u64) -> bool {
        self.overloaded && delay > self.tolerated()
    }

    /// The queue has been empty: it does not stand.
    pub const fn drained(&mut self) {
        self.min_delay = Some(0);
    }

    /// Whether the last full interval was an overload.
    pub const fn is_overloaded(&self) -> bool {
        self.overloaded
    }

    /// As [`is_overloaded`](Self::is_overloaded), but false when nobody has come for a whole interval
    /// after the last one ended: then there is no queue.
    pub(crate) fn is_overloaded_at(&self, now: Instant) -> bool {
        self.overloaded && now <= self.interval_end + Duration::from_nanos(self.interval)
    }

    /// The smallest delay of this interval as a share of what is tolerated: 0 to 1.
    pub fn load(&self) -> f64 {
        (self.min_delay.unwrap_or(0) as f64 / self.tolerated() as f64).min(1.0)
    }

    /// The smallest delay of this interval so far; `None` before anything was in line.
    pub fn min_delay(&self) -> Option<Duration> {
        self.min_delay.map(Duration::from_nanos)
    }

    /// The delay that a queue should get below in each interval.
    pub const fn target(&self) -> Duration {
        Duration::from_nanos(self.target)
    }

    /// How long an interval lasts.
    pub const fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval)
    }
}

impl CodelBuilder {
    /// A queue that gets below this delay in each interval is fine.
    pub const fn target(mut self, target: Duration) -> Self {
        self.target = target;
        self
    }

    /// How long an interval lasts: long enough for a burst to drain.
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Under overload, entries that waited longer than so many targets are dropped.
    pub const fn stale_after(mut self, targets: u32) -> Self {
        self.stale_after = targets;
        self
    }

    /// The machine, whose first interval may end from `now` on.
    ///
    /// # Errors
    ///
    /// A target of zero, or not shorter than the interval; entries that are stale after no target.
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
    fn an_interval_decides_after_its_end_about_what_is_above_the_target() {
        for (delay, overload) in [(5, false), (6, true)] {
            let mut codel = Codel::new(Codel::TARGET, Codel::INTERVAL);
            for (now, delay) in [(10, 1), (20, delay), (30, delay)] {
                codel.should_drop(ms(delay), at(now));
            }
            // It began at 20 and ends at 120, which is not yet after it.
            codel.should_drop(ms(delay), at(120));
            assert!(!codel.is_overloaded());
            codel.should_drop(ms(delay), at(121));
            assert_eq!(codel.is_overloaded(), overload);
        }
    }

    #[test]
    fn where_nobody_comes_there_is_no_overload() {
        let mut codel = Codel::new(Codel::TARGET, Codel::INTERVAL);
        for now in [10, 20, 121] {
            codel.should_drop(ms(50), at(now));
        }
        // The interval ends at 221, and one more may pass without anybody.
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
