//! The sliding window log: exact, with memory for every call.

use std::collections::VecDeque;
use std::time::Duration;

use super::limit::{Availability, Inherit, Limit, Unavailable, window_nanos};
use crate::instant::Instant;

/// The times at which tokens were taken: at most the limit in any window `(t - window, t]`.
#[derive(Clone, Debug)]
pub(crate) struct SlidingLog {
    limit: u64,
    /// Length of the window, in nanoseconds.
    window: u64,
    /// Times and numbers of tokens, oldest first. One entry per instant.
    taken: VecDeque<(Instant, u64)>,
    /// The sum over `taken`.
    total: u64,
}

impl SlidingLog {
    pub(crate) fn new(limit: u64, window: Duration) -> Self {
        Self {
            limit,
            window: window_nanos(window),
            taken: VecDeque::new(),
            total: 0,
        }
    }

    /// Makes a new limit hold `tokens` at `now` instead of being full.
    pub(crate) fn with_initial(mut self, now: Instant, tokens: u64) -> Self {
        let missing = self.limit.saturating_sub(tokens);
        self.force_take(now, missing);
        self
    }

    fn expires_at(&self, taken: Instant) -> Instant {
        taken + Duration::from_nanos(self.window)
    }

    fn expired(&self, now: Instant) -> impl Iterator<Item = u64> {
        self.taken
            .iter()
            .take_while(move |(at, _)| self.expires_at(*at) <= now)
            .map(|(_, tokens)| *tokens)
    }

    fn used(&self, now: Instant) -> u64 {
        self.total - self.expired(now).sum::<u64>()
    }

    fn roll(&mut self, now: Instant) {
        let count = self.expired(now).count();
        for (_, tokens) in self.taken.drain(..count) {
            self.total -= tokens;
        }
    }

    /// Removes the newest tokens.
    fn forget(&mut self, tokens: u64) {
        let mut left = tokens;
        while let Some((_, taken)) = self.taken.back_mut() {
            let given = left.min(*taken);
            *taken -= given;
            left -= given;
            self.total -= given;
            if *taken > 0 {
                return;
            }
            self.taken.pop_back();
        }
    }

    pub(crate) fn replace(&mut self, now: Instant, new: Self, inherit: Inherit) {
        self.roll(now);
        let Some(used) = inherit.used(self.total, self.limit, new.limit) else {
            *self = new;
            return;
        };
        self.limit = new.limit;
        self.window = new.window;
        if used < self.total {
            self.forget(self.total - used);
        } else {
            self.force_take(now, used - self.total);
        }
    }
}

impl Limit for SlidingLog {
    fn ready(&self, now: Instant, tokens: u64, debt: u64) -> Result<(), Unavailable> {
        let bound = self.limit.saturating_add(debt);
        if tokens > bound {
            return Err(Unavailable::Never);
        }
        let mut excess = self.used(now).saturating_sub(bound - tokens);
        if excess == 0 {
            return Ok(());
        }
        for (at, taken) in &self.taken {
            if self.expires_at(*at) > now {
                excess = excess.saturating_sub(*taken);
                if excess == 0 {
                    return Err(Unavailable::Until(self.expires_at(*at)));
                }
            }
        }
        Err(Unavailable::Never)
    }

    fn force_take(&mut self, now: Instant, tokens: u64) {
        self.roll(now);
        // The limit and its debt bound the sum, but it must not overflow in any case.
        let tokens = tokens.min(u64::MAX - self.total);
        if tokens == 0 {
            return;
        }
        self.total += tokens;
        match self.taken.back_mut() {
            // A reading may be older than the last one.
            Some((at, taken)) if *at >= now => *taken += tokens,
            _ => self.taken.push_back((now, tokens)),
        }
    }

    fn give(&mut self, _: Instant, taken: Option<Instant>, tokens: u64) {
        let Some(at) = taken else {
            return self.forget(tokens);
        };
        let found = self.taken.partition_point(|(taken, _)| *taken < at);
        if let Some((_, taken)) = self.taken.get_mut(found).filter(|(taken, _)| *taken == at) {
            let given = tokens.min(*taken);
            *taken -= given;
            self.total -= given;
            // An empty entry would stay until it expires, and calls would wait for it.
            if *taken == 0 {
                self.taken.remove(found);
            }
        }
    }

    fn availability(&self, now: Instant) -> Availability {
        let full_at = self
            .taken
            .back()
            .map_or(now, |(at, _)| self.expires_at(*at));
        let window = Duration::from_nanos(self.window);
        Availability::new(self.limit, self.used(now), full_at.max(now), window)
    }
}
