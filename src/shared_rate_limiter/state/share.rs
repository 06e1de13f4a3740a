//! The share of the fleet's tokens that a process gets.

use crate::instant::Instant;

/// Decaying sums of the grants to this process and to the whole fleet, in nanoseconds at the full rate, so that a changed
/// quota changes no share.
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

    /// Records an answer: tokens granted to this process, and the store's total of all grants. `token` is the time per
    /// token, in nanoseconds, and `full` that to fill the bucket.
    pub(crate) fn record(&mut self, now: Instant, own: u64, total: u64, token: f64, full: f64) {
        let passed = now.as_nanos().saturating_sub(self.at.as_nanos()) as f64;
        let weight = (-passed / DECAY).exp();
        let fleet = match self.total {
            Some(before) if total >= before => total - before,
            // The store has dropped the bucket since the last answer.
            Some(_) => total,
            None => own,
        };
        let own = own as f64 * token;
        // No more than the bucket can have granted, whatever a user's store answers.
        let fleet = (fleet as f64 * token).min(full + passed).max(own);
        self.own = self.own * weight + own;
        self.fleet = self.fleet * weight + fleet;
        self.at = now;
        self.total = Some(total);
    }

    /// Records an answer to a process that admits calls without the store. Its own tokens and those of others are not
    /// reported at the same time then, so they say nothing about its share.
    pub(crate) const fn skip(&mut self, total: u64) {
        self.total = Some(total);
    }

    /// Returns the share, from 0.01 to 1.
    pub(crate) fn get(&self) -> f64 {
        (self.own / (self.fleet + PRIOR)).clamp(FLOOR, 1.0)
    }
}
