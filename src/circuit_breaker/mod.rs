//! Circuit breakers: calls to a dependency that is down fail at once.
//!
//! # What it protects
//!
//! The caller, which no longer waits for what will fail; and the dependency, which gets the quiet it
//! needs to recover, and then a few trial calls instead of everybody at once.
//!
//! ```text
//!              a rule holds                       the break is over, a call comes
//!   ┌────────┐ ───────────► ┌──────┐ ─────────────────────────► ┌───────────┐
//!   │ Closed │              │ Open │                            │ Half-open │
//!   └────────┘              └──────┘ ◄───────────────────────── └───────────┘
//!        ▲                             the trial calls fail           │
//!        └────────────────────────────────────────────────────────────┘
//!                               the trial calls succeed
//! ```
//!
//! # When not to use it
//!
//! * Around what cannot be down, such as a computation in memory.
//! * One breaker for many hosts or partitions: one bad host closes the door to all. Use
//!   [`Keyed`](crate::Keyed).
//! * Against a dependency that is slow because of you: a bulkhead or a rate limiter fits better.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use backstop::circuit_breaker::{State, Trip};
//! use backstop::{Backoff, CircuitBreaker, Jitter, ManualClock, Policy, Reason};
//!
//! let clock = ManualClock::new();
//! let breaker = CircuitBreaker::builder()
//!     .trip_on(Trip::consecutive(3))
//!     .break_for(Backoff::fixed(Duration::from_secs(5)).jitter(Jitter::None))
//!     .clock(clock.clone())
//!     .build()?;
//!
//! for _ in 0..3 {
//!     let _ = clock.block_on(breaker.call(|| async { Err::<(), _>("down") }));
//! }
//! let error = clock.block_on(breaker.call(|| async { Ok::<_, &str>(()) })).unwrap_err();
//! assert_eq!(error.reason(), Some(Reason::CircuitOpen));
//! assert_eq!(error.retry_after(), Some(Duration::from_secs(5)));
//!
//! clock.advance(Duration::from_secs(5));
//! for _ in 0..2 {
//!     let _ = clock.block_on(breaker.call(|| async { Ok::<_, &str>(()) }));
//! }
//! assert_eq!(breaker.state(), State::Closed);
//! # Ok::<(), backstop::ConfigError>(())
//! ```
//!
//! # Defaults
//!
//! | setting | default |
//! |---|---|
//! | `trip_on` | failure rate 0.5 within 30 s in 10 slices, at least 20 calls |
//! | `slow_call` | off |
//! | `break_for` | 5 s, ×2 for each failed half-open, cap 300 s, equal jitter |
//! | `half_open` | 2 successes of 3 |
//! | `permitted_calls` | 3 at a time |
//! | `probe_lease` | the break before it, from 1 s to 300 s; 60 s if there was none |
//! | `ramp_up` | none |
//! | `cancelled_as`, `panicked_as` | neutral, unhealthy |
//! | `name` | `circuit_breaker` |
//! | `clock` | tokio's |
//!
//! All of them: [`CircuitBreakerBuilder`].
//!
//! # What counts
//!
//! The health in the verdict ([`Verdict`](crate::Verdict)), which a [`Classify`](crate::Classify)
//! inside may set. Without one every error of the operation and every timeout is a failure. Refusals
//! of inner layers and calls that were cancelled say nothing. A panic is a failure.
//!
//! A call belongs to the state it began in: a result that comes after the state has changed changes
//! nothing, so a slow answer from before an outage cannot decide the trial.
//!
//! # With its neighbours
//!
//! * **Inside a retry** it sees every attempt, and an open circuit ends the retries. Outside, it
//!   sees one result where there were three failures.
//! * **A timeout inside** makes hanging calls failures. A timeout outside only cancels them, which
//!   says nothing.
//! * **A rate limiter or bulkhead inside** may refuse: that does not count.
//! * **A fallback outside** answers while the circuit is open.
//!
//! # How it works
//!
//! State and generation are one atomic word; a call into a closed circuit costs a load of it at its
//! start and one at its end. Windows are lock-free and constant in size
//! ([`Trip`] says what they cost). Transitions and trial calls take a short lock, under which none of
//! your code runs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Rejected;
use crate::instant::Instant;
use crate::keyed::{Evictable, is_unshared};

mod admit;
mod config;
mod inner;
#[cfg(all(test, backstop_loom))]
mod loom_tests;
mod permit;
mod policy;
mod probe;
mod settings;
mod snapshot;
mod state;
#[cfg(all(test, not(backstop_loom)))]
mod tests;
mod ticket;
mod watch;

pub use self::config::CircuitBreakerBuilder;
pub use self::permit::Permit;
pub use self::snapshot::Snapshot;
pub use self::state::{HalfOpen, Trip};
pub use self::watch::Transitions;
pub use crate::event::{Cause, State, Transition};
pub use crate::window::Counts;

use self::inner::Inner;

/// Refuses calls to a dependency that is down. See the [module page](self).
///
/// Cheap to clone; clones are one breaker.
#[derive(Clone)]
pub struct CircuitBreaker {
    inner: Arc<Inner>,
}

impl CircuitBreaker {
    /// The name in errors and events.
    pub fn name(&self) -> &'static str {
        self.inner.base.name
    }

    /// Whether this is a clone of `other`.
    pub(crate) fn is_clone_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Asks to make one call, for code that is no closure.
    ///
    /// # Errors
    ///
    /// When the circuit is open, or half-open with all its trial calls taken, or isolated. The
    /// refusal says when to come back where that is known: to the nanosecond for an open circuit.
    ///
    /// # Example
    ///
    /// ```
    /// use backstop::{CircuitBreaker, ManualClock};
    ///
    /// let breaker = CircuitBreaker::builder().clock(ManualClock::new()).build()?;
    /// let permit = breaker.try_acquire().expect("the circuit is closed");
    /// match std::fs::read_to_string("Cargo.toml") {
    ///     Ok(_) => permit.success(),
    ///     Err(_) => permit.failure(),
    /// }
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    #[inline]
    pub fn try_acquire(&self) -> Result<Permit<'_>, Rejected> {
        self.inner.acquire()
    }

    /// The state as last decided: a break that is over is still open until a call comes. Costs one
    /// load.
    pub fn state(&self) -> State {
        self.inner.state()
    }

    /// The state that a call arriving now would meet: a break that is over is half-open to it, and a
    /// half-open circuit whose time is over is open. Changes nothing.
    pub fn peek(&self) -> State {
        let now = self.inner.base.clock.now();
        self.inner.look(|machine| machine.met(now))
    }

    /// Follows the transitions from now on. See [`Transitions`].
    ///
    /// # Example
    ///
    /// ```
    /// use backstop::circuit_breaker::State;
    /// use backstop::{CircuitBreaker, ManualClock};
    ///
    /// let clock = ManualClock::new();
    /// let breaker = CircuitBreaker::builder().clock(clock.clone()).build()?;
    /// let mut transitions = breaker.subscribe();
    /// breaker.trip();
    /// let change = clock.block_on(transitions.next()).expect("the breaker lives");
    /// assert_eq!((change.from, change.to), (State::Closed, State::Open));
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub fn subscribe(&self) -> Transitions {
        let transitions = Transitions::new();
        self.inner.add_watcher(transitions.watcher());
        transitions
    }

    /// Opens the circuit, for as long as the next break is. Also one that was disabled.
    pub fn trip(&self) {
        let now = self.inner.base.clock.now();
        loop {
            let due = self.inner.look(|machine| machine.trip_manually(now));
            if self.inner.open(due, None, None, now) {
                return;
            }
        }
    }

    /// Opens the circuit for a time. [`Duration::MAX`] is for ever.
    pub fn trip_for(&self, length: Duration) {
        self.change(|machine, now| {
            let due = machine.trip_manually(now);
            let progress = due.progress;
            machine.open(due, state::BreakLength { length, progress });
        });
    }

    /// Makes the circuit half-open: the next calls are trial calls.
    pub fn half_open(&self) {
        self.change(|machine, now| machine.half_open(Cause::Manual, now));
    }

    /// Rejects all calls for a time, as [`pause_until`](Self::pause_until).
    pub fn pause_for(&self, length: Duration) {
        self.change(|machine, now| machine.pause(now + length, now));
    }

    /// Rejects all calls until then, for example because a server said when to come back. Of several
    /// pauses, and the break of an open circuit, the one that ends last counts.
    ///
    /// The circuit is open meanwhile, and half-open afterwards. Breaks do not grow by it. A circuit
    /// that admits all calls by hand ([`disable`](Self::disable),
    /// [`metrics_only`](Self::metrics_only)) is not paused.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use backstop::{CircuitBreaker, ManualClock};
    ///
    /// let clock = ManualClock::new();
    /// let breaker = CircuitBreaker::builder().clock(clock.clone()).build()?;
    /// breaker.pause_for(Duration::from_secs(30));
    /// breaker.pause_for(Duration::from_secs(10));
    /// let rejected = breaker.try_acquire().unwrap_err();
    /// assert_eq!(rejected.retry_after(), Some(Duration::from_secs(30)));
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub fn pause_until(&self, until: Instant) {
        self.change(|machine, now| machine.pause(until, now));
    }

    /// Closes the circuit, with empty windows, as trial calls that succeed do: with a ramp-up, if
    /// there is one. Ends [`disable`](Self::disable) and [`metrics_only`](Self::metrics_only) too.
    pub fn close(&self) {
        self.change(|machine, now| machine.close(Cause::Manual, true, now));
    }

    /// Closes the circuit and forgets everything, as if it had just been built. An isolation goes on
    /// until its handle is dropped.
    pub fn reset(&self) {
        self.change(|machine, now| machine.close(Cause::Manual, false, now));
    }

    /// Lets all calls through and counts nothing, until [`close`](Self::close),
    /// [`reset`](Self::reset) or another change by hand.
    pub fn disable(&self) {
        self.change(|machine, now| machine.let_through(false, now));
    }

    /// Lets all calls through and counts them, but never opens, until [`close`](Self::close),
    /// [`reset`](Self::reset) or another change by hand. A rule that holds is reported once as
    /// [`Event::CircuitWouldOpen`](crate::Event::CircuitWouldOpen).
    pub fn metrics_only(&self) {
        self.change(|machine, now| machine.let_through(true, now));
    }

    /// Refuses all calls until the handle is dropped. Several handles nest: the last one ends it,
    /// and the breaker is as it was, but that a half-open circuit begins its trial anew.
    ///
    /// Results of calls in flight change nothing.
    ///
    /// # Example
    ///
    /// ```
    /// use backstop::{CircuitBreaker, ManualClock, Reason};
    ///
    /// let breaker = CircuitBreaker::builder().clock(ManualClock::new()).build()?;
    /// let maintenance = breaker.isolate();
    /// assert_eq!(breaker.try_acquire().unwrap_err().reason(), Reason::Isolated);
    /// drop(maintenance);
    /// assert!(breaker.try_acquire().is_ok());
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub fn isolate(&self) -> Isolation {
        let now = self.inner.base.now();
        // First, so that the isolation ends if an observer that hears of it panics.
        let isolation = Isolation {
            breaker: self.clone(),
        };
        self.inner
            .with_machine(None, now, |machine| machine.isolate(now));
        isolation
    }

    /// Returns a consistent reading of the breaker. Changes nothing.
    pub fn snapshot(&self) -> Snapshot {
        let inner = &*self.inner;
        let now = inner.base.clock.now();
        inner.look(|machine| {
            let (counts, min_calls) = inner.counts(machine, now);
            let until = match machine.underlying() {
                State::Open => machine.until(),
                _ => Instant::ORIGIN,
            };
            let retry_after = until.saturating_duration_since(now);
            let (probes_in_flight, probes_free) = machine.probes(now);
            let consecutive = inner.consecutive(machine);
            Snapshot {
                state: machine.state(),
                underlying: machine.underlying(),
                generation: machine.number_of_changes(),
                in_state: now.saturating_duration_since(machine.since()),
                retry_after: (until != Instant::FAR_FUTURE).then_some(retry_after),
                trips: machine.trips(),
                calls: counts.calls,
                failures: counts.failures,
                slow: counts.slow,
                slow_failures: counts.slow_failures,
                total_duration: inner.rules.tracks_durations().then_some(counts.took),
                min_calls,
                consecutive_failures: u32::try_from(consecutive).unwrap_or(u32::MAX),
                rejected: inner.rejected(),
                probes_in_flight,
                probes_free,
            }
        })
    }

    fn change(&self, change: impl FnOnce(&mut state::Machine, Instant)) {
        let now = self.inner.base.clock.now();
        self.inner
            .with_machine(None, now, |machine| change(machine, now));
    }
}

/// Cannot be told from a new one, or its history is older than its rules can see, and no other handle
/// or subscription exists.
impl Evictable for CircuitBreaker {
    fn evictable_in(&self) -> Option<Duration> {
        if !is_unshared(&self.inner) {
            return None;
        }
        let now = self.inner.base.clock.now();
        let forgettable_at = self.inner.forgettable_at(now)?;
        Some(forgettable_at.saturating_duration_since(now))
    }
}

impl fmt::Debug for CircuitBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreaker")
            .field("name", &self.name())
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// Keeps a circuit isolated for as long as it lives. Made by [`CircuitBreaker::isolate`].
#[derive(Debug)]
#[must_use = "dropping it ends the isolation"]
pub struct Isolation {
    breaker: CircuitBreaker,
}

impl Drop for Isolation {
    fn drop(&mut self) {
        self.breaker.change(state::Machine::end_isolation);
    }
}
