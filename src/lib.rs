//! Resilience for async Rust: circuit breaker, retry, rate limiter, bulkhead, timeout, hedging, load shedding, and
//! related policies, as plain values around plain closures.
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
//!     Err(e) if e.is_rejected() => eprintln!("no attempt was executed: {e}"),
//!     Err(e) => eprintln!("{e}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The type of that stack is `(Timeout, Retry, CircuitBreaker, RateLimiter, Timeout)`: it fits in a struct
//! field, and its error is one flat [`Error`] at any depth. For one dependency,
//! [`Standard`] is this stack as a single policy.
//!
//! # The patterns
//!
//! Each page has the defaults, a picture, and when not to use the pattern.
//!
//! | pattern | page | what it does |
//! |---|---|---|
//! | [`Standard`] | [standard] | Combines the five layers that most clients need, and reconfigures them while calls run. |
//! | [`Timeout`] | [timeout] | Limits a call or an attempt, and passes the deadline to nested calls. |
//! | [`Retry`] | [retry] | Repeats failures that are transient and safe to repeat. |
//! | [`RetryBudget`] | [retry_budget] | Limits retries and hedges to a share of the traffic, so that they do not become the outage. |
//! | [`CircuitBreaker`] | [circuit_breaker] | Fails fast while a dependency is down, and probes whether it is back. |
//! | [`RateLimiter`], [`KeyedRateLimiter`] | [rate_limiter] | Limits calls per unit of time, for all callers or for each key. |
//! | [`SharedRateLimiter`], [`SharedKeyedRateLimiter`] | [shared_rate_limiter] | Limits calls of all processes of a fleet per unit of time, mostly without a trip to the store. |
//! | [`SharedBulkhead`] | [shared_bulkhead] | Limits calls of a fleet in flight. |
//! | [`CircuitVotes`] | [circuit_votes] | Lets the breakers of a fleet learn from each other. |
//! | [`Bulkhead`] | [bulkhead] | Limits calls in flight; the limit can [adapt](bulkhead::limit). |
//! | [`LoadShedder`] | [load_shedder] | Rejects the least important calls of an overloaded server. |
//! | [`Throttle`] | [throttle] | Stops sending calls that an overloaded dependency would reject. |
//! | [`Hedge`] | [hedge] | Launches a second copy of a slow call, and returns the first good answer. |
//! | [`Endpoints`] | [endpoints] | Spreads calls over nodes, ejects those that fail, and sends the next attempt to another node. |
//! | [`Fallback`], [`Stale`] | [fallback] | Replaces an error by another value, another operation, or the last good value. |
//! | [`Coalesce`] | [coalesce] | Lets concurrent calls with one key share one execution. |
//! | [`DeadLetterQueue`] | [dead_letter] | Keeps the requests of calls that finally failed, and replays them. |
//! | `Chaos` (feature `chaos`) | [chaos](chaos/index.html) | Injects faults into a capped share of the calls. |
//! | [`Keyed`] | [keyed] | Gives each host, partition, or user its own policy, in bounded memory. |
//! | [`Classify`], [`Pipeline`] | [policy] | Assign verdicts to results; add a name, an observer, and options per call. |
//!
//! # Which of them?
//!
//! Three questions decide. Which side is overloaded, the dependency (they) or this process (we)? Which calls go
//! first: the important ones (order), or the same number for each user (share)? Is a call above the limit
//! dropped, or does it wait?
//!
//! | overloaded | order or share | drop | wait |
//! |---|---|---|---|
//! | they | neither: the dependency is down | [`CircuitBreaker`], then [`Fallback`] | [`Retry`] with a [`RetryBudget`] |
//! | they | neither: one node is | [`Endpoints`] | [`Hedge`] or [`Retry`] around [`Endpoints`] |
//! | they | neither: all callers are throttled | [`Throttle`] | [`RateLimiter`] with [`CubicRate`](adaptive_rate::CubicRate) |
//! | they | order of arrival | [`RateLimiter`], [`Bulkhead`] | the same with a wait queue |
//! | they | share | [`KeyedRateLimiter`] | the same with a wait queue |
//! | we | order of importance | [`LoadShedder`] | [`Bulkhead`] with a wait queue by priority |
//! | we | share | [`LoadShedder`] with fairness between users | [`Bulkhead`] with partitions |
//!
//! Use a [`Timeout`] against slow calls, and [`Coalesce`] against equal calls at the same time.
//! A request that must not be lost goes to a [`DeadLetterQueue`]. [Choosing](guide/choosing/index.html) starts
//! from symptoms.
//!
//! Coming from another library? [These pages](guide/migrate/index.html) show its code beside ours, and the differences.
//!
//! # Which order?
//!
//! As in the tuple above, from the outside in:
//!
//! 1. A [`Timeout`] for the whole call.
//! 2. The [`Retry`]: everything inside it applies to each attempt. A [`Hedge`] is placed directly inside it.
//! 3. The [`Throttle`] and the [`CircuitBreaker`]: they see every attempt, and an open circuit ends the
//!    retries.
//! 4. The [`Bulkhead`], then the [`RateLimiter`]: a call that the bulkhead rejects spends no token.
//! 5. [`Endpoints`]: each attempt picks a node.
//! 6. A [`Timeout`] for one attempt, shorter than the outer one. It does not include the waits in the queues
//!    outside it, and the breaker records it as a failure.
//! 7. [`Classify`], next to the operation, so that all other layers see its verdict.
//!
//! A [`Fallback`] or [`Stale`] is placed outside all of it; [`Coalesce`] directly inside the timeout of the whole
//! call. [`Pipeline::check`] lists known mistakes, and [Ordering](guide/ordering/index.html) has the reasons.
//!
//! In a server, a [`LoadShedder`] that decides by queue delay is placed directly **inside** the layer in which calls
//! wait, usually a [`Bulkhead`] with a wait queue: it sees the time from the start of a call until the call
//! reaches it. As the outermost layer it sees no delay and sheds nothing. With a signal of its own it may be placed
//! anywhere.
//!
//! # What does a rejection mean?
//!
//! **No attempt of this call was executed.** [`Error::is_rejected`] is true only then, so the request may be
//! sent elsewhere even if it is not idempotent. (The one exception is
//! [`return_rejection`](retry::RetryBuilder::return_rejection), off by default.) If a layer inside a retry rejects a
//! later attempt, the retry returns the error of the last executed attempt; the rejection goes to the observer and into
//! [`call_reported`](Policy::call_reported). [`Error::retry_after`] returns how long to wait until a call may be
//! admitted again, if the policy knows.
//!
//! # Time
//!
//! Every policy reads and waits on one clock, tokio's by default: under
//! `#[tokio::test(start_paused = true)]` everything runs in virtual time. [`ManualClock`] needs no runtime and
//! is deterministic. Without a runtime, [`Policy::call_blocking`] parks the thread.
//! [Testing](guide/testing/index.html) has examples.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `tokio` | yes | [`TokioClock`]; without it, supply a clock |
//! | `stream` | yes | [`Transitions`](circuit_breaker::Transitions) as a `Stream` |
//! | `fast-clock` | no | `FastClock`: reads the CPU's counter and keeps timers registered between calls |
//! | `chaos` | no | `Chaos`: fault injection |
//! | `config` | no | `config`: settings of every builder from files, stacks by name, live reload; snapshots as serde values |
//! | `schema` | no | `config::schema`: the JSON schema of these files |
//! | `http` | no | `http`: verdicts of responses, `Retry-After`, rate limits, deadlines, and keys in headers |
//! | `tower` | no | `tower`: layers for tower services, such as those of axum |
//! | `dead-letter-file` | no | `FileSink`: dead letters survive the process |
//! | `metrics` | no | `metrics::Metrics`: counters, histograms, and gauges for the crate `metrics` |
//! | `tracing` | no | `tracing::EventLog`, `CallSpan`, and `AttemptSpan` for the crate `tracing` |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

// First, because later modules use its macro.
#[macro_use]
mod setters;

pub mod adaptive_rate;
pub mod backoff;
mod base;
mod blocking;
pub mod bulkhead;
#[cfg(feature = "chaos")]
pub mod chaos;
pub mod circuit_breaker;
pub mod circuit_votes;
mod clock;
pub mod coalesce;
pub mod codel;
#[cfg(feature = "config")]
pub mod config;
mod coop;
pub mod dead_letter;
pub mod deadline;
mod debug;
pub mod endpoints;
mod error;
pub mod event;
pub mod fallback;
#[cfg(feature = "config")]
mod forms;
pub mod guide;
pub mod hedge;
#[cfg(feature = "http")]
pub mod http;
mod instant;
pub mod keyed;
mod life;
pub mod load_shedder;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(any(feature = "metrics", feature = "tracing"))]
mod names;
pub mod policy;
mod priority;
pub mod rate_limiter;
pub mod retry;
pub mod retry_budget;
mod rng;
pub mod shared_bulkhead;
pub mod shared_rate_limiter;
pub mod standard;
pub mod store;
mod striped;
mod sync;
pub mod throttle;
pub mod timeout;
#[cfg(feature = "tower")]
pub mod tower;
#[cfg(feature = "tracing")]
pub mod tracing;
mod unwind_safe;
mod verdict;
mod versions;
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
pub use self::standard::Standard;
pub use self::throttle::Throttle;
pub use self::timeout::Timeout;
pub use self::verdict::{ErrorClass, Health, RetryAdvice, Verdict};

/// Runs the README's examples as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
