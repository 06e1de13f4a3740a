//! What part of the fleet's tokens a process gets.

use crate::instant::Instant;

/// The grants of this process and of all of them, both decaying.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    own: f64,
    fleet: f64,
    at: Instant,
    /// The store's count of grants when it answered last.
    total: Option<u64>,
}

/// How fast past grants lose their weight, in nanoseconds.
const DECAY: f64 = 10e9;
/// The least share.
const FLOOR: f64 = 0.01;
/// Tokens that nothing is known of yet, as a time at the full rate in nanoseconds.
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

    /// Records an answer: tokens that this process got, and the store's count of all grants.
    pub(crate) fn record(&mut self, now: Instant, own: u64, total: u64) {
        let passed = now.as_nanos().saturating_sub(self.at.as_nanos()) as f64;
        let weight = (-passed / DECAY).exp();
        let fleet = match self.total {
            Some(before) if total >= before => total - before,
            // The store has forgotten the bucket since.
            Some(_) => total,
            None => own,
        };
        self.own = self.own * weight + own as f64;
        self.fleet = self.fleet * weight + fleet.max(own) as f64;
        self.at = now;
        self.total = Some(total);
    }

    /// Returns the share, from 0.01 to 1. `token` is the time that the rate takes for one, in nanoseconds.
    pub(crate) fn get(&self, token: f64) -> f64 {
        (self.own / (self.fleet + PRIOR / token)).clamp(FLOOR, 1.0)
    }
}
