//! The sliding window counter: two counters weighted by overlap.

use std::time::Duration;

use super::limit::{Availability, Inherit, Limit, Unavailable, window_nanos};
use crate::instant::Instant;

/// The tokens taken in the current aligned window and in the previous one. The sliding window counts all of the
/// former and the overlapping share of the latter, as if calls had been spread evenly (Cloudflare's formula):
/// `floor(previous * (window - elapsed) / window) + current`.
#[derive(Clone, Debug)]
pub(crate) struct SlidingCounter {
    limit: u64,
    /// Length of the window, in nanoseconds.
    window: u64,
    index: u64,
    previous: u64,
    current: u64,
}

impl SlidingCounter {
    pub(crate) fn new(limit: u64, window: Duration) -> Self {
        Self {
            limit,
            window: window_nanos(window),
            index: 0,
            previous: 0,
            current: 0,
        }
    }

    /// Makes a new limit hold `tokens` at `now` instead of being full.
    pub(crate) fn with_initial(mut self, now: Instant, tokens: u64) -> Self {
        let missing = self.limit.saturating_sub(tokens);
        self.force_take(now, missing);
        self
    }

    /// Returns the counters as of `now`. A time before the current window counts as part of it.
    fn rolled(&self, now: Instant) -> Self {
        let index = (now.as_nanos() / self.window).max(self.index);
        let (previous, current) = match index - self.index {
            0 => (self.previous, self.current),
            1 => (self.current, 0),
            _ => (0, 0),
        };
        Self {
            index,
            previous,
            current,
            ..*self
        }
    }

    /// Returns the start of the window that is `further` windows after the current one, in nanoseconds.
    const fn start(&self, further: u64) -> u64 {
        self.index
            .saturating_add(further)
            .saturating_mul(self.window)
    }

    /// Returns the nanoseconds left of the window at `now`.
    fn left(&self, now: Instant) -> u64 {
        let elapsed = now.as_nanos().saturating_sub(self.start(0));
        self.window - elapsed.min(self.window)
    }

    /// Returns the weighted count of the previous window with `left` nanoseconds to go.
    fn weighted(&self, left: u64) -> u64 {
        let share = u128::from(self.previous) * u128::from(left) / u128::from(self.window);
        u64::try_from(share).unwrap_or(u64::MAX)
    }

    /// Returns the tokens used. The counters must be as of `now`.
    fn used(&self, now: Instant) -> u64 {
        self.weighted(self.left(now)).saturating_add(self.current)
    }

    /// Returns the most nanoseconds that may be left of the current window while the previous one counts as at most
    /// `room`. Zero means that this is only so in the next window.
    fn left_for(&self, room: u64) -> u64 {
        if self.previous <= room {
            return self.window;
        }
        // The largest number below `(room + 1) * window / previous`.
        let bound = (u128::from(room) + 1) * u128::from(self.window);
        let left = bound.div_ceil(u128::from(self.previous)) - 1;
        u64::try_from(left).unwrap_or(u64::MAX)
    }

    pub(crate) fn replace(&mut self, now: Instant, new: Self, inherit: Inherit) {
        let old = self.rolled(now);
        let used = old.used(now);
        let Some(target) = inherit.used(used, old.limit, new.limit) else {
            *self = new;
            return;
        };
        *self = if old.window == new.window {
            Self {
                limit: new.limit,
                ..old
            }
        } else {
            // How the past divides into the new windows is unknown. Counting it as taken now is conservative.
            Self {
                current: used,
                ..new.rolled(now)
            }
        };
        if target < used {
            self.give(now, None, used - target);
        } else {
            self.force_take(now, target - used);
        }
    }
}

impl Limit for SlidingCounter {
    fn ready(&self, now: Instant, tokens: u64, debt: u64) -> Result<(), Unavailable> {
        let bound = self.limit.saturating_add(debt);
        if tokens > bound {
            return Err(Unavailable::Never);
        }
        let mut at = self.rolled(now);
        if at.used(now) <= bound - tokens {
            return Ok(());
        }
        // Ends in this window, in the next, or in the one after, where nothing is left to count.
        let mut most = at.left(now);
        loop {
            if at.current <= bound - tokens {
                let left = at.left_for(bound - tokens - at.current).min(most);
                if left > 0 {
                    let passed = at.window - left;
                    let free = Instant::from_nanos(at.start(0)).after(passed);
                    return Err(Unavailable::Until(free));
                }
            }
            at = Self {
                index: at.index.saturating_add(1),
                previous: at.current,
                current: 0,
                ..at
            };
            most = at.window;
        }
    }

    fn force_take(&mut self, now: Instant, tokens: u64) {
        *self = self.rolled(now);
        self.current = self.current.saturating_add(tokens);
    }

    fn give(&mut self, now: Instant, taken: Option<Instant>, tokens: u64) {
        *self = self.rolled(now);
        if let Some(taken) = taken {
            let ago = self.index.saturating_sub(taken.as_nanos() / self.window);
            match ago {
                0 => self.current = self.current.saturating_sub(tokens),
                1 => self.previous = self.previous.saturating_sub(tokens),
                _ => {}
            }
            return;
        }
        let given = tokens.min(self.current);
        self.current -= given;
        let left = self.left(now);
        if tokens > given && left > 0 {
            // Takes the rest from the weighted share of the previous window.
            let share = self.weighted(left).saturating_sub(tokens - given);
            let previous = u128::from(share) * u128::from(self.window) / u128::from(left);
            self.previous = self
                .previous
                .min(u64::try_from(previous).unwrap_or(u64::MAX));
        }
    }

    fn availability(&self, now: Instant) -> Availability {
        let at = self.rolled(now);
        // The window in which the last count drops out, and the part of it after that.
        let (further, previous) = match at.current {
            0 => (1, at.previous),
            current => (2, current),
        };
        let full_at = match at.used(now) {
            0 => now,
            _ => {
                let uncounted = Self { previous, ..at }.left_for(0);
                Instant::from_nanos(at.start(further).saturating_sub(uncounted))
            }
        };
        Availability::new(
            self.limit,
            at.used(now),
            full_at,
            Duration::from_nanos(self.window),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ORIGIN + Duration::from_millis(millis)
    }

    /// Returns a counter with eight of ten tokens taken in the first second.
    fn used() -> SlidingCounter {
        let mut counter = SlidingCounter::new(10, Duration::from_secs(1));
        counter.force_take(at(0), 8);
        counter
    }

    #[test]
    fn the_limit_is_full_once_nothing_of_the_previous_window_counts() {
        let mut counter = SlidingCounter::new(10, Duration::from_secs(1));
        counter.force_take(at(0), 4);
        // Three quarters into the next window, less than one of four still counts.
        let full_at = at(1750) + Duration::from_nanos(1);
        for now in [at(0), at(500), at(1000), at(1750)] {
            assert_eq!(counter.availability(now).full_at, full_at);
            assert!(counter.availability(now).available < 10);
        }
        for now in [full_at, at(1900), at(2000)] {
            let full = counter.availability(now);
            assert_eq!((full.available, full.full_at), (10, now));
        }
    }

    #[test]
    fn a_time_before_the_current_window_counts_as_part_of_it() {
        let mut counter = used();
        counter.force_take(at(1000), 4);
        let full_at = counter.availability(at(1000)).full_at;
        assert_eq!(counter.availability(at(999)).full_at, full_at);
    }

    #[test]
    fn a_refund_goes_to_the_window_that_the_tokens_were_taken_from() {
        let mut counter = used();
        counter.force_take(at(1000), 2);
        counter.give(at(1500), Some(at(0)), 8);
        assert_eq!(counter.availability(at(1500)).available, 8);
        counter.give(at(1500), Some(at(1000)), 2);
        assert_eq!(counter.availability(at(1500)).available, 10);
    }

    #[test]
    fn returned_tokens_also_free_the_share_of_the_previous_window() {
        let mut counter = used();
        counter.force_take(at(1500), 1);
        assert_eq!(counter.availability(at(1500)).available, 5);
        counter.give(at(1500), None, 3);
        assert_eq!(counter.availability(at(1500)).available, 8);
        counter.give(at(1500), None, 99);
        assert_eq!(counter.availability(at(1500)).available, 10);
    }
}
