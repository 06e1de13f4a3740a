//! The demand of a process, in tokens.

use crate::instant::Instant;

/// An exponentially weighted average of the rate at which calls ask for tokens, including rejected calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// Tokens asked for since `at`.
    arrived: u64,
    at: Instant,
    /// Tokens per nanosecond.
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

    /// Counts tokens that calls ask for.
    pub(crate) const fn arrive(&mut self, tokens: u64) {
        self.arrived = self.arrived.saturating_add(tokens);
    }

    /// Updates the average if enough time has passed for a sample, and returns it in tokens per nanosecond. The time
    /// constant is twice the length of a lease.
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

    /// Returns the average time between tokens asked for, in nanoseconds; zero without demand.
    pub(crate) fn gap(&self) -> f64 {
        if self.rate > 0.0 {
            1.0 / self.rate
        } else {
            0.0
        }
    }

    /// Returns the average without updating it.
    pub(crate) const fn rate(&self) -> f64 {
        self.rate
    }
}
