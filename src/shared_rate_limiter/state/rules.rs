//! The rules of a shared limit.

use std::time::Duration;

use crate::error::ConfigError;
use crate::instant::nanos;
use crate::rate_limiter::Quota;

/// The mode in which a [`SharedRateLimiter`](crate::SharedRateLimiter) uses its store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SyncMode {
    /// The process leases tokens in advance, for a short time, and spends them without asking. Most calls need no
    /// request to the store.
    #[default]
    Leased,
    /// The store decides each call, so all processes together admit calls in the order of their arrival. Calls of one
    /// key that arrive during a request share the next one.
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

/// The behavior of a [`SharedRateLimiter`](crate::SharedRateLimiter) while its store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outage {
    /// Continues at this process's recent share of the rate. The shares of the fleet add up to the rate, so the limit
    /// holds without counting processes.
    #[default]
    OwnShare,
    /// Admits all calls.
    Open,
    /// Rejects all calls. Suits limits that protect against guessing.
    Closed,
    /// Gives each process a token bucket of its own, for each key. Tokens used in one outage still count in the next.
    Local(Quota),
}

/// The rules of a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rules {
    pub(crate) quota: Quota,
    pub(crate) outage: Outage,
    /// Time per token, in nanoseconds.
    pub(crate) token: f64,
    pub(crate) burst: u64,
    /// Length of a lease, in nanoseconds.
    pub(crate) every: u64,
    /// Time for which leased tokens may be spent, in nanoseconds.
    pub(crate) life: u64,
    /// The most tokens of a lease. Zero if nothing is leased in advance.
    pub(crate) largest: u64,
    /// Whether the mode is [`SyncMode::Exact`].
    pub(crate) is_exact: bool,
}

/// The fastest rate, and the longest time to fill a bucket: stores count in microseconds, as doubles.
const FASTEST: u128 = 1_000;
const LONGEST: f64 = 10.0 * 365.0 * 86_400e9;

/// The smallest burst with leases.
const LEAST_LEASED: u64 = 16;

/// The longest pause without requests to the store, in nanoseconds.
pub(crate) const LONGEST_PAUSE: f64 = 1e9;

impl Rules {
    /// The name of the pattern.
    pub(crate) const NAME: &'static str = "shared_rate_limiter";

    /// Checks a quota. `pattern` names the builder in the error.
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

    /// Returns the rules for a checked quota.
    pub(crate) fn new(quota: Quota, mode: SyncMode, every: Duration, outage: Outage) -> Self {
        let (token, burst) = (token(&quota), quota.limit());
        // At most half a burst per lease: a longer lease would need more than the bucket holds.
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
                // The store counts leased tokens as spent and refills them, which is a large part of a small burst.
                // Leases of a few tokens save little anyway.
                SyncMode::Leased if burst < LEAST_LEASED => 0,
                SyncMode::Leased => burst / 4,
                SyncMode::Exact => 0,
            },
        }
    }

    /// Returns how long to pause requests after a grant that fell short, in nanoseconds. Random, because processes
    /// that ask at the same times would share the tokens unevenly. `gap` is the time between calls: the first call
    /// after the pause sends the next request, which comes later in a process with few calls.
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
