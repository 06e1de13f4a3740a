//! The share of calls that a new node gets.

use std::time::Duration;

use crate::instant::{Instant, nanos};

/// The slow start of nodes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlowStart {
    /// Nanoseconds; zero for none.
    pub(crate) window: u64,
    /// The share at the start, from 0 to 1.
    pub(crate) min: f64,
    /// Above 0. 1 is linear; larger ones give more at the start.
    pub(crate) aggression: f64,
}

impl SlowStart {
    pub(crate) const fn new(window: Duration, min: f64, aggression: f64) -> Self {
        Self {
            window: nanos(window),
            min,
            aggression,
        }
    }

    /// Returns the share of its usual calls that a node gets, from `min` to 1: Envoy's
    /// `max(min, (t / window) ^ (1 / aggression))`.
    pub(crate) fn share(self, since: Instant, now: Instant) -> f64 {
        let passed = now.as_nanos().saturating_sub(since.as_nanos());
        if passed >= self.window {
            return 1.0;
        }
        let share = passed as f64 / self.window as f64;
        let share = if self.aggression == 1.0 {
            share
        } else {
            share.powf(self.aggression.recip())
        };
        share.max(self.min)
    }

    /// Returns the end of the slow start of a node.
    pub(crate) const fn ends_at(self, since: Instant) -> Instant {
        since.after(self.window)
    }
}
