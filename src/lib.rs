//! Resilience for async Rust: circuit breaker, retry, rate limiter, bulkhead, timeout, load shedding
//! and their relatives, as plain values around plain closures.
//!
//! ```
//! use std::time::Duration;
//! use backstop::{Backoff, CircuitBreaker, Error, Policy, Quota, RateLimiter, Retry, Timeout};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), backstop::ConfigError> {
//! // Built once. A tuple of policies is a policy; the first is the outermost.
//! let stack = (
//!     Timeout::after(Duration::from_secs(10)), // the whole call, retries included
//!     Retry::builder()
//!         .max_attempts(4)
//!         .backoff(Backoff::exponential(Duration::from_millis(100)))
//!         .build()?,
//!     CircuitBreaker::builder().build()?, // sees every attempt
//!     RateLimiter::builder().quota(Quota::per_second(100)).build()?,
//!     Timeout::after(Duration::from_secs(2)), // one attempt
//! );
//!
//! match stack.call(|| async { Ok::<_, std::io::Error>("hello") }).await {
//!     Ok(text) => assert_eq!(text, "hello"),
//!     Err(Error::Operation(e)) => eprintln!("the operation's own error, untouched: {e}"),
//!     Err(e) if e.is_rejected() => eprintln!("never reached the dependency: {e}"),
//!     Err(e) => eprintln!("{e}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The type of that stack is `(Timeout, Retry, CircuitBreaker, RateLimiter, Timeout)`: it fits in a
//! struct field, and its error is one flat [`Error`] at any depth.
//!
//! # The patterns
//!
//! | pattern | what it does |
//! |---|---|
//! | [`Timeout`] | cuts an operation off when its time is up |
//! | [`Retry`] | repeats what is transient and safe to repeat |
//! | [`RetryBudget`] | keeps retries from becoming the outage |
//! | [`CircuitBreaker`] | fails fast while a dependency is down, and finds out when it is back |
//! | [`Keyed`] | gives each host, partition or user a policy of its own |
//! | [`RateLimiter`], [`KeyedRateLimiter`] | no more than so much in so much time |
//! | [`SharedRateLimiter`], [`SharedKeyedRateLimiter`] | one rate limit for all processes of a fleet |
//! | [`SharedBulkhead`], [`CircuitVotes`] | one bulkhead, and circuits that learn from each other, for a fleet |
//! | [`Bulkhead`] | no more than so much at once, with limits that adapt |
//! | [`LoadShedder`] | drops the least important under overload |
//! | [`Endpoints`] | spreads calls over nodes, without those that fail, and tries another one next |
//! | [`Throttle`] | stops sending what the dependency would refuse anyway |
//! | [`Hedge`] | a second copy of a slow call, and the faster answer counts |
//! | [`Fallback`], [`Stale`] | another value, another operation, or the last good value in place of an error |
//! | [`Coalesce`] | concurrent calls with one key share one execution |
//! | [`DeadLetterQueue`] | keeps the requests of calls that finally failed, and replays them |
//! | `Chaos` (feature `chaos`) | injects faults into a capped share of the calls |
//! | [`Classify`] | says what results mean |
//! | [`Pipeline`] | adds a name, an observer, and options for single calls |
//!
//! # Which order?
//!
//! As in the tuple above, from the outside in:
//!
//! 1. A [`Timeout`] for the whole call.
//! 2. The [`Retry`], so that everything inside it applies to each attempt.
//! 3. The [`Throttle`] and the [`CircuitBreaker`]: they see every attempt, and an open circuit ends the
//!    retries.
//! 4. The [`RateLimiter`] and the [`Bulkhead`]: what they hold is not taken by calls that a layer
//!    outside refuses.
//! 5. A [`Timeout`] for one attempt, shorter than the one outside. It does not count the waits in the
//!    queues outside it, and the breaker sees it as a failure.
//! 6. [`Classify`], next to the operation, so that all others see its verdict.
//!
//! A [`Fallback`] or [`Stale`] stands outside all of it. [`Coalesce`] stands directly inside the timeout of the
//! whole call, and a [`Hedge`] directly inside the retry.
//!
//! A server puts a [`LoadShedder`] directly inside the layer in which calls wait, usually a [`Bulkhead`]
//! with a queue: it sheds by the time that calls have waited before it, so outermost it sees none. With a
//! signal of its own it can stand outermost.
//!
//! [`Pipeline::check`] lists known mistakes in the order of a stack.
//!
//! # Time
//!
//! Every policy reads and waits on one clock, tokio's by default: under
//! `#[tokio::test(start_paused = true)]` everything runs in virtual time. [`ManualClock`] needs no
//! runtime and is deterministic. Without a runtime, [`Policy::call_blocking`] parks the thread.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `tokio` | yes | [`TokioClock`]; without it you supply a clock of your own |
//! | `stream` | yes | [`Transitions`](circuit_breaker::Transitions) as a `Stream` |
//! | `fast-clock` | no | [`FastClock`]: the CPU's counter, and timers that stay registered |
//! | `chaos` | no | [`chaos::Chaos`]: faults on purpose |
//! | `dead-letter-file` | no | [`dead_letter::FileSink`]: dead letters survive the process |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

// First, for what comes after it to see its macro.
#[macro_use]
mod setters;

pub mod adaptive_rate;
pub mod backoff;
mod base;
pub mod bulkhead;
#[cfg(feature = "chaos")]
pub mod chaos;
pub mod circuit_breaker;
pub mod circuit_votes;
mod clock;
pub mod coalesce;
pub mod codel;
mod coop;
pub mod dead_letter;
pub mod deadline;
pub mod endpoints;
mod error;
pub mod event;
pub mod fallback;
pub mod guide;
pub mod hedge;
mod instant;
pub mod keyed;
mod life;
pub mod load_shedder;
pub mod policy;
mod priority;
pub mod rate_limiter;
pub mod retry;
pub mod retry_budget;
mod rng;
pub mod shared_bulkhead;
pub mod shared_rate_limiter;
pub mod store;
mod striped;
mod sync;
pub mod throttle;
pub mod timeout;
mod verdict;
mod window;

pub use self::backoff::{Backoff, Jitter};
pub use self::bulkhead::Bulkhead;
#[cfg(feature = "chaos")]
pub use self::chaos::Chaos;
pub use self::circuit_breaker::CircuitBreaker;
pub use self::circuit_votes::CircuitVotes;
#[cfg(feature = "fast-clock")]
pub use self::clock::FastClock;
#[cfg(feature = "tokio")]
pub use self::clock::TokioClock;
pub use self::clock::{BlockingClock, Clock, ClockHandle, ManualClock, Sleep};
pub use self::coalesce::Coalesce;
pub use self::dead_letter::DeadLetterQueue;
pub use self::endpoints::Endpoints;
pub use self::error::{ConfigError, Error, PolicyError, Reason, Rejected, TimedOut};
pub use self::event::{Event, Listener, Observer};
pub use self::fallback::{Fallback, MaybeStale, Stale};
pub use self::hedge::Hedge;
pub use self::instant::Instant;
pub use self::keyed::Keyed;
pub use self::load_shedder::LoadShedder;
pub use self::policy::{
    Attempt, BoxPolicy, CallOptions, Classified, Classify, ClassifyErrors, Context, Inspect,
    Operation, Outcome, Pipeline, Policy, Report,
};
pub use self::priority::Priority;
pub use self::rate_limiter::{KeyedRateLimiter, Quota, RateLimiter};
pub use self::retry::{HintRule, Retry};
pub use self::retry_budget::RetryBudget;
pub use self::shared_bulkhead::SharedBulkhead;
pub use self::shared_rate_limiter::{SharedKeyedRateLimiter, SharedRateLimiter};
pub use self::throttle::Throttle;
pub use self::timeout::Timeout;
pub use self::verdict::{ErrorClass, Health, RetryAdvice, Verdict};

/// The README's examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
