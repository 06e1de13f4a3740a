//! The fixed window: a number of tokens per window, counted from zero in each.

use std::time::Duration;

use super::limit::{Availability, Inherit, Limit, Unavailable, window_nanos};
use crate::instant::Instant;

/// A counter of used tokens, from which each new window subtracts what it earns.
///
/// Debts carry over into the next windows. A limit above the refill lets a quiet window save up for the
/// next, as the "intervally" refill of Bucket4j does.
#[derive(Clone, Debug)]
pub(crate) struct FixedWindow {
    limit: u64,
    /// Tokens per window.
    refill: u64,
    /// Length of a window, in nanoseconds.
    window: u64,
    /// Whether windows begin at multiples of their length on the clock. Otherwise a window begins with the
    /// first call after the limit was full.
    aligned: bool,
    /// The origin of the windows; `None` until the first call.
    origin: Option<Instant>,
    index: u64,
    used: u64,
    /// The part of `used` that comes from earlier windows.
    carried: u64,
}

impl FixedWindow {
    pub(crate) fn new(refill: u64, window: Duration, limit: u64, aligned: bool) -> Self {
        Self {
            limit,
            refill: refill.max(1),
            window: window_nanos(window),
            aligned,
            origin: aligned.then_some(Instant::ORIGIN),
            index: 0,
            used: 0,
            carried: 0,
        }
    }

    /// Makes a new limit hold `tokens` at `now` instead of being full.
    pub(crate) fn with_initial(mut self, now: Instant, tokens: u64) -> Self {
        self.used = self.limit.saturating_sub(tokens);
        if self.used > 0 {
            self.origin.get_or_insert(now);
        }
        self.index = self.index_at(now);
        self
    }

    fn index_at(&self, now: Instant) -> u64 {
        let origin = self.origin.unwrap_or(now);
        now.as_nanos().saturating_sub(origin.as_nanos()) / self.window
    }

    /// Returns the window of `now` and the tokens used in it. A time before the current window counts as part of it.
    fn rolled(&self, now: Instant) -> (u64, u64) {
        let index = self.index_at(now).max(self.index);
        let earned = (index - self.index).saturating_mul(self.refill);
        (index, self.used.saturating_sub(earned))
    }

    fn roll(&mut self, now: Instant) {
        let (index, used) = self.rolled(now);
        if index > self.index {
            self.carried = used;
        }
        if !self.aligned && used == 0 && (index > self.index || self.origin.is_none()) {
            self.origin = None;
            self.index = 0;
        } else {
            self.index = index;
        }
        self.used = used;
    }

    /// Returns the beginning of the window `further` windows after number `index`.
    fn start(&self, now: Instant, index: u64, further: u64) -> Instant {
        let origin = self.origin.unwrap_or(now);
        let windows = u128::from(index) + u128::from(further);
        let nanos = u128::from(origin.as_nanos()) + windows * u128::from(self.window);
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    pub(crate) fn replace(&mut self, now: Instant, new: Self, inherit: Inherit) {
        self.roll(now);
        let Some(used) = inherit.used(self.used, self.limit, new.limit) else {
            *self = new;
            return;
        };
        let origin = match (new.aligned, self.aligned) {
            (true, _) => Some(Instant::ORIGIN),
            (false, _) if used == 0 => None,
            (false, true) => Some(self.start(now, self.index, 0)),
            (false, false) => Some(self.origin.unwrap_or(now)),
        };
        *self = Self {
            origin,
            used,
            carried: used,
            ..new
        };
        self.index = self.index_at(now);
    }
}

impl Limit for FixedWindow {
    fn ready(&self, now: Instant, tokens: u64, debt: u64) -> Result<(), Unavailable> {
        let bound = self.limit.saturating_add(debt);
        if tokens > bound {
            return Err(Unavailable::Never);
        }
        let (index, used) = self.rolled(now);
        let excess = used.saturating_sub(bound - tokens);
        if excess == 0 {
            return Ok(());
        }
        let windows = excess.div_ceil(self.refill);
        Err(Unavailable::Until(self.start(now, index, windows)))
    }

    fn force_take(&mut self, now: Instant, tokens: u64) {
        self.roll(now);
        if tokens > 0 {
            self.origin.get_or_insert(now);
        }
        self.used = self.used.saturating_add(tokens);
    }

    fn give(&mut self, now: Instant, taken: Option<Instant>, tokens: u64) {
        self.roll(now);
        // Tokens taken in an earlier window expired with it, except for those carried over.
        let earlier = taken.is_some_and(|taken| taken < self.start(now, self.index, 0));
        let given = match earlier {
            true => tokens.min(self.carried),
            false => tokens.min(self.used),
        };
        self.used -= given;
        if earlier {
            self.carried = self.carried.saturating_sub(given);
        }
        self.carried = self.carried.min(self.used);
    }

    fn availability(&self, now: Instant) -> Availability {
        let (index, used) = self.rolled(now);
        let full_at = match used.div_ceil(self.refill) {
            0 => now,
            windows => self.start(now, index, windows),
        };
        Availability::new(self.limit, used, full_at, Duration::from_nanos(self.window))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_from_the_first_call_begins_with_no_change_of_its_quota() {
        let at = |millis| Instant::ORIGIN + Duration::from_millis(millis);
        let new = || FixedWindow::new(2, Duration::from_secs(1), 2, false);
        let changes: [fn(&mut FixedWindow, Instant); 3] = [
            |window, now| window.replace(now, window.clone(), Inherit::AsIs),
            |window, now| window.give(now, None, 1),
            |window, now| window.force_take(now, 0),
        ];
        for change in changes {
            let mut window = new();
            for start in [0, 5000] {
                change(&mut window, at(start));
                window.force_take(at(start + 900), 2);
                let full_at = window.availability(at(start + 900)).full_at;
                assert_eq!(full_at, at(start + 1900));
            }
        }
        // A window that has begun goes on.
        let mut window = new();
        window.force_take(at(100), 2);
        window.replace(at(500), new(), Inherit::AsIs);
        assert_eq!(window.availability(at(500)).full_at, at(1100));
    }

    #[test]
    fn a_refund_of_an_earlier_window_pays_what_this_one_owes_for_it() {
        let at = |seconds| Instant::ORIGIN + Duration::from_secs(seconds);
        let mut window = FixedWindow::new(2, Duration::from_secs(1), 2, true);
        // Two in the first window, two in the second, one in the third.
        window.force_take(at(0), 5);
        window.force_take(at(1), 1);
        window.give(at(1), Some(at(0)), 2);
        assert_eq!(window.used, 2);
        // Returns no more than was carried over: the tokens taken in this window stay taken.
        window.give(at(1), Some(at(0)), 9);
        assert_eq!(window.used, 1);
        window.give(at(1), Some(at(1)), 1);
        assert_eq!(window.used, 0);
    }
}
