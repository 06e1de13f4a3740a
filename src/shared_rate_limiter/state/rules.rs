//! The rules of a shared limit, and the numbers that follow from them.

use std::time::Duration;

use crate::error::ConfigError;
use crate::instant::nanos;
use crate::rate_limiter::Quota;

/// How a [`SharedRateLimiter`](crate::SharedRateLimiter) works with its store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SyncMode {
    /// The process takes tokens in advance, as many as its calls need for a moment, and spends them without
    /// asking. Most calls cost no trip to the store.
    #[default]
    Leased,
    /// Each decision is the store's, so that all processes together admit calls in the order in which they
    /// come. Calls of one key that come while a request is in flight share the next one.
    Exact,
}

impl SyncMode {
    /// Returns the mode as an identifier for logs and configuration, such as `leased`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leased => "leased",
            Self::Exact => "exact",
        }
    }
}

/// What a [`SharedRateLimiter`](crate::SharedRateLimiter) does while its store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outage {
    /// Goes on at the share of the rate that this process was granted lately. The shares of the fleet add up
    /// to the rate, so that the limit holds, without a count of the processes.
    #[default]
    OwnShare,
    /// Admits all calls.
    Open,
    /// Rejects all calls. For limits that are there to stop guessing.
    Closed,
    /// Each process has this quota of its own, for each key. What it has used in one outage counts in the
    /// next. A token bucket.
    Local(Quota),
}

/// The rules of a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rules {
    pub(crate) quota: Quota,
    pub(crate) outage: Outage,
    /// Nanoseconds that the rate takes for a token.
    pub(crate) token: f64,
    pub(crate) burst: u64,
    /// How long a lease shall last, in nanoseconds.
    pub(crate) every: u64,
    /// How long leased tokens may be spent, in nanoseconds.
    pub(crate) life: u64,
    /// The largest lease. Zero if nothing is leased in advance.
    pub(crate) largest: u64,
    /// Whether all processes together admit calls in the order in which they come.
    pub(crate) is_exact: bool,
}

/// The fastest rate, and the longest time to fill a bucket: stores count in microseconds, as doubles.
const FASTEST: u128 = 1_000;
const LONGEST: f64 = 10.0 * 365.0 * 86_400e9;

/// The smallest burst of which tokens are leased in advance.
const LEAST_LEASED: u64 = 16;

/// The longest time for which calls are rejected without asking the store, in nanoseconds.
pub(crate) const LONGEST_PAUSE: f64 = 1e9;

impl Rules {
    /// The name of the pattern.
    pub(crate) const NAME: &'static str = "shared_rate_limiter";

    /// Checks a quota, for the builder of `pattern`.
    pub(crate) fn check(
        pattern: &'static str,
        setting: &'static str,
        quota: &Quota,
    ) -> Result<(), ConfigError> {
        let fail = |problem| Err(ConfigError::new(pattern, setting, problem));
        quota.check(pattern)?;
        if !quota.is_plain() {
            return fail("must be a token bucket without a warm-up");
        }
        if quota.initial_tokens() != quota.limit() {
            return fail("begins full in a store, so `initial` has no meaning");
        }
        if u128::from(quota.tokens()) * FASTEST > quota.period().as_nanos() {
            return fail("must not exceed one token a microsecond");
        }
        if token(quota) * quota.limit() as f64 > LONGEST {
            return fail("must fill its burst within 10 years");
        }
        Ok(())
    }

    /// Returns the rules for a quota that was checked.
    pub(crate) fn new(quota: Quota, mode: SyncMode, every: Duration, outage: Outage) -> Self {
        let (token, burst) = (token(&quota), quota.limit());
        // Half a burst: leases that last longer would be larger than the bucket.
        let half = (token * burst as f64 / 2.0) as u64;
        let every = nanos(every);
        let every = half.clamp(1_000_000.min(every), every);
        Self {
            quota,
            outage,
            token,
            burst,
            every,
            is_exact: mode == SyncMode::Exact,
            life: every.saturating_mul(4),
            largest: match mode {
                // Tokens that a process holds count in the store as spent, and refill there: of a small burst, that
                // would be a large part. Its leases would be of a few tokens anyway.
                SyncMode::Leased if burst < LEAST_LEASED => 0,
                SyncMode::Leased => burst / 4,
                SyncMode::Exact => 0,
            },
        }
    }

    /// Returns how long to reject without asking after a grant that fell short, in nanoseconds. Processes that ask at
    /// the same times would share the tokens unevenly, so the pause is random. `gap` is the time between calls:
    /// the next request is sent by the first call after the pause, later in a process with few calls.
    pub(crate) fn pause(&self, retry: f64, just_enough: bool, gap: f64, unit: f64) -> f64 {
        let every = self.every as f64;
        if just_enough {
            retry.min(LONGEST_PAUSE)
        } else if retry < every {
            (every * (0.5 + unit) - gap.min(every / 2.0)).max(retry)
        } else {
            (retry + unit * every / 2.0).min(LONGEST_PAUSE * (0.75 + unit / 4.0))
        }
    }
}

fn token(quota: &Quota) -> f64 {
    quota.period().as_nanos() as f64 / quota.tokens() as f64
}
