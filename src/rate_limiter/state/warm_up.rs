//! A rate that rises step by step after idle time, for dependencies that are slow while cold.
//!
//! The formulas are those of Guava's `SmoothWarmingUp`, also used by Sentinel: the longer the limit is
//! idle, the more permits are stored, and stored permits above a threshold cost more than the interval of
//! the rate, up to `cold` times as much.
//!
//! ```text
//!   interval
//!   cold x T ┤              ╱
//!            │            ╱ │
//!          T ┤──────────╱   │       the area under the line is the time that
//!            │          │   │       taking the stored permits takes
//!            └──────────┴───┴── stored permits
//!                threshold  all
//! ```

use std::time::Duration;

use super::limit::{Availability, Inherit, Limit, Unavailable};
use crate::instant::{Instant, nanos};

/// A limit that runs calls one at a time, in intervals that shrink while it warms up.
///
/// A run begins with a call that is admitted at once, and lasts until another call would be. The price of tokens
/// depends only on the number taken before them in the run. So tokens returned during the run leave the limit as if
/// they had not been taken.
#[derive(Clone, Debug)]
pub(crate) struct WarmUp {
    /// Nanoseconds per permit when warm.
    interval: f64,
    /// The largest cost.
    largest: u64,
    threshold: f64,
    all: f64,
    slope: f64,
    /// Nanoseconds of idle time per stored permit.
    store: f64,
    /// The time at which the run began.
    began: u64,
    /// The time from which `taken` counts: the start of the run, or the last change of the quota.
    base: u64,
    /// The permits stored at `base`.
    stored: f64,
    /// Permits taken since `base`, less those returned. Below zero if more were returned, down to `-before`, the
    /// number taken earlier in the run.
    taken: f64,
    before: f64,
    /// The time until which rejected calls show demand.
    demanded: u64,
}

impl WarmUp {
    /// Returns a cold limit with a rate of `tokens` per `period` when warm. Warming up takes `warm_up`; a cold limit
    /// is `cold` times slower.
    pub(crate) fn new(
        tokens: u64,
        period: Duration,
        largest: u64,
        warm_up: Duration,
        cold: u32,
    ) -> Self {
        let interval = nanos(period) as f64 / tokens as f64;
        let (warm_up, cold) = (nanos(warm_up) as f64, f64::from(cold));
        let threshold = 0.5 * warm_up / interval;
        let all = threshold + 2.0 * warm_up / (interval * (1.0 + cold));
        Self {
            interval,
            largest,
            threshold,
            all,
            slope: interval * (cold - 1.0) / (all - threshold),
            store: warm_up / all,
            began: 0,
            base: 0,
            stored: all,
            taken: 0.0,
            before: 0.0,
            demanded: 0,
        }
    }

    /// Returns the next turn, in nanoseconds.
    fn next(&self) -> u64 {
        self.turn_after(self.taken)
    }

    /// Returns the turn that follows `taken` tokens of this run, in nanoseconds.
    fn turn_after(&self, taken: f64) -> u64 {
        // `as` saturates.
        if taken < 0.0 {
            let earned = self.time(self.stored - taken, -taken);
            return self.base.saturating_sub(earned as u64);
        }
        let time = self.time(self.stored, taken);
        self.base.saturating_add(time as u64)
    }

    /// Returns the stored permits that are left.
    fn left(&self) -> f64 {
        (self.stored - self.taken).max(0.0)
    }

    /// Returns the time since which permits are stored, possibly in the future.
    fn idle_since(&self) -> u64 {
        self.next().max(self.demanded)
    }

    /// Returns the permits stored at `now`.
    fn stored(&self, now: Instant) -> f64 {
        let idle = now.as_nanos().saturating_sub(self.idle_since()) as f64;
        (self.left() + idle / self.store).min(self.all)
    }

    /// Returns how long taking `tokens` lasts with `stored` permits.
    fn time(&self, stored: f64, tokens: f64) -> f64 {
        let above = (stored - self.threshold).max(0.0);
        let costly = above.min(tokens);
        // The area of a trapezoid, from the height at `above` to the height at `above - costly`.
        let slow = costly * (self.interval + self.slope * (above - costly / 2.0));
        slow + (tokens - costly) * self.interval
    }

    pub(crate) fn replace(&mut self, now: Instant, new: Self, inherit: Inherit) {
        let old = std::mem::replace(self, new);
        if inherit != Inherit::Reset {
            // Keeps the warmth and the outstanding debt.
            self.stored = old.stored(now) / old.all * self.all;
            self.base = old.next().max(now.as_nanos());
            self.began = old.began;
            self.before = old.before + old.taken;
            self.demanded = old.demanded;
        }
    }
}

impl Limit for WarmUp {
    fn ready(&self, now: Instant, tokens: u64, debt: u64) -> Result<(), Unavailable> {
        if tokens > self.largest {
            return Err(Unavailable::Never);
        }
        // A call that costs nothing shares the turn of the last token, which may last `cold` intervals.
        let turn = match tokens {
            0 => self.turn_after(self.taken - 1.0),
            _ => self.next(),
        };
        let free = turn.saturating_sub((debt as f64 * self.interval) as u64);
        if free <= now.as_nanos() {
            Ok(())
        } else {
            Err(Unavailable::Until(Instant::from_nanos(free)))
        }
    }

    fn force_take(&mut self, now: Instant, tokens: u64) {
        if self.next() < now.as_nanos() {
            self.stored = self.stored(now);
            self.began = now.as_nanos();
            self.base = self.began;
            self.taken = 0.0;
            self.before = 0.0;
        }
        self.taken += tokens as f64;
    }

    fn force_take_all(&mut self, now: Instant, tokens: u64) -> bool {
        self.force_take(now, tokens);
        true
    }

    /// Counts a rejected call as demand for an interval, as if it had been admitted. Otherwise a caller that polls
    /// would never warm the limit up.
    fn record_rejection(&mut self, now: Instant) {
        let interval = self.time(self.left(), 1.0) as u64;
        let until = now.as_nanos().saturating_add(interval);
        self.demanded = self.demanded.max(until);
    }

    fn give(&mut self, _: Instant, taken: Option<Instant>, tokens: u64) {
        // The turns of an earlier run have passed unused.
        if taken.is_none_or(|taken| taken.as_nanos() >= self.began) {
            self.taken = (self.taken - tokens as f64).max(-self.before);
        }
    }

    fn availability(&self, now: Instant) -> Availability {
        let next = self.next();
        let backlog = next.saturating_sub(now.as_nanos()) as f64;
        let used = (backlog / self.interval).ceil() as u64;
        // A new limit is cold.
        let missing = (self.all - self.left()).max(0.0);
        let to_cool = (missing * self.store).ceil() as u64;
        let cold = self.idle_since().saturating_add(to_cool);
        let interval = Duration::from_nanos(self.interval as u64);
        Availability::new(1, used, Instant::from_nanos(cold).max(now), interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    /// Returns a limit of ten a second when warm, three times slower when cold, with four seconds to warm up: twenty
    /// permits lie between cold and warm, and twenty more below.
    fn cold(rate: u64) -> WarmUp {
        let (period, warm_up) = (Duration::from_nanos(SECOND), Duration::from_secs(4));
        WarmUp::new(rate, period, 100, warm_up, 3)
    }

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn what_comes_back_is_what_it_took() {
        let mut limit = cold(10);
        limit.force_take(at(SECOND), 1);
        let alone = limit.next();
        assert!(alone > SECOND * 5 / 4, "the first one is slow");
        // Cold, across the threshold, and beyond the stored permits.
        for tokens in [1, 5, 30, 70] {
            limit.force_take(at(SECOND), tokens);
            limit.give(at(SECOND), Some(at(SECOND)), tokens);
            assert_eq!(limit.next(), alone, "{tokens}");
        }
        limit.give(at(SECOND), Some(at(SECOND)), 1);
        assert_eq!(limit.next(), SECOND);
        // Returns no more than was taken.
        limit.give(at(SECOND), None, 50);
        assert_eq!(limit.next(), SECOND);
    }

    #[test]
    fn a_turn_that_has_passed_unused_does_not_come_back() {
        let mut limit = cold(10);
        limit.force_take(at(SECOND), 5);
        limit.force_take(at(9 * SECOND), 1);
        let next = limit.next();
        limit.give(at(9 * SECOND), Some(at(SECOND)), 5);
        assert_eq!(limit.next(), next);
        limit.give(at(9 * SECOND), Some(at(9 * SECOND)), 1);
        assert_eq!(limit.next(), 9 * SECOND);
    }

    #[test]
    fn tokens_taken_before_a_change_of_the_quota_are_returned_at_the_new_price() {
        for inherit in [Inherit::AsIs, Inherit::Reset] {
            let mut limit = cold(10);
            // The limit is warm and in debt.
            limit.force_take(at(SECOND), 80);
            let owed = limit.next();
            limit.replace(at(SECOND), cold(20), inherit);
            limit.give(at(SECOND), Some(at(SECOND)), 3);
            // Tokens of a run that has ended do not count.
            limit.give(at(SECOND), Some(at(SECOND - 1)), 3);
            match inherit {
                Inherit::Reset => assert_eq!(limit.next(), 0),
                _ => assert_eq!(limit.next(), owed - 3 * SECOND / 20),
            }
        }
    }

    proptest! {
        /// Calls at one instant, some of which return their tokens later, have the same effect as the others alone.
        #[test]
        fn refunds_leave_no_trace(calls in prop::collection::vec((1_u64..30, any::<bool>()), 1..20)) {
            let (mut limit, mut others) = (cold(10), cold(10));
            for (tokens, stays) in &calls {
                limit.force_take(at(SECOND), *tokens);
                if *stays {
                    others.force_take(at(SECOND), *tokens);
                }
            }
            for (tokens, stays) in &calls {
                if !stays {
                    limit.give(at(SECOND), Some(at(SECOND)), *tokens);
                }
            }
            prop_assert_eq!(limit.next().max(SECOND), others.next().max(SECOND));
            prop_assert_eq!(limit.stored(at(9 * SECOND)), others.stored(at(9 * SECOND)));
        }
    }
}
