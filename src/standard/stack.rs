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

/// State for the next configuration, besides the layers in use: removed layers with state, and the settings they were
/// built from.
#[derive(Default)]
struct Kept {
    limiter: Option<(RateLimiterBuilder, RateLimiter)>,
    breaker: Option<(CircuitBreakerBuilder, CircuitBreaker)>,
    /// The stack's own budget, even if the configuration in force does not use it.
    budget: Option<RetryBudget>,
}

/// State shared by all configurations of a stack.
pub(super) struct Site<'a> {
    pub(super) name: &'static str,
    pub(super) clock: &'a ClockHandle,
    pub(super) observer: Option<&'a Arc<dyn Observer>>,
}

impl Stack {
    /// Builds a stack that continues the state of `before`, without changing anything that `before` uses. See
    /// [`apply`](Self::apply).
    pub(super) fn build(
        site: &Site<'_>,
        config: &Config,
        before: Option<&Self>,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let old = before.and_then(Self::last_limiter);
        let limiter = config.limiter.as_ref();
        let limiter = limiter
            .map(|settings| next_limiter(site, settings, old))
            .transpose()?;
        let kept_limiter = match limiter {
            Some(_) => None,
            None => old.map(|(settings, old)| (settings.clone(), old.clone())),
        };
        let old = before.and_then(Self::last_breaker);
        let breaker = config.breaker.as_ref();
        let breaker = breaker
            .map(|settings| next_breaker(site, settings, old))
            .transpose()?;
        let kept_breaker = match breaker {
            Some(_) => None,
            None => old.map(|(settings, old)| (settings.clone(), old.clone())),
        };
        let mut kept = Kept {
            limiter: kept_limiter,
            breaker: kept_breaker,
            budget: before.and_then(|before| before.kept.budget.clone()),
        };
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

    /// Changes state shared with other configurations: the terms of the limiter and of the breaker, and the share of
    /// the budget.
    pub(super) fn apply(&self) -> Result<(), ConfigError> {
        if let (Some(limiter), Some(terms)) = (self.limiter(), &self.config.limiter) {
            limiter.set_terms(terms)?;
        }
        if let (Some(breaker), Some(terms)) = (self.breaker(), &self.config.breaker) {
            breaker.set_terms(terms)?;
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

    /// Returns whether `other` is the same configuration of the same layers.
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

    /// Returns the current limiter, or the last one that was removed, with its settings.
    fn last_limiter(&self) -> Option<(&RateLimiterBuilder, &RateLimiter)> {
        let used = self.config.limiter.as_ref().zip(self.limiter());
        used.or_else(|| {
            self.kept
                .limiter
                .as_ref()
                .map(|(settings, old)| (settings, old))
        })
    }

    /// Returns the current breaker, or the last one that was removed, with its settings.
    fn last_breaker(&self) -> Option<(&CircuitBreakerBuilder, &CircuitBreaker)> {
        let used = self.config.breaker.as_ref().zip(self.breaker());
        used.or_else(|| {
            self.kept
                .breaker
                .as_ref()
                .map(|(settings, old)| (settings, old))
        })
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

/// Returns the limiter of these settings: the old one if it can adopt them, otherwise a new one that continues with
/// the same number of tokens.
fn next_limiter(
    site: &Site<'_>,
    settings: &RateLimiterBuilder,
    old: Option<(&RateLimiterBuilder, &RateLimiter)>,
) -> Result<RateLimiter, ConfigError> {
    // Built even if the old one stays in use, so that invalid settings are reported.
    let limiter = settings.clone().adopted(site.name, site.clock).build()?;
    match old {
        Some((of, same)) if settings.is_same_but_for_terms(of) => return Ok(same.clone()),
        Some((_, old)) => limiter.continue_from(old),
        None => {}
    }
    Ok(limiter)
}

/// Returns the breaker of these settings: the old one if its windows fit them, otherwise a new one that continues in
/// the same state.
fn next_breaker(
    site: &Site<'_>,
    settings: &CircuitBreakerBuilder,
    old: Option<(&CircuitBreakerBuilder, &CircuitBreaker)>,
) -> Result<CircuitBreaker, ConfigError> {
    let adopted = settings.clone().adopted(site.name, site.clock);
    let Some((of, old)) = old else {
        return adopted.build();
    };
    // Built even if the old one stays in use, so that invalid settings are reported.
    let new = adopted.restore(old.snapshot()).build()?;
    match settings.is_same_but_for_terms(of) {
        true => Ok(old.clone()),
        false => Ok(new),
    }
}

impl Kept {
    /// Returns the stack's own budget, which is built at most once.
    fn budget(
        &mut self,
        site: &Site<'_>,
        ratio: f64,
        floor_per_second: u32,
    ) -> Result<RetryBudget, ConfigError> {
        let budget = RetryBudget::percentage().ratio(ratio);
        let budget = budget.floor(floor_per_second);
        // Built even if the old one stays in use, so that invalid settings are reported.
        let budget = budget.clock(site.clock.clone()).build()?;
        Ok(self.budget.get_or_insert(budget).clone())
    }
}
