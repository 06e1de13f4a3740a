//! The builder of stacks.

use std::sync::Arc;
use std::time::Duration;

use super::Standard;
use super::config::{Budget, Config, settings};
use super::inner::Inner;
use super::stack::Identity;
use super::state::NAME;
use crate::backoff::Backoff;
use crate::base::Setup;
use crate::circuit_breaker::CircuitBreakerBuilder;
use crate::error::ConfigError;
use crate::rate_limiter::{Quota, RateLimiter, RateLimiterBuilder};
use crate::retry::RetryBuilder;
use crate::retry_budget::RetryBudget;

impl Standard {
    /// Returns a builder with the default settings.
    pub const fn builder() -> StandardBuilder {
        StandardBuilder {
            config: Config::new(),
            setup: Setup::new(NAME),
        }
    }
}

/// Builds a [`Standard`]. The defaults are those of [`Config`], and:
///
/// | setting | default |
/// |---|---|
/// | [`name`](Self::name) | `standard` |
/// | [`observer`](Self::observer) | none |
/// | [`clock`](Self::clock) | tokio's |
///
/// Builders of layers, such as [`RetryBuilder`], get the clock of the stack, and its name unless they have one.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct StandardBuilder {
    config: Config,
    setup: Setup,
}

impl StandardBuilder {
    /// Replaces all settings but name, observer, and clock.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    settings! { config }

    setters! {
        in setup;
        /// Sets the observer of all calls. It receives the events of the layers, also of those that
        /// [`around`](Standard::around) puts inside, and the end of each call, for which the clock is read at the start
        /// and at the end.
        observer;
        /// Sets the name of the stack and its layers, in errors, events, and snapshots.
        name;
        /// Sets the clock of all layers.
        clock;
    }

    /// Builds the stack.
    ///
    /// # Errors
    ///
    /// If a layer's settings are invalid, as documented by its builder; if no clock was given where the feature `tokio`
    /// is off; or if two settings contradict each other, with both values in the text:
    ///
    /// * a timeout of zero;
    /// * `attempt_timeout` or the retry's `max_elapsed` not shorter than `total_timeout`: it would never end
    ///   anything;
    /// * the breaker's `slow_call` not shorter than `attempt_timeout`: no call could be slow;
    /// * the breaker's `probe_lease` shorter than `attempt_timeout`: a probe could lose its lease while it runs;
    /// * a budget for the stack and another one in the retry.
    pub fn build(self) -> Result<Standard, ConfigError> {
        let missing = ConfigError::new(NAME, "clock", "must be given");
        let clock = self.setup.clock.ok_or(missing)?;
        let identity = Identity {
            name: self.setup.name,
            clock,
            observer: self.setup.observer,
        };
        let inner = Inner::new(identity, &self.config)?;
        Ok(Standard::of(Arc::new(inner)))
    }
}
