//! The builder of retries.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::state::{HintRule, Retrying};
use super::{Inner, Retry, Settings};
use crate::backoff::Backoff;
use crate::base::is_same_arc;
use crate::blocking;
use crate::clock::ClockHandle;
use crate::error::ConfigError;
use crate::retry_budget::RetryBudget;
use crate::rng::SharedRng;

impl Retry {
    /// Returns a builder with the default settings.
    pub const fn builder() -> RetryBuilder {
        RetryBuilder {
            settings: Settings {
                name: RetryBuilder::NAME,
                max_attempts: 3,
                backoff: Backoff::exponential(Duration::from_millis(50)),
                throttled_backoff: Backoff::exponential(Duration::from_secs(1)),
                hint: HintRule::Obey,
                max_hint: Duration::from_secs(60),
                max_elapsed: None,
                budget: None,
                retry_open_circuit: false,
                return_rejection: false,
                wait_when_budget_empty: false,
                delay: None,
                on_retry: None,
            },
            seed: None,
            clock: ClockHandle::preset(),
        }
    }
}

/// Builds a [`Retry`]. The defaults are on the [module page](super).
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct RetryBuilder {
    settings: Settings,
    seed: Option<u64>,
    clock: Option<ClockHandle>,
}

#[cfg(feature = "tokio")]
impl Default for Retry {
    /// Returns a retry with the default settings, on tokio's clock.
    fn default() -> Self {
        let built = Self::builder().build();
        built.expect("the default settings are valid")
    }
}

impl RetryBuilder {
    const NAME: &'static str = "retry";

    /// Sets the most attempts of a call, the first one included: at least 1. Default 3.
    pub const fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = attempts;
        self
    }

    /// Sets the delays between attempts.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// Sets the delays after an attempt that was throttled
    /// ([`ErrorClass::Throttled`](crate::policy::ErrorClass::Throttled)).
    pub fn throttled_backoff(mut self, backoff: Backoff) -> Self {
        self.settings.throttled_backoff = backoff;
        self
    }

    /// Sets how a server's hint changes the delay.
    pub const fn hint(mut self, rule: HintRule) -> Self {
        self.settings.hint = rule;
        self
    }

    /// Sets the longest wait that a server's hint may demand under [`HintRule::Obey`]. A longer hint ends the call at
    /// once. With zero, every hint does.
    pub const fn max_hint(mut self, longest: Duration) -> Self {
        self.settings.max_hint = longest;
        self
    }

    /// Sets the longest time from the start of a call to the start of its last attempt, operations
    /// included. Zero allows retries only where no time has passed.
    pub const fn max_elapsed(mut self, limit: Duration) -> Self {
        self.settings.max_elapsed = Some(limit);
        self
    }

    /// Sets the budget of all calls of this retry. Other users of its clones share it.
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.settings.budget = Some(budget);
        self
    }

    /// Sets whether to wait until an open circuit of an inner breaker admits probes, if that is before the deadline.
    /// Default `false`.
    pub const fn retry_open_circuit(mut self, retry: bool) -> Self {
        self.settings.retry_open_circuit = retry;
        self
    }

    /// Sets whether to return the rejection if an inner layer rejects an attempt after an executed one. By default,
    /// the error of the last executed attempt is returned, so that a rejection always means that nothing was
    /// executed.
    pub const fn return_rejection(mut self, rejection: bool) -> Self {
        self.settings.return_rejection = rejection;
        self
    }

    /// Sets whether to wait for the delay before the error is returned if the budget is empty. Useful for callers that
    /// poll in a loop.
    pub const fn wait_when_budget_empty(mut self, wait: bool) -> Self {
        self.settings.wait_when_budget_empty = wait;
        self
    }

    /// Replaces the delays. `delay` gets the failed attempt, its verdict, and the delay computed from backoff and
    /// hint, and returns the delay to use. No cap and no jitter is applied to it, and a hint beyond the deadline no
    /// longer ends the call.
    pub fn delay_with(
        mut self,
        delay: impl Fn(&Retrying) -> Duration + Send + Sync + 'static,
    ) -> Self {
        self.settings.delay = Some(Arc::new(move |retrying: &Retrying| {
            blocking::outside(|| delay(retrying))
        }));
        self
    }

    /// Sets a hook that is called before each wait, once the failed attempt has been dropped. For a hook that gets
    /// the error, use [`Retry::notify`].
    pub fn on_retry(mut self, hook: impl Fn(&Retrying) + Send + Sync + 'static) -> Self {
        self.settings.on_retry = Some(Arc::new(move |retrying: &Retrying| {
            blocking::outside(|| hook(retrying));
        }));
        self
    }

    setters! {
        /// Makes the jitter reproducible: retries with the same seed draw the same sequence of numbers.
        seed;
        /// Sets the clock that measures delays.
        clock;
    }

    setters! { in settings;
        /// Sets the name in events.
        name;
    }

    /// Adopts the name, the clock, and the budget of a stack.
    pub(crate) fn adopted(
        mut self,
        name: &'static str,
        clock: &ClockHandle,
        budget: Option<RetryBudget>,
    ) -> Self {
        if self.settings.name == Self::NAME {
            self.settings.name = name;
        }
        self.clock = Some(clock.clone());
        self.settings.budget = budget.or(self.settings.budget);
        self
    }

    /// Returns the limit of the elapsed time.
    pub(crate) const fn longest(&self) -> Option<Duration> {
        self.settings.max_elapsed
    }

    /// Returns whether it has a budget of its own.
    pub(crate) const fn has_budget(&self) -> bool {
        self.settings.budget.is_some()
    }

    /// Returns whether both build equal retries, except for the clock.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let plain = |settings: &Settings| {
            (
                (settings.name, settings.max_attempts, settings.max_elapsed),
                (settings.hint, settings.max_hint),
                settings.retry_open_circuit,
                (settings.return_rejection, settings.wait_when_budget_empty),
            )
        };
        let (one, other, seeds) = (&self.settings, &other.settings, (self.seed, other.seed));
        seeds.0 == seeds.1
            && plain(one) == plain(other)
            && one.backoff == other.backoff
            && one.throttled_backoff == other.throttled_backoff
            && match (&one.budget, &other.budget) {
                (Some(one), Some(other)) => one.is_same(other),
                (one, other) => one.is_some() == other.is_some(),
            }
            && is_same_arc(one.delay.as_ref(), other.delay.as_ref())
            && is_same_arc(one.on_retry.as_ref(), other.on_retry.as_ref())
    }

    /// Builds the retry.
    ///
    /// # Errors
    ///
    /// If `max_attempts` is zero, a backoff is invalid, or no clock was given where the feature `tokio` is off.
    pub fn build(self) -> Result<Retry, ConfigError> {
        let error = |setting, problem| ConfigError::new("retry", setting, problem);
        let settings = self.settings;
        if settings.max_attempts == 0 {
            return Err(error("max_attempts", "must be at least 1"));
        }
        settings.backoff.check("retry", "backoff")?;
        settings
            .throttled_backoff
            .check("retry", "throttled_backoff")?;
        Ok(Retry {
            inner: Arc::new(Inner {
                settings,
                rng: SharedRng::new(self.seed),
                clock: self.clock.ok_or(error("clock", "must be given"))?,
            }),
        })
    }
}

impl fmt::Debug for RetryBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt_as("RetryBuilder", f)
    }
}
