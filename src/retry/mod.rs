#![cfg_attr(feature = "tokio", doc = include_str!("../../docs/patterns/retry.md"))]
#![cfg_attr(
    not(feature = "tokio"),
    doc = "Retries make another attempt where it may help."
)]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::clock::ClockHandle;
use crate::debug::DebugLimit;
use crate::error::Error;
use crate::keyed::stateless;
use crate::retry_budget::RetryBudget;
use crate::rng::SharedRng;

mod attempts;
mod config;
mod hook;
mod policy;
mod state;

pub use self::config::RetryBuilder;
pub use self::state::{HintRule, Retrying};

/// Repeats a failed operation if that may help. See the [module page](self).
///
/// Cheap to clone; clones share the source of jitter and the budget.
#[derive(Clone)]
pub struct Retry {
    inner: Arc<Inner>,
}

// Counts as stateless, because its budget is usually shared.
stateless!(Retry);

/// State shared by the clones of a retry.
pub struct Inner {
    settings: Settings,
    rng: SharedRng,
    clock: ClockHandle,
}

/// The settings of a retry.
#[derive(Clone)]
struct Settings {
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
}

type DelayFn = dyn Fn(&Retrying) -> Duration + Send + Sync;
type RetryFn = dyn Fn(&Retrying) + Send + Sync;

impl Settings {
    /// Formats the settings as those of the builder or of the handle.
    fn fmt_as(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
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

impl Retry {
    /// Returns the name in events.
    pub fn name(&self) -> &'static str {
        self.inner.settings.name
    }

    /// Returns the most attempts of a call, the first one included.
    pub fn max_attempts(&self) -> u32 {
        self.inner.settings.max_attempts
    }

    /// Returns a retry that calls `hook` before each wait with the error of the failed attempt, which has been
    /// dropped by then. An attempt whose value is retried has no error: [`RetryBuilder::on_retry`] reports those too.
    ///
    /// The hook names the error type, so the notes of [`Classify`](crate::Classify) about error types with lifetimes
    /// in spawned tasks apply.
    ///
    /// # Example
    ///
    /// ```
    /// use backstop::{Error, ManualClock, Policy, Retry};
    ///
    /// let clock = ManualClock::new();
    /// let retry = Retry::builder().clock(clock.clone()).build()?;
    /// let retry = retry.notify(|error: &Error<std::io::Error>, retrying| {
    ///     eprintln!("attempt {}: {error:#}, next in {:?}", retrying.attempt(), retrying.delay());
    /// });
    /// let result = clock.block_on(retry.call(|| async { Err::<(), _>(std::io::Error::other("reset")) }));
    /// assert!(result.is_err());
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub const fn notify<E, F>(self, hook: F) -> Notify<F>
    where
        F: Fn(&Error<E>, &Retrying),
    {
        Notify { retry: self, hook }
    }

    /// Returns the budget, if there is one.
    pub fn budget(&self) -> Option<&RetryBudget> {
        self.inner.settings.budget.as_ref()
    }
}

/// A retry with a hook that gets errors. Returned by [`Retry::notify`].
#[derive(Clone)]
pub struct Notify<F> {
    retry: Retry,
    hook: F,
}

impl<F> fmt::Debug for Notify<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notify")
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt_as("Retry", f)
    }
}
