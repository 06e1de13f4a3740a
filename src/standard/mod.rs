#![cfg_attr(feature = "tokio", doc = include_str!("../../docs/patterns/standard.md"))]
#![cfg_attr(
    not(feature = "tokio"),
    doc = "The standard stack: limiter, total timeout, retry with budget, breaker, attempt timeout."
)]

use std::fmt;
use std::sync::Arc;
#[cfg(feature = "config")]
use std::sync::Weak;
use std::time::Duration;

use crate::circuit_breaker::CircuitBreaker;
use crate::clock::ClockHandle;
use crate::error::ConfigError;
use crate::keyed::{Evictable, is_unshared};
use crate::policy::{Around, CallOptions, With};
use crate::rate_limiter::RateLimiter;
use crate::retry_budget::RetryBudget;

mod builder;
mod config;
mod inner;
mod policy;
mod snapshot;
mod stack;
mod state;

pub use self::builder::StandardBuilder;
pub use self::config::Config;
pub use self::snapshot::Snapshot;
pub use self::stack::Layers;

use self::inner::Inner;

/// The usual stack as one policy: limiter, total timeout, retry with a budget, breaker, attempt timeout. See the
/// [module page](self).
///
/// Cheap to clone; clones are the same stack, even after [`reconfigure`](Self::reconfigure).
#[derive(Clone)]
pub struct Standard {
    inner: Arc<Inner>,
}

/// A stack that is not kept.
#[cfg(feature = "config")]
#[derive(Clone)]
pub(crate) struct WeakStandard(Weak<Inner>);

#[cfg(feature = "config")]
impl WeakStandard {
    /// Returns the stack, if a handle of it exists.
    pub(crate) fn upgrade(&self) -> Option<Standard> {
        self.0.upgrade().map(Standard::of)
    }

    pub(crate) fn exists(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl Standard {
    const fn of(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    #[cfg(feature = "config")]
    pub(crate) fn downgrade(&self) -> WeakStandard {
        WeakStandard(Arc::downgrade(&self.inner))
    }

    /// Returns a stack with the default settings, on tokio's clock.
    #[cfg(feature = "tokio")]
    pub fn new(name: &'static str) -> Self {
        let built = Self::builder().name(name).build();
        built.expect("the default settings are valid")
    }

    /// Returns the name of the stack and of its layers, in errors, events, and snapshots.
    pub fn name(&self) -> &'static str {
        self.inner.identity.name
    }

    /// Returns the settings in force, as a start for [`reconfigure`](Self::reconfigure).
    pub fn config(&self) -> Config {
        Config::clone(&self.inner.current().config())
    }

    /// Changes all settings at once. Calls that start afterwards use the new ones; calls in flight end under their
    /// old ones.
    ///
    /// The state of the layers is kept:
    ///
    /// * **Tokens**: if only quotas of the same number and algorithms, `max_wait`, or `max_waiting` change, the
    ///   limiter stays the same, and so do calls that wait in it. Otherwise a new limiter starts with as many
    ///   tokens as there were.
    /// * **Windows**: if only thresholds, breaks, and rules for probes change, the breaker stays the same, with its
    ///   windows, its state, and the calls in flight. With other windows (their lengths and number, slow calls,
    ///   measured durations), or another seed, name, observer, or shadow mode, a new breaker starts with the state
    ///   and the counts of the old one, as
    ///   [`restore`](crate::circuit_breaker::CircuitBreakerBuilder::restore) has it; results of calls in flight
    ///   still go to the old one. A manual isolation continues until its handle is dropped, and so do
    ///   [subscriptions](CircuitBreaker::subscribe), [health checks](CircuitBreaker::check_with), a
    ///   [voter](crate::CircuitVotes), and the numbers of events.
    /// * **Budget**: a new share applies to what its window has counted.
    /// * A layer that is removed and put back continues where it was.
    ///
    /// Concurrent changes do not mix: one of them is in force in the end. Keeps each new set of layers, but not each
    /// quota, threshold, or share, until the last clone is dropped: up to 3.7 KB each, and 5.6 KB the first.
    ///
    /// # Errors
    ///
    /// As for [`StandardBuilder::build`]. After an error nothing has changed.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use backstop::{ManualClock, Standard};
    ///
    /// let github = Standard::builder().name("github").clock(ManualClock::new()).build()?;
    /// let config = github.config().max_attempts(5).attempt_timeout(Duration::from_secs(2));
    /// github.reconfigure(config)?;
    /// assert_eq!(github.snapshot().max_attempts, 5);
    ///
    /// let wrong = github.config().attempt_timeout(Duration::from_secs(60));
    /// assert_eq!(
    ///     github.reconfigure(wrong).unwrap_err().to_string(),
    ///     "standard: attempt_timeout of 60s must be shorter than total_timeout of 30s"
    /// );
    /// assert_eq!(github.snapshot().attempt_timeout, Some(Duration::from_secs(2)));
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub fn reconfigure(&self, config: Config) -> Result<(), ConfigError> {
        self.inner.reconfigure(&config)
    }

    /// Returns this stack with options for the calls made through the returned value, under the settings in force
    /// now.
    ///
    /// # Examples
    ///
    /// ```
    /// use backstop::{CallOptions, ManualClock, Policy, Standard};
    ///
    /// let payments = Standard::builder().name("payments").clock(ManualClock::new()).build()?;
    /// // A charge must not be repeated once it may have happened.
    /// let once = CallOptions::new().idempotent(false);
    /// let result = payments.with(once).call_blocking(|| Ok::<_, ()>("charged"));
    /// assert_eq!(result, Ok("charged"));
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub fn with(&self, options: CallOptions) -> With<'_, Layers> {
        self.inner.current().pipeline.with(options)
    }

    /// Puts a stack created for one call inside this one, like [`Pipeline::around`](crate::Pipeline::around).
    pub fn around<S>(&self, stack: S) -> Around<'_, Layers, S> {
        self.inner.current().pipeline.around(stack)
    }

    /// Returns the limiter, if there is one, for example to pause it.
    ///
    /// [`reconfigure`](Self::reconfigure) may replace it, and this handle stays one of the old limiter: ask for it each time.
    pub fn limiter(&self) -> Option<RateLimiter> {
        self.inner.current().limiter().cloned()
    }

    /// Returns the breaker, if there is one, for example to trip or isolate it, or to follow its transitions.
    ///
    /// [`reconfigure`](Self::reconfigure) may replace it. Subscriptions, health checks, and isolations continue then, and
    /// this handle reads and changes the new one. Calls and permits through this handle itself still go to the old one.
    pub fn breaker(&self) -> Option<CircuitBreaker> {
        self.inner.current().breaker().cloned()
    }

    /// Returns the budget of the retries, if there is one, for example to share it with a hedge.
    pub fn budget(&self) -> Option<RetryBudget> {
        self.inner.current().budget().cloned()
    }

    /// Returns the settings in force and a snapshot of each layer. Changes nothing.
    pub fn snapshot(&self) -> Snapshot {
        self.inner.current().snapshot(self.inner.identity.name)
    }

    /// Returns the clock of all layers.
    pub fn clock(&self) -> &ClockHandle {
        &self.inner.identity.clock
    }
}

/// A stack is evictable if its layers are, unless it was reconfigured.
impl Evictable for Standard {
    fn evictable_in(&self) -> Option<Duration> {
        if !is_unshared(&self.inner) {
            return None;
        }
        self.inner.evictable_in()
    }
}

impl fmt::Debug for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standard")
            .field("name", &self.name())
            .field("config", &self.inner.current().config())
            .finish()
    }
}
