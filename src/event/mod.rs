//! Events of policies, and the observers that receive them.
//!
//! A [`Pipeline`](crate::Pipeline) or a [`Standard`](crate::Standard) with an [`Observer`] passes it inwards, so every
//! layer of its stack reports to it, also those that [`around`](crate::Pipeline::around) puts inside. Layers beside it in
//! a tuple are no part of its stack: `hedge` in `(standard, hedge)` reports to a pipeline around the tuple. Most handles
//! take an observer of their own too, which receives the events of all their calls. Without an observer an event costs
//! one branch and no allocation. The layers of a pipeline inside another one report to its own observer alone, if it has
//! one.
//!
//! Every call through a pipeline with an observer ends in exactly one
//! [`CallFinished`](Event::CallFinished): whether it succeeded, failed, was rejected, was cancelled, or
//! panicked.
//!
//! # Order
//!
//! Observers are called outside locks, so events of two threads may arrive in the reverse order.
//! Handles number their events ([`Event::sequence`]):
//!
//! * [`CircuitChanged`](Event::CircuitChanged) and [`LimitChanged`](Event::LimitChanged) are numbered
//!   together with the change. The one with the largest number is the newest: its `to` is the current
//!   state. Sorted by number, each begins where the one before ended, if all of them have an observer.
//! * All other events are numbered when they are reported. An event that arrived before another one
//!   began has the smaller number. If a rejection races with a change, either may have it.
//! * Each event of a handle has a number of its own. The observer of a pipeline may find numbers missing:
//!   those of calls that use the handle in another way.
//! * The events of one call arrive in the order in which they happen.
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
//!     .with_name("github")
//!     .observer(move |event: &Event| {
//!         assert_eq!(event.pipeline(), Some("github"));
//!         log.lock().unwrap().push(event.to_string());
//!     });
//!
//! let _ = clock.block_on(pipeline.call(|| async { Err::<(), _>("down") }));
//! assert_eq!(*lines.lock().unwrap(), [
//!     "retry: attempt 1 failed, next in 0ns",
//!     "retry: attempt 2 failed, next in 0ns",
//!     "retry: stopped after 3 attempts: max attempts",
//!     "github: failed after 3 attempts in 0ns",
//! ]);
//! # Ok::<(), backstop::ConfigError>(())
//! ```

use std::time::Duration;

use crate::error::{Reason, Rejected, TimedOut};
use crate::verdict::Verdict;

mod circuit;
mod config;
mod count;
mod dead_letter;
mod display;
mod ending;
mod endpoint;
mod hedge;
mod observer;
mod panics;
mod store;

pub use self::circuit::{Cause, State, Transition};
pub use self::config::ConfigEvent;
pub use self::dead_letter::{Eviction, LetterEvent};
pub use self::ending::{Ending, StopReason};
pub use self::endpoint::{EjectionCause, EndpointEvent, NodeName, Unenforced};
pub use self::hedge::{HedgeCause, HedgeEvent, NotSent};
pub use self::observer::{Listener, Observer};
pub(crate) use self::panics::Panics;
pub use self::store::StoreEvent;

/// An action or a decision of a policy.
///
/// `Display` writes one line that begins with the policy's name.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A call through a pipeline with an observer ended. Each such call ends in exactly one.
    #[non_exhaustive]
    CallFinished {
        /// The name of the pipeline.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
        /// The ending of the call.
        ending: Ending,
        /// Number of times the operation was started. Zero if no attempt of the call was executed. In a pipeline inside a
        /// hedge, those of one copy.
        attempts: u32,
        /// Time from the start of the call to its end, waits included.
        elapsed: Duration,
    },
    /// An attempt failed, or a layer inside the retry rejected it, and another one follows.
    #[non_exhaustive]
    RetryScheduled {
        /// The name of the retry.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
        /// The attempt, from 1. Rejected ones are counted too.
        attempt: u32,
        /// Why a layer inside rejected the attempt; `None` if it was executed.
        rejected: Option<Reason>,
        /// The wait before the next attempt.
        delay: Duration,
        /// The verdict on the attempt.
        verdict: Verdict,
    },
    /// An attempt failed, or a layer inside the retry rejected it, and no other follows.
    #[non_exhaustive]
    RetryStopped {
        /// The name of the retry.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
        /// The last attempt, from 1. Rejected ones are counted too.
        attempt: u32,
        /// Number of attempts that were executed: not rejected by a layer inside.
        executed: u32,
        /// Why no other attempt follows.
        stop: StopReason,
    },
    /// A timeout cut an operation off.
    #[non_exhaustive]
    TimedOut {
        /// The name of the timeout.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
        /// The time the operation was given.
        limit: Duration,
    },
    /// A policy rejected a call.
    #[non_exhaustive]
    Rejected {
        /// The name of the policy.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
        /// The reason.
        reason: Reason,
        /// Time after which a call may be admitted, if known.
        retry_after: Option<Duration>,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// A policy in shadow mode would have rejected a call.
    #[non_exhaustive]
    WouldReject {
        /// The name of the policy.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
        /// The reason.
        reason: Reason,
        /// Time after which a call may be admitted, if known.
        retry_after: Option<Duration>,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// A call was admitted after it had waited for its turn.
    #[non_exhaustive]
    Waited {
        /// The name of the policy.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
        /// Time from joining the wait queue to admission.
        waited: Duration,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// The concurrency limit of a bulkhead changed.
    #[non_exhaustive]
    LimitChanged {
        /// The name of the bulkhead.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
        /// The limit before.
        from: u32,
        /// The limit from now on.
        to: u32,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// A throttle admitted a call that it would have rejected, because it has admitted none for too long.
    #[non_exhaustive]
    ProbeForced {
        /// The name of the throttle.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// A circuit breaker changed its state.
    #[non_exhaustive]
    CircuitChanged {
        /// The name of the breaker.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
        /// The change.
        change: Transition,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// A rule matches in a metrics-only circuit breaker. Reported once for each rule.
    #[non_exhaustive]
    CircuitWouldOpen {
        /// The name of the breaker.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
        /// The rule.
        cause: Cause,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// The state of an endpoint changed, or of all endpoints of a priority.
    #[non_exhaustive]
    Endpoint {
        /// The name of the set of endpoints.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
        /// The event.
        event: EndpointEvent,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// A fault was injected into a call.
    #[non_exhaustive]
    ChaosInjected {
        /// The name of the injector.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
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
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
        /// The action.
        event: LetterEvent,
    },
    /// A hedge launched a copy of a call or did not, or a call with copies ended.
    #[non_exhaustive]
    Hedge {
        /// The name of the hedge.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
        /// The action.
        event: HedgeEvent,
    },
    /// The store of a shared limit was lost, or is back.
    #[non_exhaustive]
    Store {
        /// The name of the policy.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
        /// The change.
        event: StoreEvent,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// A registry of clients applied or rejected settings.
    #[non_exhaustive]
    Config {
        /// The name of the registry.
        policy: &'static str,
        /// Always `None`.
        pipeline: Option<&'static str>,
        /// The event.
        event: ConfigEvent,
        /// See [`Event::sequence`].
        sequence: u64,
    },
    /// A fallback replaced an error.
    #[non_exhaustive]
    FallbackUsed {
        /// The name of the fallback.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
        /// The ending of the call inside.
        ending: Ending,
    },
    /// A stale value was returned in place of an error.
    #[non_exhaustive]
    ServedStale {
        /// The name of the policy.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
        /// The ending of the call inside.
        ending: Ending,
        /// The age of the value.
        age: Duration,
    },
    /// A call got the result of another call with the same key.
    #[non_exhaustive]
    Coalesced {
        /// The name of the policy.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
        /// Time that the call waited.
        waited: Duration,
    },
    /// The call that executed the operation for others was dropped, so a waiting call took over.
    #[non_exhaustive]
    LeaderPromoted {
        /// The name of the policy.
        policy: &'static str,
        /// See [`Event::pipeline`].
        pipeline: Option<&'static str>,
    },
}

/// Evaluates to a field that all variants have.
macro_rules! shared {
    ($event:expr, $field:ident) => {
        match $event {
            Event::CallFinished { $field, .. }
            | Event::RetryScheduled { $field, .. }
            | Event::RetryStopped { $field, .. }
            | Event::TimedOut { $field, .. }
            | Event::Rejected { $field, .. }
            | Event::WouldReject { $field, .. }
            | Event::Waited { $field, .. }
            | Event::LimitChanged { $field, .. }
            | Event::ProbeForced { $field, .. }
            | Event::CircuitChanged { $field, .. }
            | Event::CircuitWouldOpen { $field, .. }
            | Event::Endpoint { $field, .. }
            | Event::ChaosInjected { $field, .. }
            | Event::DeadLetter { $field, .. }
            | Event::Hedge { $field, .. }
            | Event::Store { $field, .. }
            | Event::Config { $field, .. }
            | Event::FallbackUsed { $field, .. }
            | Event::ServedStale { $field, .. }
            | Event::Coalesced { $field, .. }
            | Event::LeaderPromoted { $field, .. } => $field,
        }
    };
}

/// Evaluates to the number of an event in the sequence of its handle; `None` for variants without one.
macro_rules! sequence {
    ($event:expr) => {
        match $event {
            Event::Rejected { sequence, .. }
            | Event::WouldReject { sequence, .. }
            | Event::Waited { sequence, .. }
            | Event::LimitChanged { sequence, .. }
            | Event::ProbeForced { sequence, .. }
            | Event::CircuitChanged { sequence, .. }
            | Event::CircuitWouldOpen { sequence, .. }
            | Event::Endpoint { sequence, .. }
            | Event::ChaosInjected { sequence, .. }
            | Event::Store { sequence, .. }
            | Event::Config { sequence, .. } => Some(sequence),
            _ => None,
        }
    };
}

impl Event {
    /// Returns the name of the policy, for the label `policy` of metrics.
    pub const fn policy(&self) -> &'static str {
        shared!(self, policy)
    }

    /// Returns the name of the pipeline that the call goes through, for the label `pipeline` of metrics:
    /// that of the innermost pipeline with an observer.
    ///
    /// The observer of a handle receives it too. `None` for calls that go through no such pipeline, and for
    /// changes that are not part of a call.
    pub const fn pipeline(&self) -> Option<&'static str> {
        *shared!(self, pipeline)
    }

    /// Returns the event as one of a call through the pipeline of this name.
    pub(crate) const fn through(mut self, name: Option<&'static str>) -> Self {
        if name.is_some() {
            *shared!(&mut self, pipeline) = name;
        }
        self
    }

    /// Returns the kind of event as an identifier, for the label `kind` of metrics.
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
            Self::Config { event, .. } => event.kind(),
            Self::FallbackUsed { .. } => "fallback_used",
            Self::ServedStale { .. } => "served_stale",
            Self::Coalesced { .. } => "coalesced",
            Self::LeaderPromoted { .. } => "leader_promoted",
        }
    }

    /// Returns the number of the event in the sequence of its handle, from 1. `None` for events of a single call
    /// (retries, timeouts, ends of calls), of dead letter queues, and of a [`Guard`](crate::policy::Guard).
    ///
    /// Only events with an observer are numbered. See [Order](self#order).
    pub const fn sequence(&self) -> Option<u64> {
        match sequence!(self) {
            None | Some(0) => None,
            Some(number) => Some(*number),
        }
    }

    /// Returns the event with this number, if events of its kind have one.
    pub(crate) const fn numbered(mut self, number: u64) -> Self {
        if let Some(sequence) = sequence!(&mut self) {
            *sequence = number;
        }
        self
    }

    pub(crate) const fn rejected(rejected: &Rejected) -> Self {
        Self::Rejected {
            policy: rejected.policy(),
            pipeline: None,
            reason: rejected.reason(),
            retry_after: rejected.retry_after(),
            sequence: 0,
        }
    }

    pub(crate) const fn would_reject(rejected: &Rejected) -> Self {
        Self::WouldReject {
            policy: rejected.policy(),
            pipeline: None,
            reason: rejected.reason(),
            retry_after: rejected.retry_after(),
            sequence: 0,
        }
    }

    pub(crate) const fn waited(policy: &'static str, waited: Duration) -> Self {
        Self::Waited {
            policy,
            pipeline: None,
            waited,
            sequence: 0,
        }
    }

    pub(crate) const fn timed_out(timed_out: &TimedOut) -> Self {
        Self::TimedOut {
            policy: timed_out.policy(),
            pipeline: None,
            limit: timed_out.limit(),
        }
    }
}
