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
//! | `hint` | within 5 s above the computed delay |
//! | `max_elapsed` | none |
//! | `budget` | none |
//! | `retry_open_circuit` | `false` |
//! | `wait_when_budget_empty` | `false` |
//! | `name` | `retry` |
//! | `clock` | tokio's |
//!
//! The numbers are those of the AWS SDKs' standard mode, version 2.1.
//!
//! # What is retried
//!
//! The verdict decides ([`Verdict`]), which a [`Classify`](crate::Classify) inside may set. Without
//! one every error of the operation is retried, and so is a timeout. Refusals of inner layers count
//! as not executed and are waited out for as long as they say; an open circuit is not waited out
//! unless [`retry_open_circuit`](RetryBuilder::retry_open_circuit) says so.
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
use crate::keyed::stateless;
use crate::retry_budget::RetryBudget;
use crate::rng::SharedRng;
use crate::verdict::Verdict;

mod config;
mod policy;
mod state;

pub use self::config::{HintRule, RetryBuilder};

/// Repeats an operation that failed, where that may help. See the [module page](self).
///
/// Cheap to clone; clones share the source of jitter and the budget.
#[derive(Clone, Debug)]
pub struct Retry {
    inner: Arc<Inner>,
}

// Its budget, if it has one, is shared with others as a rule.
stateless!(Retry);

struct Inner {
    name: &'static str,
    max_attempts: u32,
    backoff: Backoff,
    throttled_backoff: Backoff,
    hint: HintRule,
    max_elapsed: Option<Duration>,
    budget: Option<RetryBudget>,
    retry_open_circuit: bool,
    wait_when_budget_empty: bool,
    delay: Option<Arc<DelayFn>>,
    on_retry: Option<Arc<RetryFn>>,
    rng: SharedRng,
    clock: ClockHandle,
}

type DelayFn = dyn Fn(&Retrying) -> Duration + Send + Sync;
type RetryFn = dyn Fn(&Retrying) + Send + Sync;

impl Retry {
    /// Sets everything that is not to be as by default.
    pub const fn builder() -> RetryBuilder {
        RetryBuilder::new()
    }

    /// The name in events.
    pub fn name(&self) -> &'static str {
        self.inner.name
    }

    /// How many attempts a call has, the first one included.
    pub fn max_attempts(&self) -> u32 {
        self.inner.max_attempts
    }

    /// The budget, if there is one.
    pub fn budget(&self) -> Option<&RetryBudget> {
        self.inner.budget.as_ref()
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
            .field("max_elapsed", &self.max_elapsed)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

/// A failed attempt that will be followed by another one. Passed to the hooks of a [`Retry`].
#[derive(Clone, Copy, Debug)]
pub struct Retrying {
    attempt: u32,
    verdict: Verdict,
    delay: Duration,
}

impl Retrying {
    /// The attempt that failed, from 1.
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// What was said about it.
    pub const fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// The wait before the next attempt: as computed, in a
    /// [`delay_with`](RetryBuilder::delay_with) hook, or as it will be, in an
    /// [`on_retry`](RetryBuilder::on_retry) hook.
    pub const fn delay(&self) -> Duration {
        self.delay
    }
}
