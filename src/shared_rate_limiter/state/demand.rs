//! The demand of a process: the tokens that its calls ask for.

use crate::instant::Instant;

/// An exponentially weighted average of the rate at which calls arrive, rejected ones included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// Tokens that arrived since `at`.
    arrived: u64,
    at: Instant,
    /// Tokens a nanosecond.
    rate: f64,
}

impl Demand {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            arrived: 0,
            at: now,
            rate: 0.0,
        }
    }

    /// Counts calls that ask for so many tokens.
    pub(crate) const fn arrive(&mut self, tokens: u64) {
        self.arrived = self.arrived.saturating_add(tokens);
    }

    /// Updates the average, if enough time has passed for it to mean something, and returns it in tokens a
    /// nanosecond. The time constant is twice the time that a lease lasts.
    pub(crate) fn measure(&mut self, now: Instant, every: u64) -> f64 {
        let passed = now.as_nanos().saturating_sub(self.at.as_nanos());
        if passed > 0 && passed >= every / 4 {
            let weight = 1.0 - (-(passed as f64) / (2.0 * every as f64)).exp();
            self.rate += (self.arrived as f64 / passed as f64 - self.rate) * weight;
            self.arrived = 0;
            self.at = now;
        }
        self.rate
    }

    /// Returns the average time between tokens asked for, in nanoseconds; zero if none was.
    pub(crate) fn gap(&self) -> f64 {
        if self.rate > 0.0 {
            1.0 / self.rate
        } else {
            0.0
        }
    }

    /// Returns the average as it was measured last.
    pub(crate) const fn rate(&self) -> f64 {
        self.rate
    }
}
