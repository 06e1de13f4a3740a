//! CoDel for request queues: the state machine that bulkheads and load shedders share.
//!
//! Source: folly's `Codel`, after Nichols and Jacobson, "Controlling queue delay" (2012), changed by
//! Facebook for servers: it looks at the *smallest* delay of an interval, so a burst that drains is
//! no overload, while a queue that never empties is.

use std::time::Duration;

use crate::clock::{Instant, nanos};

/// Decides from queue delays whether a queue stands, and which of its entries are too old.
///
/// In each interval it keeps the smallest delay. The first entry after the end of an interval
/// decides: when that smallest delay was above the target, the queue is overloaded. While it is,
/// entries that waited longer than twice the target are dropped.
#[derive(Clone, Debug)]
pub(crate) struct Codel {
    target: u64,
    interval: u64,
    interval_end: Instant,
    /// The smallest delay since the interval began; `None` before its first entry.
    min_delay: Option<u64>,
    overloaded: bool,
}

/// Entries older than this many targets are dropped under overload.
const SLOUGH: u64 = 2;

impl Codel {
    pub(crate) const TARGET: Duration = Duration::from_millis(5);
    pub(crate) const INTERVAL: Duration = Duration::from_millis(100);

    /// Why a target and an interval make no sense together, with the setting at fault.
    pub(crate) fn check(target: Duration, interval: Duration) -> Result<(), &'static str> {
        if target.is_zero() {
            Err("needs a target above zero")
        } else if target > interval {
            Err("needs a target no longer than its interval")
        } else {
            Ok(())
        }
    }

    pub(crate) const fn new(target: Duration, interval: Duration) -> Self {
        Self {
            target: nanos(target),
            interval: nanos(interval),
            interval_end: Instant::ORIGIN,
            min_delay: None,
            overloaded: false,
        }
    }

    /// Changes target and interval; the current interval goes on to its end.
    pub(crate) const fn retune(&mut self, target: Duration, interval: Duration) {
        self.target = nanos(target);
        self.interval = nanos(interval);
    }

    /// An entry that waited for `delay` is at the head at `now`. `true`: drop it.
    pub(crate) fn should_drop(&mut self, delay: Duration, now: Instant) -> bool {
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

    fn is_stale(&self, delay: u64) -> bool {
        self.overloaded && delay > self.target.saturating_mul(SLOUGH)
    }

    /// The queue has been empty: it does not stand.
    pub(crate) const fn drained(&mut self) {
        self.min_delay = Some(0);
    }

    /// Whether the last full interval was an overload.
    pub(crate) const fn is_overloaded(&self) -> bool {
        self.overloaded
    }

    /// The smallest delay of this interval as a share of what is tolerated: 0 to 1.
    pub(crate) fn load(&self) -> f64 {
        let tolerated = self.target.saturating_mul(SLOUGH);
        (self.min_delay.unwrap_or(0) as f64 / tolerated as f64).min(1.0)
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
        assert!(Codel::check(ms(1), ms(1)).is_ok());
    }
}
