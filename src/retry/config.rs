//! The builder of retries.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::state::{HintRule, Retrying};
use super::{DelayFn, Inner, Retry, RetryFn};
use crate::backoff::Backoff;
use crate::base::is_same_arc;
use crate::blocking;
use crate::clock::ClockHandle;
use crate::debug::DebugLimit;
use crate::error::ConfigError;
use crate::retry_budget::RetryBudget;
use crate::rng::SharedRng;

impl Retry {
    /// Returns a builder with the default settings.
    pub const fn builder() -> RetryBuilder {
        RetryBuilder::new()
    }
}

/// Builds a [`Retry`]. The defaults are on the [module page](super).
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct RetryBuilder {
    name: &'static str,
    max_attempts: u32,
    backoff: Backoff,
    throttled_backoff: Backoff,
    hint: HintRule,
    max_hint: Duration,
    max_elapsed: Option<Duration>,
    budget: Option<RetryBudget>,
    retry_open_circuit: bool,
    return_rejection: bool,
    wait_when_budget_empty: bool,
    delay: Option<Arc<DelayFn>>,
    on_retry: Option<Arc<RetryFn>>,
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

    const fn new() -> Self {
        Self {
            name: Self::NAME,
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
            seed: None,
            clock: ClockHandle::preset(),
        }
    }

    /// Sets the most attempts of a call, the first one included: at least 1. Default 3.
    pub const fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Sets the delays between attempts.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets the delays after an attempt that was throttled
    /// ([`ErrorClass::Throttled`](crate::policy::ErrorClass::Throttled)).
    pub fn throttled_backoff(mut self, backoff: Backoff) -> Self {
        self.throttled_backoff = backoff;
        self
    }

    /// Sets how a server's hint changes the delay.
    pub const fn hint(mut self, rule: HintRule) -> Self {
        self.hint = rule;
        self
    }

    /// Sets the longest wait that a server's hint may demand under [`HintRule::Obey`]. A longer hint ends the call at
    /// once. With zero, every hint does.
    pub const fn max_hint(mut self, longest: Duration) -> Self {
        self.max_hint = longest;
        self
    }

    /// Sets the longest time from the start of a call to the start of its last attempt, operations
    /// included. Zero allows retries only where no time has passed.
    pub const fn max_elapsed(mut self, limit: Duration) -> Self {
        self.max_elapsed = Some(limit);
        self
    }

    /// Sets the budget of all calls of this retry. Other users of its clones share it.
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Sets whether to wait until an open circuit of an inner breaker admits probes, if that is before the deadline.
    /// Default `false`.
    pub const fn retry_open_circuit(mut self, retry: bool) -> Self {
        self.retry_open_circuit = retry;
        self
    }

    /// Sets whether to return the rejection if an inner layer rejects an attempt after an executed one. By default,
    /// the error of the last executed attempt is returned, so that a rejection always means that nothing was
    /// executed.
    pub const fn return_rejection(mut self, rejection: bool) -> Self {
        self.return_rejection = rejection;
        self
    }

    /// Sets whether to wait for the delay before the error is returned if the budget is empty. Useful for callers that
    /// poll in a loop.
    pub const fn wait_when_budget_empty(mut self, wait: bool) -> Self {
        self.wait_when_budget_empty = wait;
        self
    }

    /// Replaces the delays. `delay` gets the failed attempt, its verdict, and the delay computed from backoff and
    /// hint, and returns the delay to use. No cap and no jitter is applied to it, and a hint beyond the deadline no
    /// longer ends the call.
    pub fn delay_with(
        mut self,
        delay: impl Fn(&Retrying) -> Duration + Send + Sync + 'static,
    ) -> Self {
        self.delay = Some(Arc::new(move |retrying: &Retrying| {
            blocking::outside(|| delay(retrying))
        }));
        self
    }

    /// Sets a hook that is called before each wait, once the failed attempt has been dropped. For a hook that gets
    /// the error, use [`Retry::notify`].
    pub fn on_retry(mut self, hook: impl Fn(&Retrying) + Send + Sync + 'static) -> Self {
        self.on_retry = Some(Arc::new(move |retrying: &Retrying| {
            blocking::outside(|| hook(retrying));
        }));
        self
    }

    setters! {
        /// Makes the jitter reproducible: retries with the same seed draw the same sequence of numbers.
        seed;
        /// Sets the name in events.
        name;
        /// Sets the clock that measures delays.
        clock;
    }

    /// Adopts the name, the clock, and the budget of a stack.
    pub(crate) fn adopted(
        mut self,
        name: &'static str,
        clock: &ClockHandle,
        budget: Option<RetryBudget>,
    ) -> Self {
        if self.name == Self::NAME {
            self.name = name;
        }
        self.clock = Some(clock.clone());
        self.budget = budget.or(self.budget);
        self
    }

    /// Returns the limit of the elapsed time.
    pub(crate) const fn longest(&self) -> Option<Duration> {
        self.max_elapsed
    }

    /// Returns whether it has a budget of its own.
    pub(crate) const fn has_budget(&self) -> bool {
        self.budget.is_some()
    }

    /// Returns whether both build equal retries, except for the clock.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let plain = |retry: &Self| {
            (
                (retry.name, retry.max_attempts, retry.hint, retry.max_hint),
                (retry.max_elapsed, retry.retry_open_circuit, retry.seed),
                (retry.return_rejection, retry.wait_when_budget_empty),
            )
        };
        let budgets = (self.budget.as_ref(), other.budget.as_ref());
        plain(self) == plain(other)
            && self.backoff == other.backoff
            && self.throttled_backoff == other.throttled_backoff
            && match budgets {
                (Some(one), Some(other)) => one.is_same(other),
                (one, other) => one.is_some() == other.is_some(),
            }
            && is_same_arc(self.delay.as_ref(), other.delay.as_ref())
            && is_same_arc(self.on_retry.as_ref(), other.on_retry.as_ref())
    }

    /// Builds the retry.
    ///
    /// # Errors
    ///
    /// If `max_attempts` is zero, a backoff is invalid, or no clock was given where the feature `tokio` is off.
    pub fn build(self) -> Result<Retry, ConfigError> {
        let error = |setting, problem| ConfigError::new("retry", setting, problem);
        if self.max_attempts == 0 {
            return Err(error("max_attempts", "must be at least 1"));
        }
        self.backoff.check("retry", "backoff")?;
        self.throttled_backoff.check("retry", "throttled_backoff")?;
        Ok(Retry {
            inner: Arc::new(Inner {
                name: self.name,
                max_attempts: self.max_attempts,
                backoff: self.backoff,
                throttled_backoff: self.throttled_backoff,
                hint: self.hint,
                max_hint: self.max_hint,
                max_elapsed: self.max_elapsed,
                budget: self.budget,
                retry_open_circuit: self.retry_open_circuit,
                return_rejection: self.return_rejection,
                wait_when_budget_empty: self.wait_when_budget_empty,
                delay: self.delay,
                on_retry: self.on_retry,
                rng: SharedRng::new(self.seed),
                clock: self.clock.ok_or(error("clock", "must be given"))?,
            }),
        })
    }
}

impl fmt::Debug for RetryBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryBuilder")
            .field("name", &self.name)
            .field("max_attempts", &self.max_attempts)
            .field("backoff", &self.backoff)
            .field("throttled_backoff", &self.throttled_backoff)
            .field("hint", &self.hint)
            .field("max_hint", &DebugLimit(&self.max_hint))
            .field("max_elapsed", &DebugLimit(&self.max_elapsed))
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
