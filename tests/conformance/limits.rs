//! Shared by the adapters of rate limiters.

use std::time::Duration;

use backstop::rate_limiter::{Quota, RateLimiterBuilder};
use backstop::{Clock, Instant, RateLimiter, Sleep};

use super::clock::TestClock;
use super::harness::{Failure, failed};

/// A debt beyond the end of any scenario.
pub(crate) const DEBT: u64 = 1 << 24;

/// The scenario's clock with its origin at the creation of a limiter or breaker, where its windows begin.
#[derive(Clone, Debug)]
pub(crate) struct Since {
    clock: TestClock,
    origin: Instant,
}

impl Since {
    /// Returns a clock with its origin now.
    pub(crate) fn now(clock: &TestClock) -> Self {
        Self {
            clock: clock.clone(),
            origin: clock.now(),
        }
    }
}

impl Clock for Since {
    fn now(&self) -> Instant {
        let passed = self.clock.now().saturating_duration_since(self.origin);
        Instant::ORIGIN + passed
    }

    fn sleep_until(&self, deadline: Instant) -> Sleep {
        let wait = deadline.saturating_duration_since(self.now());
        self.clock.sleep_until(self.clock.now() + wait)
    }
}

/// Builds a limiter with its origin now.
pub(crate) fn limiter(
    clock: &TestClock,
    quotas: impl IntoIterator<Item = Quota>,
) -> Result<RateLimiter, Failure> {
    quotas
        .into_iter()
        .fold(RateLimiter::builder(), RateLimiterBuilder::quota)
        .max_debt(DEBT)
        .clock(Since::now(clock))
        .build()
        .or_else(|error| failed(error.to_string()))
}

/// Returns the fewest tokens available in any quota.
pub(crate) fn available(limiter: &RateLimiter) -> i64 {
    let available = limiter.snapshot().available;
    available.into_iter().min().unwrap_or(0)
}

/// Takes tokens, possibly in advance. Returns the time until they are available; `None` if that is longer than
/// `longest`.
pub(crate) fn reserve(limiter: &RateLimiter, tokens: u64, longest: Duration) -> Option<Duration> {
    let reservation = limiter.reserve_within(tokens, longest).ok()?;
    let wait = reservation.wait();
    reservation.commit(tokens);
    Some(wait)
}

/// Returns the time until `tokens` could be taken. Changes nothing.
pub(crate) fn foresee(limiter: &RateLimiter, tokens: u64) -> Option<Duration> {
    let reservation = limiter.reserve(tokens).ok()?;
    let wait = reservation.wait();
    reservation.refund();
    Some(wait)
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
