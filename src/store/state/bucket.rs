//! A token bucket of a store (GCRA). The script of `backstop-redis` implements the same.

use std::time::Duration;

use super::take::{StoreTime, Take, Taken};
use crate::rate_limiter::Quota;

/// A bucket. The default one is full.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Bucket {
    /// Time in which the rate refills what is missing at the time `at`, in microseconds.
    missing: f64,
    at: u64,
    /// Total of tokens granted and debited.
    total: u64,
}

/// A bucket at the time of a request, before tokens are granted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prepared {
    bucket: Bucket,
    /// Time per token, in microseconds.
    token: f64,
    /// Time to fill an empty bucket, in microseconds.
    full: f64,
    /// Whole tokens in the bucket.
    free: u64,
}

/// Tolerance for rounding errors, in tokens, so that a full bucket holds its whole burst.
const ROUNDING: f64 = 1e-9;
/// Relative tolerance, two units in the last place, for bursts so large that a double cannot represent the absolute
/// one.
const RELATIVE_TOLERANCE: f64 = 1.0 + 2.0 * f64::EPSILON;

impl Bucket {
    /// Refills the bucket, credits returned tokens, and debits spent ones.
    pub(crate) fn prepare(self, now: StoreTime, take: &Take) -> Prepared {
        let (token, full) = scale(&take.quota);
        let micros = now.as_micros();
        // Not `clamp`, which panics if a quota that no builder has checked has no time to fill.
        let passed = micros.saturating_sub(self.at) as f64;
        let mut missing = (self.missing - passed).max(0.0).min(full);
        if let Some((tokens, taken_at)) = take.give_back {
            let refilled = micros.saturating_sub(taken_at.as_micros()) as f64;
            let credit = (tokens as f64 * token - refilled).max(0.0);
            missing = (missing - credit).max(0.0);
        }
        missing = (missing + take.spent as f64 * token).min(full);
        let free = ((full - missing) / token * RELATIVE_TOLERANCE + ROUNDING).floor();
        Prepared {
            bucket: Self {
                missing,
                at: micros,
                total: self.total.saturating_add(take.spent),
            },
            token,
            full,
            free: free as u64,
        }
    }

    /// Returns whether the bucket is full, so that it may be forgotten.
    pub(crate) fn is_full(&self, now: StoreTime) -> bool {
        now.as_micros().saturating_sub(self.at) as f64 >= self.missing
    }
}

impl Prepared {
    /// Returns whether the bucket holds the least number of tokens requested.
    pub(crate) const fn suffices(&self, take: &Take) -> bool {
        self.free >= take.at_least
    }

    /// Completes the request. Grants tokens if `grants`.
    pub(crate) fn finish(mut self, take: &Take, grants: bool) -> (Bucket, Taken) {
        let granted = if grants { take.ask.min(self.free) } else { 0 };
        let bucket = &mut self.bucket;
        bucket.missing = (bucket.missing + granted as f64 * self.token).min(self.full);
        bucket.total = bucket.total.saturating_add(granted);
        let held = self.full - bucket.missing;
        let needed = take.at_least.max(1) as f64 * self.token;
        let taken = Taken {
            granted,
            remaining: self.free - granted,
            retry_after: micros(needed - held - ROUNDING * self.token),
            reset_after: micros(bucket.missing),
            now: StoreTime::from_micros(bucket.at),
            total: bucket.total,
        };
        (self.bucket, taken)
    }
}

/// Returns the time per token and the time to fill the bucket, in microseconds.
fn scale(quota: &Quota) -> (f64, f64) {
    let period = quota.period().as_nanos() as f64 / 1e3;
    let token = period / quota.tokens() as f64;
    (token, token * quota.limit() as f64)
}

/// Converts to whole microseconds, rounded up, so that a caller that waits is not too early.
fn micros(micros: f64) -> Duration {
    Duration::from_micros(micros.max(0.0).ceil() as u64)
}
