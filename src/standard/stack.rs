//! One configuration, built.

use std::sync::Arc;

use super::config::{Budget, Config};
use super::snapshot::Snapshot;
use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerBuilder};
use crate::clock::ClockHandle;
use crate::error::ConfigError;
use crate::event::Observer;
use crate::policy::Pipeline;
use crate::rate_limiter::{RateLimiter, RateLimiterBuilder};
use crate::retry::Retry;
use crate::retry_budget::RetryBudget;
use crate::timeout::Timeout;

/// The layers of a [`Standard`](super::Standard), outermost first: limiter, total timeout, retry, breaker,
/// attempt timeout.
pub type Layers = (
    Option<RateLimiter>,
    Option<Timeout>,
    Option<Retry>,
    Option<CircuitBreaker>,
    Option<Timeout>,
);

/// A configuration and the layers built from it.
pub(super) struct Stack {
    pub(super) config: Config,
    pub(super) pipeline: Pipeline<Layers>,
    kept: Kept,
}

/// What the next configuration takes over: the last layers that remember something, also if they are not used
/// now, and the settings they were built from.
#[derive(Clone, Default)]
struct Kept {
    limiter: Option<(RateLimiterBuilder, RateLimiter)>,
    breaker: Option<(CircuitBreakerBuilder, CircuitBreaker)>,
    /// The budget of the stack's own.
    budget: Option<RetryBudget>,
}

/// What all configurations of a stack have in common.
pub(super) struct Site<'a> {
    pub(super) name: &'static str,
    pub(super) clock: &'a ClockHandle,
    pub(super) observer: Option<&'a Arc<dyn Observer>>,
}

impl Stack {
    /// Builds a configuration that takes over what `before` remembers. Changes nothing that `before` uses: see
    /// [`apply`](Self::apply).
    pub(super) fn build(
        site: &Site<'_>,
        config: &Config,
        before: Option<&Self>,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let mut kept = before.map_or_else(Kept::default, |before| before.kept.clone());
        let limiter = config.limiter.as_ref();
        let limiter = limiter
            .map(|limiter| kept.limiter(site, limiter))
            .transpose()?;
        let breaker = config.breaker.as_ref();
        let breaker = breaker
            .map(|breaker| kept.breaker(site, breaker))
            .transpose()?;
        let retry = config.retry.clone();
        let retry = match retry {
            Some(retry) => {
                let budget = match config.effective_budget() {
                    _ if retry.has_budget() => None,
                    Budget::Share {
                        ratio,
                        floor_per_second,
                    } => Some(kept.budget(site, *ratio, *floor_per_second)?),
                    Budget::Shared(budget) => Some(budget.clone()),
                    Budget::Unlimited => None,
                };
                Some(retry.adopted(site.name, site.clock, budget).build()?)
            }
            None => None,
        };
        let timeout = |limit| {
            let timeout = Timeout::builder().after(limit).name(site.name);
            timeout.clock(site.clock.clone()).build()
        };
        let total = config.total_timeout.map(timeout).transpose()?;
        let attempt = config.attempt_timeout.map(timeout).transpose()?;
        let layers = (limiter, total, retry, breaker, attempt);
        Ok(Self {
            config: config.clone(),
            pipeline: Pipeline::assembled(layers, site.name, site.observer.cloned()),
            kept,
        })
    }

    /// Changes what this configuration shares with others: the terms of the limiter and the share of the budget.
    pub(super) fn apply(&self) -> Result<(), ConfigError> {
        if let (Some(limiter), Some(terms)) = (self.limiter(), &self.config.limiter) {
            limiter.set_terms(terms)?;
        }
        match (self.config.effective_budget(), &self.kept.budget) {
            (
                Budget::Share {
                    ratio,
                    floor_per_second,
                },
                Some(budget),
            ) => budget.set_share(*ratio, *floor_per_second),
            _ => Ok(()),
        }
    }

    /// Whether `other` is the same configuration of the same layers.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let limiters = match (self.limiter(), other.limiter()) {
            (Some(one), Some(other)) => one.is_clone_of(other),
            (one, other) => one.is_none() && other.is_none(),
        };
        let breakers = match (self.breaker(), other.breaker()) {
            (Some(one), Some(other)) => one.is_clone_of(other),
            (one, other) => one.is_none() && other.is_none(),
        };
        limiters && breakers && self.config == other.config
    }

    pub(super) const fn limiter(&self) -> Option<&RateLimiter> {
        self.pipeline.policies().0.as_ref()
    }

    pub(super) const fn retry(&self) -> Option<&Retry> {
        self.pipeline.policies().2.as_ref()
    }

    pub(super) const fn breaker(&self) -> Option<&CircuitBreaker> {
        self.pipeline.policies().3.as_ref()
    }

    pub(super) fn budget(&self) -> Option<&RetryBudget> {
        self.retry().and_then(Retry::budget)
    }

    pub(super) fn snapshot(&self, name: &'static str) -> Snapshot {
        Snapshot {
            name,
            total_timeout: self.config.total_timeout,
            attempt_timeout: self.config.attempt_timeout,
            max_attempts: self.retry().map_or(1, Retry::max_attempts),
            limiter: self.limiter().map(RateLimiter::snapshot),
            budget: self.budget().map(RetryBudget::snapshot),
            breaker: self.breaker().map(CircuitBreaker::snapshot),
        }
    }
}

impl Kept {
    /// The limiter of these settings: the same if it can take them over, otherwise a new one that goes on with
    /// as many tokens.
    fn limiter(
        &mut self,
        site: &Site<'_>,
        settings: &RateLimiterBuilder,
    ) -> Result<RateLimiter, ConfigError> {
        // Also to check the settings.
        let mut limiter = settings.clone().adopted(site.name, site.clock).build()?;
        match &self.limiter {
            Some((old, same)) if settings.is_same_but_for_terms(old) => limiter = same.clone(),
            Some((_, old)) => limiter.continue_from(old),
            None => {}
        }
        self.limiter = Some((settings.clone(), limiter.clone()));
        Ok(limiter)
    }

    /// The breaker of these settings: the same if they are the same, otherwise a new one that goes on in the
    /// state of the old one.
    fn breaker(
        &mut self,
        site: &Site<'_>,
        settings: &CircuitBreakerBuilder,
    ) -> Result<CircuitBreaker, ConfigError> {
        let adopted = settings.clone().adopted(site.name, site.clock);
        let breaker = match &self.breaker {
            Some((old, same)) if settings.is_same(old) => same.clone(),
            Some((_, old)) => adopted.restore(old.snapshot()).build()?,
            None => adopted.build()?,
        };
        self.breaker = Some((settings.clone(), breaker.clone()));
        Ok(breaker)
    }

    /// The budget of the stack's own, of which there is one.
    fn budget(
        &mut self,
        site: &Site<'_>,
        ratio: f64,
        floor_per_second: u32,
    ) -> Result<RetryBudget, ConfigError> {
        let budget = RetryBudget::percentage().ratio(ratio);
        let budget = budget.floor_per_second(floor_per_second);
        // Also to check the settings.
        let budget = budget.clock(site.clock.clone()).build()?;
        Ok(self.budget.get_or_insert(budget).clone())
    }
}
