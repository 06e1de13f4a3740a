//! The settings of a stack.

use std::time::Duration;

use super::state::{Durations, NAME};
use crate::backoff::Backoff;
use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerBuilder};
use crate::error::ConfigError;
use crate::rate_limiter::{Quota, RateLimiter, RateLimiterBuilder};
use crate::retry::{Retry, RetryBuilder};
use crate::retry_budget::RetryBudget;

/// The settings of a [`Standard`](super::Standard), without its name, clock, and observer: for
/// [`reconfigure`](super::Standard::reconfigure).
///
/// | setting | default |
/// |---|---|
/// | [`limiter`](Self::limiter), [`quota`](Self::quota) | no limiter |
/// | [`total_timeout`](Self::total_timeout) | 30 s |
/// | [`retry`](Self::retry), [`max_attempts`](Self::max_attempts), [`backoff`](Self::backoff) | those of [`RetryBuilder`]: 3 attempts |
/// | [`budget`](Self::budget), [`budget_share`](Self::budget_share) | a budget of its own: 0.2 retries for each call, and 10 a second |
/// | [`breaker`](Self::breaker) | that of [`CircuitBreakerBuilder`]: failure rate 0.5 in 30 s |
/// | [`attempt_timeout`](Self::attempt_timeout) | 10 s |
///
/// Two configurations are equal if all settings are. Closures are equal if one is a clone of the other.
#[derive(Clone)]
#[must_use = "settings do nothing until they are passed to `reconfigure`"]
pub struct Config {
    pub(super) limiter: Option<RateLimiterBuilder>,
    pub(super) total_timeout: Option<Duration>,
    pub(super) retry: Option<RetryBuilder>,
    pub(super) budget: Option<Budget>,
    pub(super) breaker: Option<CircuitBreakerBuilder>,
    pub(super) attempt_timeout: Option<Duration>,
}

crate::debug::debug_settings!(Config { limiter, retry, budget, breaker; total_timeout, attempt_timeout });

impl Config {
    /// Returns the default settings.
    pub const fn new() -> Self {
        Self {
            limiter: None,
            total_timeout: Some(Duration::from_secs(30)),
            retry: Some(Retry::builder()),
            budget: None,
            breaker: Some(CircuitBreaker::builder()),
            attempt_timeout: Some(Duration::from_secs(10)),
        }
    }

    pub(super) const fn effective_budget(&self) -> &Budget {
        match &self.budget {
            Some(budget) => budget,
            None => &Budget::DEFAULT,
        }
    }

    /// Explains which settings contradict each other, if any do.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.budget.is_some() && self.retry.as_ref().is_some_and(RetryBuilder::has_budget) {
            let problem = "is set twice: in the retry, and for the stack";
            return Err(ConfigError::new(NAME, "budget", problem));
        }
        let breaker = self.breaker.as_ref();
        let durations = Durations {
            total_timeout: self.total_timeout,
            attempt_timeout: self.attempt_timeout,
            max_elapsed: self.retry.as_ref().and_then(RetryBuilder::longest),
            slow_call: breaker.and_then(CircuitBreakerBuilder::slow_from),
            probe_lease: breaker.and_then(CircuitBreakerBuilder::lease),
        };
        durations.check()
    }

    pub(super) fn of_retry(mut self, change: impl FnOnce(RetryBuilder) -> RetryBuilder) -> Self {
        let retry = self.retry.take().unwrap_or(Retry::builder());
        self.retry = Some(change(retry));
        self
    }

    /// Returns whether the layers of `other` can take over these settings: they differ at most in settings that
    /// limiter, breaker, and budget can change in place.
    pub(super) fn is_same_but_for_terms(&self, other: &Self) -> bool {
        let is_same_budget = match [self, other].map(Self::effective_budget) {
            [Budget::Share { .. }, Budget::Share { .. }] => true,
            [one, other] => one == other,
        };
        is_same_budget
            && self.is_same_apart_from_budget(
                other,
                RateLimiterBuilder::is_same_but_for_terms,
                CircuitBreakerBuilder::is_same_but_for_terms,
            )
    }

    fn is_same_apart_from_budget(
        &self,
        other: &Self,
        same_limiter: impl Fn(&RateLimiterBuilder, &RateLimiterBuilder) -> bool,
        same_breaker: impl Fn(&CircuitBreakerBuilder, &CircuitBreakerBuilder) -> bool,
    ) -> bool {
        let both = [self, other];
        (self.total_timeout, self.attempt_timeout) == (other.total_timeout, other.attempt_timeout)
            && is_same(both.map(|config| config.limiter.as_ref()), same_limiter)
            && is_same(
                both.map(|config| config.retry.as_ref()),
                RetryBuilder::is_same,
            )
            && is_same(both.map(|config| config.breaker.as_ref()), same_breaker)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        self.effective_budget() == other.effective_budget()
            && self.is_same_apart_from_budget(
                other,
                RateLimiterBuilder::is_same,
                CircuitBreakerBuilder::is_same,
            )
    }
}

/// The source of the retry budget.
#[derive(Clone, Debug)]
pub(super) enum Budget {
    /// The stack's own budget.
    Share { ratio: f64, floor_per_second: u32 },
    /// A budget that other policies may share.
    Shared(RetryBudget),
    /// No budget.
    Unlimited,
}

impl Budget {
    pub(super) const DEFAULT: Self = Self::Share {
        ratio: 0.2,
        floor_per_second: 10,
    };
}

impl PartialEq for Budget {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Share {
                    ratio,
                    floor_per_second,
                },
                Self::Share {
                    ratio: other_ratio,
                    floor_per_second: other_floor,
                },
            ) => (ratio, floor_per_second) == (other_ratio, other_floor),
            (Self::Shared(one), Self::Shared(other)) => one.is_same(other),
            (Self::Unlimited, Self::Unlimited) => true,
            _ => false,
        }
    }
}

/// Returns whether both are `None`, or the same.
pub(super) fn is_same<T>(both: [Option<&T>; 2], same: impl Fn(&T, &T) -> bool) -> bool {
    match both {
        [Some(one), Some(other)] => same(one, other),
        [one, other] => one.is_none() && other.is_none(),
    }
}

/// Defines the setters, in the `impl` of [`Config`] or of a builder with a `Config` in the named field.
macro_rules! settings {
    ($($config:ident)?) => {
        /// Sets the quota of the limiter, in place of earlier quotas. Adds a limiter with default settings if there
        /// is none.
        pub fn quota(mut self, quota: Quota) -> Self {
            let config = settings!(@config self $($config)?);
            let limiter = config.limiter.take().unwrap_or(RateLimiter::builder());
            config.limiter = Some(limiter.only(quota));
            self
        }

        /// Sets the limiter, the outermost layer: each call takes tokens once, retries take none.
        pub fn limiter(mut self, limiter: RateLimiterBuilder) -> Self {
            settings!(@config self $($config)?).limiter = Some(limiter);
            self
        }

        /// Removes the limiter. The default.
        pub fn without_limiter(mut self) -> Self {
            settings!(@config self $($config)?).limiter = None;
            self
        }

        /// Sets the time limit of a call, including retries but not the wait for the limiter. Above zero. With 10 s
        /// or less, [`attempt_timeout`](Self::attempt_timeout) must be given, too: its default is 10 s.
        pub fn total_timeout(mut self, limit: Duration) -> Self {
            settings!(@config self $($config)?).total_timeout = Some(limit);
            self
        }

        /// Removes the total timeout.
        pub fn without_total_timeout(mut self) -> Self {
            settings!(@config self $($config)?).total_timeout = None;
            self
        }

        /// Sets the retry. Unless its settings include a budget, [`budget`](Self::budget) or
        /// [`budget_share`](Self::budget_share) applies.
        pub fn retry(mut self, retry: RetryBuilder) -> Self {
            settings!(@config self $($config)?).retry = Some(retry);
            self
        }

        /// Sets the number of attempts of a call, the first one included. At least 1.
        pub fn max_attempts(mut self, attempts: u32) -> Self {
            let config = settings!(@config self $($config)?);
            *config = std::mem::take(config).of_retry(|retry| retry.max_attempts(attempts));
            self
        }

        /// Sets the delays between attempts.
        pub fn backoff(mut self, backoff: Backoff) -> Self {
            let config = settings!(@config self $($config)?);
            *config = std::mem::take(config).of_retry(|retry| retry.backoff(backoff));
            self
        }

        /// Removes the retry: a call is attempted once.
        pub fn without_retry(mut self) -> Self {
            settings!(@config self $($config)?).retry = None;
            self
        }

        /// Sets a budget of the retries, which other layers may share.
        pub fn budget(mut self, budget: RetryBudget) -> Self {
            settings!(@config self $($config)?).budget = Some(Budget::Shared(budget));
            self
        }

        /// Sets the stack's own budget: retries per call of the last 10 s, from 0 to 1000, and a floor per second.
        /// Default 0.2 and 10.
        pub fn budget_share(mut self, ratio: f64, floor_per_second: u32) -> Self {
            let share = Budget::Share { ratio, floor_per_second };
            settings!(@config self $($config)?).budget = Some(share);
            self
        }

        /// Removes the budget, so that only the number of attempts bounds retries.
        pub fn without_budget(mut self) -> Self {
            settings!(@config self $($config)?).budget = Some(Budget::Unlimited);
            self
        }

        /// Sets the circuit breaker, which rejects calls while the dependency is down.
        pub fn breaker(mut self, breaker: CircuitBreakerBuilder) -> Self {
            settings!(@config self $($config)?).breaker = Some(breaker);
            self
        }

        /// Removes the breaker.
        pub fn without_breaker(mut self) -> Self {
            settings!(@config self $($config)?).breaker = None;
            self
        }

        /// Sets the time limit of one attempt. Above zero, and shorter than the total timeout.
        pub fn attempt_timeout(mut self, limit: Duration) -> Self {
            settings!(@config self $($config)?).attempt_timeout = Some(limit);
            self
        }

        /// Removes the attempt timeout.
        pub fn without_attempt_timeout(mut self) -> Self {
            settings!(@config self $($config)?).attempt_timeout = None;
            self
        }
    };
    (@config $self:ident) => { (&mut $self) };
    (@config $self:ident $config:ident) => { (&mut $self.$config) };
}
pub(super) use settings;

impl Config {
    settings! {}
}
