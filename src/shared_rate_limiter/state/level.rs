//! The level of the bucket in the store's last answer.

use super::request::Request;
use crate::instant::Instant;
use crate::store::Taken;

/// A level of the bucket, in tokens and their fractions. `at` is when the answer arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level {
    pub(crate) at: Instant,
    pub(crate) tokens: f64,
}

impl Level {
    /// Returns the level after a request. `token` is the time per token, in nanoseconds.
    pub(crate) fn new(now: Instant, request: &Request, taken: &Taken, token: f64) -> Self {
        let retry = taken.retry_after.as_nanos() as f64;
        let tokens = match retry > 0.0 {
            true => request.at_least.max(1) as f64 - retry / token,
            false => taken.remaining as f64,
        };
        Self { at: now, tokens }
    }

    /// Returns when the bucket holds `tokens` at the earliest.
    pub(crate) fn refilled_at(&self, tokens: u64, token: f64) -> Instant {
        let wait = (tokens as f64 - self.tokens).max(0.0) * token;
        // In whole microseconds, because the store counts in those, without the rounding error of the level.
        let micros = (wait / 1e3 - 1e-6).max(0.0).ceil();
        self.at.after((micros * 1e3) as u64)
    }
}
