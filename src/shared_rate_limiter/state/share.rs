//! The share of the fleet's tokens that a process gets.

use crate::instant::Instant;

/// Decaying sums of the grants to this process and to the whole fleet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    own: f64,
    fleet: f64,
    at: Instant,
    /// The store's total of grants at its last answer.
    total: Option<u64>,
}

/// Time constant of the decay, in nanoseconds.
const DECAY: f64 = 10e9;
/// The smallest share.
const FLOOR: f64 = 0.01;
/// Weight of the initial assumption of a full share, as nanoseconds at the full rate.
const PRIOR: f64 = 0.1e9;

impl Share {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            own: 0.0,
            fleet: 0.0,
            at: now,
            total: None,
        }
    }

    /// Records an answer: tokens granted to this process, and the store's total of all grants.
    pub(crate) fn record(&mut self, now: Instant, own: u64, total: u64) {
        let passed = now.as_nanos().saturating_sub(self.at.as_nanos()) as f64;
        let weight = (-passed / DECAY).exp();
        let fleet = match self.total {
            Some(before) if total >= before => total - before,
            // The store has dropped the bucket since the last answer.
            Some(_) => total,
            None => own,
        };
        self.own = self.own * weight + own as f64;
        self.fleet = self.fleet * weight + fleet.max(own) as f64;
        self.at = now;
        self.total = Some(total);
    }

    /// Records an answer to a process that admits calls without the store. Its own tokens and those of others are not
    /// reported at the same time then, so they say nothing about its share.
    pub(crate) const fn skip(&mut self, total: u64) {
        self.total = Some(total);
    }

    /// Returns the share, from 0.01 to 1. `token` is the time per token, in nanoseconds.
    pub(crate) fn get(&self, token: f64) -> f64 {
        (self.own / (self.fleet + PRIOR / token)).clamp(FLOOR, 1.0)
    }
}
