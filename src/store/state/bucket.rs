//! A token bucket as stores keep it (GCRA). The script of `backstop-redis` does the same.

use std::time::Duration;

use super::take::{StoreTime, Take, Taken};
use crate::rate_limiter::Quota;

/// A bucket. The default one is full.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Bucket {
    /// Returns the time in which the rate refills what is missing at the time `at`, in microseconds.
    missing: f64,
    at: u64,
    /// Tokens granted and debited.
    total: u64,
}

/// A bucket at the time of a request, before tokens are granted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prepared {
    bucket: Bucket,
    /// Microseconds for a token.
    token: f64,
    /// Microseconds that fill an empty bucket.
    full: f64,
    /// Whole tokens.
    free: u64,
}

/// The share of a token that rounding may cost, so that a full bucket holds its burst.
const ROUNDING: f64 = 1e-9;
/// As much in proportion, for bursts of so many tokens that a double has no room for that share: two units in
/// the last place.
const PROPORTION: f64 = 1.0 + 2.0 * f64::EPSILON;

impl Bucket {
    /// Refills the bucket, and does what a request does in any case.
    pub(crate) fn prepare(self, now: StoreTime, take: &Take) -> Prepared {
        let (token, full) = scale(&take.quota);
        let micros = now.as_micros();
        let mut missing = (self.missing - micros.saturating_sub(self.at) as f64).clamp(0.0, full);
        if let Some((tokens, taken_at)) = take.give_back {
            let refilled = micros.saturating_sub(taken_at.as_micros()) as f64;
            let credit = (tokens as f64 * token - refilled).max(0.0);
            missing = (missing - credit).max(0.0);
        }
        missing = (missing + take.spent as f64 * token).min(full);
        let free = ((full - missing) / token * PROPORTION + ROUNDING).floor();
        Prepared {
            bucket: Self {
                missing,
                at: micros,
                total: self.total + take.spent,
            },
            token,
            full,
            free: free as u64,
        }
    }

    /// Returns whether it is as a new one, so that it may be forgotten.
    pub(crate) fn is_full(&self, now: StoreTime) -> bool {
        now.as_micros().saturating_sub(self.at) as f64 >= self.missing
    }
}

impl Prepared {
    /// Returns whether the bucket holds what the request needs at least.
    pub(crate) const fn suffices(&self, take: &Take) -> bool {
        self.free >= take.at_least
    }

    /// Ends the request, with a grant if `grants`.
    pub(crate) fn finish(mut self, take: &Take, grants: bool) -> (Bucket, Taken) {
        let granted = if grants { take.ask.min(self.free) } else { 0 };
        let bucket = &mut self.bucket;
        bucket.missing = (bucket.missing + granted as f64 * self.token).min(self.full);
        bucket.total += granted;
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

/// Returns the microseconds that a token and a full bucket take.
fn scale(quota: &Quota) -> (f64, f64) {
    let period = quota.period().as_nanos() as f64 / 1e3;
    let token = period / quota.tokens() as f64;
    (token, token * quota.limit() as f64)
}

/// Whole microseconds, rounded up: an earlier call would come too early.
fn micros(micros: f64) -> Duration {
    Duration::from_micros(micros.max(0.0).ceil() as u64)
}
