//! What policies tell about themselves while they work.
//!
//! A [`Pipeline`](crate::Pipeline) with an [`Observer`] passes it inwards, so every layer of its
//! stack reports to it. Without one an event costs one branch and no allocation. Observers are
//! called outside all locks: they may use the handles they hear about. The layers of a
//! pipeline inside another one report to its own observer alone, if it has one.
//!
//! # Order
//!
//! Observers are called outside locks, so of two events of two threads the later one may be heard
//! first. Handles number their events ([`Event::sequence`]):
//!
//! * [`CircuitChanged`](Event::CircuitChanged) and [`LimitChanged`](Event::LimitChanged) are numbered
//!   together with the change. The one with the largest number is the newest: its `to` is the current
//!   state. Sorted by number, each begins where the one before ended, if all of them have an observer.
//! * All other events are numbered when they are told. An event that was heard before another one began has
//!   the smaller number; of a rejection and a change that race either may have it.
//! * Each event of a handle has a number of its own. Numbers may be missing: an observer of a pipeline
//!   hears only its calls, not those of others.
//! * The events of one call are heard in the order in which they happen.
//!
//! # Example
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use backstop::{Backoff, Event, ManualClock, Pipeline, Policy, Retry};
//!
//! let clock = ManualClock::new();
//! let retry = Retry::builder().backoff(Backoff::NONE).clock(clock.clone()).build()?;
//! let lines = Arc::new(Mutex::new(Vec::new()));
//! let log = lines.clone();
//! let pipeline = Pipeline::new(retry)
//!     .named("github")
//!     .observer(move |event: &Event| log.lock().unwrap().push(event.to_string()));
//!
//! let _ = clock.block_on(pipeline.call(|| async { Err::<(), _>("down") }));
//! assert_eq!(*lines.lock().unwrap(), [
//!     "retry: attempt 1 failed, next in 0ns",
//!     "retry: attempt 2 failed, next in 0ns",
//!     "retry: stopped after attempt 3: max_attempts",
//!     "github: failed after 3 attempts in 0ns",
//! ]);
//! # Ok::<(), backstop::ConfigError>(())
//! ```

use std::fmt;
use std::time::Duration;

use crate::error::{Error, Reason, Rejected, TimedOut};
use crate::verdict::Verdict;

mod circuit;
mod dead_letter;
mod endpoint;
mod hedge;
mod store;
mod tell;

pub use self::circuit::{Cause, State, Transition};
pub use self::dead_letter::{Eviction, LetterEvent};
pub use self::endpoint::{EjectionCause, EndpointEvent, NodeName, Unenforced};
pub use self::hedge::{HedgeCause, HedgeEvent, NotSent};
pub use self::store::StoreEvent;
pub(crate) use self::tell::Panics;

/// Hears what policies do.
///
/// Every `Fn(&Event)` is one. It is called while a call is being polled, so it should be quick; it
/// is called outside locks, so it may use any handle.
pub trait Observer: Send + Sync {
    /// Called once for each event.
    fn on_event(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync> Observer for F {
    fn on_event(&self, event: &Event) {
        self(event);
    }
}

/// Who listens to one call: nobody, which is `()`, or an [`Observer`].
///
/// A type of its own, so that a call nobody listens to carries nothing for it. See
/// [`Operation::listener`](crate::Operation::listener).
pub trait Listener: Copy {
    /// The observer, if there is one.
    fn observer<'a>(self) -> Option<&'a dyn Observer>
    where
        Self: 'a;
}

/// Nobody listens.
impl Listener for () {
    #[inline(always)]
    fn observer<'a>(self) -> Option<&'a dyn Observer> {
        None
    }
}

impl Listener for &dyn Observer {
    #[inline(always)]
    fn observer<'a>(self) -> Option<&'a dyn Observer>
    where
        Self: 'a,
    {
        Some(self)
    }
}

/// Something a policy did.
///
/// `Display` is one line that begins with the policy's name.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A call through a pipeline ended.
    #[non_exhaustive]
    CallFinished {
        /// The name of the pipeline.
        policy: &'static str,
        /// How it ended.
        ending: Ending,
        /// How many times the operation was started. Zero when the call was refused at once.
        attempts: u32,
        /// From the start of the call to its end, waits included.
        elapsed: Duration,
    },
    /// An attempt failed and another one will be made.
    #[non_exhaustive]
    RetryScheduled {
        /// The name of the retry.
        policy: &'static str,
        /// The attempt that failed, from 1.
        attempt: u32,
        /// The wait before the next.
        delay: Duration,
        /// What was said about the failed attempt.
        verdict: Verdict,
    },
    /// An attempt failed and it was the last.
    #[non_exhaustive]
    RetryStopped {
        /// The name of the retry.
        policy: &'static str,
        /// The last attempt, from 1.
        attempt: u32,
        /// Why no other is made.
        stop: StopReason,
    },
    /// A timeout cut an operation off.
    #[non_exhaustive]
    TimedOut {
        /// The name of the timeout.
        policy: &'static str,
        /// The time the operation was given.
        limit: Duration,
    },
    /// A policy refused a call.
    #[non_exhaustive]
    Rejected {
        /// The name of the policy.
        policy: &'static str,
        /// Why.
        reason: Reason,
        /// When to come back, if known.
        retry_after: Option<Duration>,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// A policy in shadow mode would have refused a call.
    #[non_exhaustive]
    WouldReject {
        /// The name of the policy.
        policy: &'static str,
        /// Why.
        reason: Reason,
        /// When to come back, if known.
        retry_after: Option<Duration>,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// A call was admitted after it had waited for its turn.
    #[non_exhaustive]
    Waited {
        /// The name of the policy.
        policy: &'static str,
        /// From its arrival in the wait queue until its admission.
        waited: Duration,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// The concurrency limit of a bulkhead changed.
    #[non_exhaustive]
    LimitChanged {
        /// The name of the bulkhead.
        policy: &'static str,
        /// The limit before.
        from: u32,
        /// The limit from now on.
        to: u32,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// A throttle let a call through that it should have refused, because none was for too long.
    #[non_exhaustive]
    ProbeForced {
        /// The name of the throttle.
        policy: &'static str,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// A circuit breaker changed its state.
    #[non_exhaustive]
    CircuitChanged {
        /// The name of the breaker.
        policy: &'static str,
        /// The change.
        change: Transition,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// A rule of a circuit breaker holds that counts but never opens. Once for each rule.
    #[non_exhaustive]
    CircuitWouldOpen {
        /// The name of the breaker.
        policy: &'static str,
        /// The rule.
        cause: Cause,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// Something happened to an endpoint, or to all endpoints of a priority.
    #[non_exhaustive]
    Endpoint {
        /// The name of the set of endpoints.
        policy: &'static str,
        /// What happened.
        event: EndpointEvent,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// A fault was injected into a call.
    #[non_exhaustive]
    ChaosInjected {
        /// The name of the injector.
        policy: &'static str,
        /// The kind of fault, as an identifier such as `latency`.
        fault: &'static str,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// A dead letter queue stored, evicted, parked or replayed letters.
    #[non_exhaustive]
    DeadLetter {
        /// The name of the queue.
        policy: &'static str,
        /// What it did.
        event: LetterEvent,
    },
    /// A hedge launched a copy of a call or did not, or a call with copies ended.
    #[non_exhaustive]
    Hedge {
        /// The name of the hedge.
        policy: &'static str,
        /// What it did.
        event: HedgeEvent,
    },
    /// The store of a shared limit was lost, or is back.
    #[non_exhaustive]
    Store {
        /// The name of the policy.
        policy: &'static str,
        /// What happened.
        event: StoreEvent,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// A fallback replaced an error.
    #[non_exhaustive]
    FallbackUsed {
        /// The name of the fallback.
        policy: &'static str,
        /// How the call inside ended.
        ending: Ending,
    },
    /// A stale value was returned in place of an error.
    #[non_exhaustive]
    ServedStale {
        /// The name of the policy.
        policy: &'static str,
        /// How the call inside ended.
        ending: Ending,
        /// The age of the value.
        age: Duration,
    },
    /// A call got the result of another call with the same key.
    #[non_exhaustive]
    Coalesced {
        /// The name of the policy.
        policy: &'static str,
        /// How long it waited.
        waited: Duration,
    },
    /// The call that executed the operation for others was cancelled, so that one of them executes it.
    #[non_exhaustive]
    LeaderPromoted {
        /// The name of the policy.
        policy: &'static str,
    },
}

impl Event {
    /// The name of the policy, for the label `policy` of metrics.
    pub const fn policy(&self) -> &'static str {
        match self {
            Self::CallFinished { policy, .. }
            | Self::RetryScheduled { policy, .. }
            | Self::RetryStopped { policy, .. }
            | Self::TimedOut { policy, .. }
            | Self::Rejected { policy, .. }
            | Self::WouldReject { policy, .. }
            | Self::Waited { policy, .. }
            | Self::LimitChanged { policy, .. }
            | Self::ProbeForced { policy, .. }
            | Self::CircuitChanged { policy, .. }
            | Self::CircuitWouldOpen { policy, .. }
            | Self::Endpoint { policy, .. }
            | Self::ChaosInjected { policy, .. }
            | Self::DeadLetter { policy, .. }
            | Self::Hedge { policy, .. }
            | Self::Store { policy, .. }
            | Self::FallbackUsed { policy, .. }
            | Self::ServedStale { policy, .. }
            | Self::Coalesced { policy, .. }
            | Self::LeaderPromoted { policy } => policy,
        }
    }

    /// The kind of event as an identifier, for the label `kind` of metrics.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::CallFinished { .. } => "call_finished",
            Self::RetryScheduled { .. } => "retry_scheduled",
            Self::RetryStopped { .. } => "retry_stopped",
            Self::TimedOut { .. } => "timed_out",
            Self::Rejected { .. } => "rejected",
            Self::WouldReject { .. } => "would_reject",
            Self::Waited { .. } => "waited",
            Self::LimitChanged { .. } => "limit_changed",
            Self::ProbeForced { .. } => "probe_forced",
            Self::CircuitChanged { .. } => "circuit_changed",
            Self::CircuitWouldOpen { .. } => "circuit_would_open",
            Self::Endpoint { event, .. } => event.kind(),
            Self::ChaosInjected { .. } => "chaos_injected",
            Self::DeadLetter { event, .. } => event.kind(),
            Self::Hedge { event, .. } => event.kind(),
            Self::Store { event, .. } => event.kind(),
            Self::FallbackUsed { .. } => "fallback_used",
            Self::ServedStale { .. } => "served_stale",
            Self::Coalesced { .. } => "coalesced",
            Self::LeaderPromoted { .. } => "leader_promoted",
        }
    }

    /// Returns the number of the event among those of the handle that made it, from 1. `None` for
    /// events of a single call (retries, timeouts, ends of calls), of dead letter queues, and of a
    /// [`Guard`](crate::policy::Guard).
    ///
    /// Only events with an observer have a number. See [Order](self#order) for what it says.
    pub const fn sequence(&self) -> Option<u64> {
        let sequence = match self {
            Self::Rejected { sequence, .. }
            | Self::WouldReject { sequence, .. }
            | Self::Waited { sequence, .. }
            | Self::LimitChanged { sequence, .. }
            | Self::ProbeForced { sequence, .. }
            | Self::CircuitChanged { sequence, .. }
            | Self::CircuitWouldOpen { sequence, .. }
            | Self::Endpoint { sequence, .. }
            | Self::Store { sequence, .. }
            | Self::ChaosInjected { sequence, .. } => *sequence,
            _ => 0,
        };
        if sequence == 0 { None } else { Some(sequence) }
    }

    /// Numbers the event, if it is one of a handle.
    pub(crate) const fn numbered(mut self, number: u64) -> Self {
        match &mut self {
            Self::Rejected { sequence, .. }
            | Self::WouldReject { sequence, .. }
            | Self::Waited { sequence, .. }
            | Self::LimitChanged { sequence, .. }
            | Self::ProbeForced { sequence, .. }
            | Self::CircuitChanged { sequence, .. }
            | Self::CircuitWouldOpen { sequence, .. }
            | Self::Endpoint { sequence, .. }
            | Self::Store { sequence, .. }
            | Self::ChaosInjected { sequence, .. } => *sequence = number,
            _ => {}
        }
        self
    }

    pub(crate) const fn rejected(rejected: &Rejected) -> Self {
        Self::Rejected {
            policy: rejected.policy(),
            reason: rejected.reason(),
            retry_after: rejected.retry_after(),
            sequence: 0,
        }
    }

    pub(crate) const fn would_reject(rejected: &Rejected) -> Self {
        Self::WouldReject {
            policy: rejected.policy(),
            reason: rejected.reason(),
            retry_after: rejected.retry_after(),
            sequence: 0,
        }
    }

    pub(crate) const fn waited(policy: &'static str, waited: Duration) -> Self {
        Self::Waited {
            policy,
            waited,
            sequence: 0,
        }
    }

    pub(crate) const fn timed_out(timed_out: &TimedOut) -> Self {
        Self::TimedOut {
            policy: timed_out.policy(),
            limit: timed_out.limit(),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CallFinished {
                policy,
                ending,
                attempts,
                elapsed,
            } => write!(
                f,
                "{policy}: {ending} after {attempts} attempts in {elapsed:?}"
            ),
            Self::RetryScheduled {
                policy,
                attempt,
                delay,
                ..
            } => write!(f, "{policy}: attempt {attempt} failed, next in {delay:?}"),
            Self::RetryStopped {
                policy,
                attempt,
                stop,
            } => write!(f, "{policy}: stopped after attempt {attempt}: {stop}"),
            Self::TimedOut { policy, limit } => write!(f, "{policy}: timed out after {limit:?}"),
            Self::Rejected {
                policy,
                reason,
                retry_after: None,
                ..
            } => write!(f, "{policy}: rejected a call: {reason}"),
            Self::Rejected {
                policy,
                reason,
                retry_after: Some(after),
                ..
            } => write!(
                f,
                "{policy}: rejected a call: {reason}, retry after {after:?}"
            ),
            Self::WouldReject { policy, reason, .. } => {
                write!(f, "{policy}: would have rejected a call: {reason}")
            }
            Self::Waited { policy, waited, .. } => {
                write!(f, "{policy}: admitted a call after it waited {waited:?}")
            }
            Self::LimitChanged {
                policy, from, to, ..
            } => {
                write!(f, "{policy}: limit changed from {from} to {to}")
            }
            Self::ProbeForced { policy, .. } => {
                write!(f, "{policy}: let a call through as a probe")
            }
            Self::CircuitChanged { policy, change, .. } => write!(f, "{policy}: {change}"),
            Self::CircuitWouldOpen { policy, cause, .. } => {
                write!(f, "{policy}: would open: {cause}")
            }
            Self::Endpoint { policy, event, .. } => write!(f, "{policy}: {event}"),
            Self::ChaosInjected { policy, fault, .. } => write!(f, "{policy}: injected {fault}"),
            Self::DeadLetter { policy, event } => write!(f, "{policy}: {event}"),
            Self::Hedge { policy, event } => write!(f, "{policy}: {event}"),
            Self::Store { policy, event, .. } => write!(f, "{policy}: {event}"),
            Self::FallbackUsed { policy, ending } => {
                write!(f, "{policy}: replaced the result of a call that {ending}")
            }
            Self::ServedStale {
                policy,
                ending,
                age,
            } => write!(
                f,
                "{policy}: returned a value of {age:?} ago for a call that {ending}"
            ),
            Self::Coalesced { policy, waited } => {
                write!(
                    f,
                    "{policy}: shared the result of another call after {waited:?}"
                )
            }
            Self::LeaderPromoted { policy } => {
                write!(f, "{policy}: a waiting call took over the execution")
            }
        }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// With a value.
    Succeeded,
    /// With the operation's error.
    Failed,
    /// With a timeout.
    TimedOut,
    /// With a refusal.
    Rejected(Reason),
}

impl Ending {
    /// How a call with this result ended.
    pub const fn of<T, E>(result: &Result<T, Error<E>>) -> Self {
        match result {
            Ok(_) => Self::Succeeded,
            Err(Error::Operation(_)) => Self::Failed,
            Err(Error::TimedOut(_)) => Self::TimedOut,
            Err(Error::Rejected(rejected)) => Self::Rejected(rejected.reason()),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeded => f.write_str("succeeded"),
            Self::Failed => f.write_str("failed"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Rejected(reason) => write!(f, "rejected ({reason})"),
        }
    }
}

/// Why a retry made no further attempt after one that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StopReason {
    /// The verdict says that another attempt would not help.
    NotRetryable,
    /// The operation is not idempotent and may have been executed.
    NotIdempotent,
    /// The operation cannot be run again.
    NotRepeatable,
    /// All attempts are used up.
    MaxAttempts,
    /// The next attempt would start after the longest time the retry may take.
    MaxElapsed,
    /// The next attempt would start after the call's deadline.
    Deadline,
    /// The server asked for a longer wait than the retry obeys.
    HintTooLong,
    /// The retry budget is empty.
    BudgetEmpty,
}

impl StopReason {
    /// The reason as an identifier for logs and metrics, such as `max_attempts`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotRetryable => "not_retryable",
            Self::NotIdempotent => "not_idempotent",
            Self::NotRepeatable => "not_repeatable",
            Self::MaxAttempts => "max_attempts",
            Self::MaxElapsed => "max_elapsed",
            Self::Deadline => "deadline",
            Self::HintTooLong => "hint_too_long",
            Self::BudgetEmpty => "budget_empty",
        }
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
