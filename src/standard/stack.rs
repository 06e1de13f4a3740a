//! One configuration, built.

use std::sync::{Arc, Mutex};

use super::config::{Budget, Config, is_same};
use super::snapshot::Snapshot;
use crate::circuit_breaker::{CircuitBreaker, CircuitBreakerBuilder};
use crate::clock::ClockHandle;
use crate::error::ConfigError;
use crate::event::{Observer, Panics};
use crate::policy::Pipeline;
use crate::rate_limiter::{RateLimiter, RateLimiterBuilder};
use crate::retry::Retry;
use crate::retry_budget::RetryBudget;
use crate::sync::lock;
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

/// The layers built from a configuration, which serve all configurations that differ in terms only.
pub(super) struct Stack {
    config: Mutex<Arc<Config>>,
    pub(super) pipeline: Pipeline<Layers>,
    kept: Kept,
}

/// State for the next configuration, besides the layers in use: stateful layers that were
/// removed, with the settings they were built from.
#[derive(Clone, Default)]
struct Kept {
    limiter: Option<(RateLimiterBuilder, RateLimiter)>,
    breaker: Option<(CircuitBreakerBuilder, CircuitBreaker)>,
    /// The stack's own budget, even if the configuration in force does not use it.
    budget: Option<RetryBudget>,
}

/// What no configuration of a stack changes.
pub(super) struct Identity {
    pub(super) name: &'static str,
    pub(super) clock: ClockHandle,
    pub(super) observer: Option<Arc<dyn Observer>>,
}

impl Stack {
    /// Builds a stack that continues the state of `before`, without changing anything that `before` uses. See
    /// [`apply`](Self::apply).
    pub(super) fn build(
        identity: &Identity,
        config: &Config,
        before: Option<&Self>,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let mut kept = before.map_or_else(Kept::default, Self::last);
        let limiter = match &config.limiter {
            Some(settings) => Some(next_limiter(identity, settings, kept.limiter.take())?),
            None => None,
        };
        let breaker = match &config.breaker {
            Some(settings) => Some(next_breaker(identity, settings, kept.breaker.take())?),
            None => None,
        };
        let retry = config.retry.clone();
        let retry = match retry {
            Some(retry) => {
                let budget = match config.effective_budget() {
                    _ if retry.has_budget() => None,
                    Budget::Share {
                        ratio,
                        floor_per_second,
                    } => Some(kept.budget(identity, *ratio, *floor_per_second)?),
                    Budget::Shared(budget) => Some(budget.clone()),
                    Budget::Unlimited => None,
                };
                Some(
                    retry
                        .adopted(identity.name, &identity.clock, budget)
                        .build()?,
                )
            }
            None => {
                // Without a retry, nothing uses the budget, but invalid settings are reported.
                if let Budget::Share {
                    ratio,
                    floor_per_second,
                } = config.effective_budget()
                {
                    own_budget(identity, *ratio, *floor_per_second)?;
                }
                None
            }
        };
        let timeout = |limit| {
            let timeout = Timeout::builder().after(limit).name(identity.name);
            timeout.clock(identity.clock.clone()).build()
        };
        let total = config.total_timeout.map(timeout).transpose()?;
        let attempt = config.attempt_timeout.map(timeout).transpose()?;
        let layers = (limiter, total, retry, breaker, attempt);
        Ok(Self {
            config: Mutex::new(Arc::new(config.clone())),
            pipeline: Pipeline::assembled(layers, identity.name, identity.observer.clone()),
            kept,
        })
    }

    /// Returns the configuration that these layers had last.
    pub(super) fn config(&self) -> Arc<Config> {
        lock(&self.config).clone()
    }

    /// Keeps a configuration of [the same layers](Self::has_layers_of).
    pub(super) fn set_config(&self, config: &Config) {
        let config = Arc::new(config.clone());
        // Dropped outside the lock: it may hold the last handle of an observer.
        let _before = std::mem::replace(&mut *lock(&self.config), config);
    }

    /// Puts the terms of the limiter and of the breaker, and the share of the budget, in force.
    pub(super) fn apply(&self, config: &Config) -> Result<(), ConfigError> {
        if let (Some(limiter), Some(terms)) = (self.limiter(), &config.limiter) {
            limiter.set_terms(terms)?;
        }
        if let (Some(breaker), Some(terms)) = (self.breaker(), &config.breaker) {
            breaker.set_terms(terms)?;
        }
        match (config.effective_budget(), &self.kept.budget) {
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

    /// Returns whether `other` differs in terms only and has the same layers, including removed ones: otherwise a layer
    /// that is put back later would continue the state of another one.
    pub(super) fn has_layers_of(&self, other: &Self) -> bool {
        let limiters = [self, other].map(Self::last_limiter);
        let breakers = [self, other].map(Self::last_breaker);
        let budgets = [self, other].map(|stack| stack.kept.budget.as_ref());
        self.config().is_same_but_for_terms(&other.config())
            && is_same(limiters, RateLimiter::is_clone_of)
            && is_same(breakers, CircuitBreaker::is_clone_of)
            && is_same(budgets, RetryBudget::is_same)
    }

    /// Returns the current limiter, or else the last one that was removed.
    fn last_limiter(&self) -> Option<&RateLimiter> {
        let removed = self.kept.limiter.as_ref();
        self.limiter().or(removed.map(|(_, limiter)| limiter))
    }

    /// Returns the current breaker, or else the last one that was removed.
    fn last_breaker(&self) -> Option<&CircuitBreaker> {
        let removed = self.kept.breaker.as_ref();
        self.breaker().or(removed.map(|(_, breaker)| breaker))
    }

    /// Returns the last limiter and breaker, each with its settings.
    fn last(&self) -> Kept {
        let config = self.config();
        let limiter = config.limiter.clone().zip(self.limiter().cloned());
        let breaker = config.breaker.clone().zip(self.breaker().cloned());
        Kept {
            limiter: limiter.or_else(|| self.kept.limiter.clone()),
            breaker: breaker.or_else(|| self.kept.breaker.clone()),
            budget: self.kept.budget.clone(),
        }
    }

    /// Returns the last breaker, if it is a new one, and the last one of the stack before. A concurrent change may have
    /// removed the new one from the layers already.
    fn replaced_breaker<'a>(
        &'a self,
        before: &'a Self,
    ) -> Option<(&'a CircuitBreaker, &'a CircuitBreaker)> {
        let (new, old) = (self.last_breaker()?, before.last_breaker()?);
        (!new.is_clone_of(old)).then_some((new, old))
    }

    /// Prepares a new breaker to replace that of the stack before.
    pub(super) fn continue_from(&self, before: &Self) {
        if let Some((new, old)) = self.replaced_breaker(before) {
            new.continue_from(old);
        }
    }

    /// Undoes [`continue_from`](Self::continue_from), because another change came first.
    pub(super) fn abandon(&self, before: &Self) {
        if let Some((new, _)) = self.replaced_breaker(before) {
            new.abandon();
        }
    }

    /// Takes over from the limiter and the breaker of the stack before, now that these are in force.
    pub(super) fn take_over_from(&self, before: &Self) {
        // A clock or an observer that panics keeps neither from it.
        let mut panics = Panics::default();
        if let (Some(new), Some(old)) = (self.last_limiter(), before.last_limiter()) {
            if !new.is_clone_of(old) {
                panics.run(|| new.take_over_from(old));
            }
        }
        if let Some((new, old)) = self.replaced_breaker(before) {
            panics.run(|| new.take_over_from(old));
        }
        panics.resume();
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
        let config = self.config();
        Snapshot {
            name,
            total_timeout: config.total_timeout,
            attempt_timeout: config.attempt_timeout,
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
    identity: &Identity,
    settings: &RateLimiterBuilder,
    old: Option<(RateLimiterBuilder, RateLimiter)>,
) -> Result<RateLimiter, ConfigError> {
    // Built even if the old one stays in use, so that invalid settings are reported.
    let limiter = settings
        .clone()
        .adopted(identity.name, &identity.clock)
        .build()?;
    match old {
        Some((of, same)) if settings.is_same_but_for_terms(&of) => return Ok(same),
        Some((_, old)) => limiter.continue_from(&old),
        None => {}
    }
    Ok(limiter)
}

/// Returns the breaker of these settings: the old one if its windows fit them, otherwise a new one that continues in
/// the same state.
fn next_breaker(
    identity: &Identity,
    settings: &CircuitBreakerBuilder,
    old: Option<(CircuitBreakerBuilder, CircuitBreaker)>,
) -> Result<CircuitBreaker, ConfigError> {
    let adopted = settings.clone().adopted(identity.name, &identity.clock);
    let Some((of, old)) = old else {
        return adopted.build();
    };
    // Built even if the old one stays in use, so that invalid settings are reported. Its windows continue later.
    let new = adopted.restore(old.snapshot().without_counts()).build()?;
    match settings.is_same_but_for_terms(&of) {
        true => Ok(old),
        false => Ok(new),
    }
}

impl Kept {
    /// Returns the stack's own budget, which is built at most once.
    fn budget(
        &mut self,
        identity: &Identity,
        ratio: f64,
        floor_per_second: u32,
    ) -> Result<RetryBudget, ConfigError> {
        // Built even if the old one stays in use, so that invalid settings are reported.
        let budget = own_budget(identity, ratio, floor_per_second)?;
        Ok(self.budget.get_or_insert(budget).clone())
    }
}

fn own_budget(
    identity: &Identity,
    ratio: f64,
    floor_per_second: u32,
) -> Result<RetryBudget, ConfigError> {
    let budget = RetryBudget::percentage().ratio(ratio);
    let budget = budget.floor(floor_per_second).name(identity.name);
    budget.clock(identity.clock.clone()).build()
}
