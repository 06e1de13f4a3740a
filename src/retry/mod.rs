//! Retries: another attempt where it may help, and only there.
//!
//! # What it protects
//!
//! Calls from faults that pass: a reset connection, a restarting server, a full queue. And the
//! dependency from the retries: they are bounded in number, time and share of the traffic.
//!
//! ```text
//!   attempt 1 ──fails──► worth it? ──► delay ──► attempt 2 ──fails──► ... ──► the last error
//!                           │
//!                           └─ no: not retryable · not idempotent · attempts, time, deadline or
//!                              budget used up ──► the error, untouched, at once
//! ```
//!
//! # When not to use it
//!
//! * At more than one layer: attempts multiply.
//! * For operations that must not run twice, unless the call says so
//!   ([`CallOptions::idempotent`](crate::CallOptions::idempotent)): then only attempts that surely
//!   have not been executed are repeated.
//! * Against an overload that lasts: use a [`RetryBudget`] and a breaker.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use backstop::{Backoff, Policy, Retry};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
//! let retry = Retry::builder()
//!     .max_attempts(4)
//!     .backoff(Backoff::exponential(Duration::from_millis(100)))
//!     .build()
//!     .expect("the settings are valid");
//!
//! let tries = std::cell::Cell::new(0);
//! let result = retry.call(|| async {
//!     tries.set(tries.get() + 1);
//!     match tries.get() {
//!         1..=2 => Err("connection reset"),
//!         _ => Ok("hello"),
//!     }
//! }).await;
//! assert_eq!((result, tries.get()), (Ok("hello"), 3));
//! # }
//! ```
//!
//! # Defaults
//!
//! | setting | default |
//! |---|---|
//! | `max_attempts` | 3, the first one included |
//! | `backoff` | exponential from 50 ms, ×2, cap 20 s, full jitter |
//! | `throttled_backoff` | exponential from 1 s, ×2, cap 20 s, full jitter |
//! | `hint` | obeyed: as the server asked, plus jitter |
//! | `max_hint` | 60 s; a longer hint ends the call at once |
//! | `max_elapsed` | none |
//! | `budget` | none |
//! | `retry_open_circuit` | `false` |
//! | `return_rejection` | `false` |
//! | `wait_when_budget_empty` | `false` |
//! | `name` | `retry` |
//! | `clock` | tokio's |
//!
//! The numbers are those of the AWS SDKs' standard mode, version 2.1.
//!
//! # What is retried
//!
//! The verdict decides ([`Verdict`](crate::Verdict)), which a [`Classify`](crate::Classify) inside may set. Without
//! one every error of the operation is retried, and so is a timeout, unless the deadline came from
//! outside. Rejections by inner layers count as not executed. They are waited out for as long as the layer
//! says, or else for the delay of the backoff; an open circuit is not waited out unless
//! [`retry_open_circuit`](RetryBuilder::retry_open_circuit) says so. A call that cannot be run again
//! ([`CallOptions::repeatable`](crate::CallOptions::repeatable)) is repeated only if it was rejected
//! before it started.
//!
//! # What is returned
//!
//! The outcome of the last executed attempt. If an inner layer rejects a later one, the rejection goes to
//! the observer and into [`call_reported`](crate::Policy::call_reported), so a rejection that is
//! returned always means that nothing was executed.
//! [`return_rejection`](RetryBuilder::return_rejection) returns the rejection instead.
//!
//! # With its neighbours
//!
//! * A [`Timeout`](crate::Timeout) **inside** limits an attempt, one **outside** the whole call. A
//!   retry never sleeps into a deadline: it returns the last error at once.
//! * A breaker belongs **inside**: it sees every attempt, and an open circuit ends the retries.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::clock::ClockHandle;
use crate::error::Error;
use crate::instant::DebugLimit;
use crate::keyed::stateless;
use crate::retry_budget::RetryBudget;
use crate::rng::SharedRng;

mod attempts;
mod config;
mod policy;
mod state;

pub use self::config::RetryBuilder;
pub use self::state::{HintRule, Retrying};

/// Repeats an operation that failed, where that may help. See the [module page](self).
///
/// Cheap to clone; clones share the source of jitter and the budget.
#[derive(Clone, Debug)]
pub struct Retry {
    inner: Arc<Inner>,
}

// Its budget, if it has one, is shared with others as a rule.
stateless!(Retry);

/// The settings of a retry, and its source of jitter.
pub struct Inner {
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
    rng: SharedRng,
    clock: ClockHandle,
}

type DelayFn = dyn Fn(&Retrying) -> Duration + Send + Sync;
type RetryFn = dyn Fn(&Retrying) + Send + Sync;

impl Retry {
    /// The name in events.
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// How many attempts a call has, the first one included.
    pub fn max_attempts(&self) -> u32 {
        self.inner.max_attempts
    }

    /// Calls `hook` before each wait with the error of the failed attempt, which has been dropped by then.
    /// An attempt whose value is retried has no error: [`RetryBuilder::on_retry`] sees those too.
    ///
    /// The hook names the error type, so what [`Classify`](crate::Classify) says about error types with
    /// lifetimes in spawned tasks holds here too.
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

    /// The budget, if there is one.
    pub fn budget(&self) -> Option<&RetryBudget> {
        self.inner.budget.as_ref()
    }
}

/// A retry with a hook that sees errors. Made by [`Retry::notify`].
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

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("name", &self.name)
            .field("max_attempts", &self.max_attempts)
            .field("backoff", &self.backoff)
            .field("throttled_backoff", &self.throttled_backoff)
            .field("hint", &self.hint)
            .field("max_hint", &DebugLimit(self.max_hint))
            .field("max_elapsed", &self.max_elapsed.map(DebugLimit))
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}
