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

use crate::backoff::Backoff;
use crate::clock::ClockHandle;
use crate::error::Rejected;
use crate::event::Observer;
use crate::instant::Instant;
use crate::keyed::{Evictable, is_unshared};
use crate::verdict::Health;

mod admit;
mod config;
mod inner;
#[cfg(all(test, backstop_loom))]
mod loom_tests;
mod permit;
mod policy;
mod probe;
mod snapshot;
mod state;
#[cfg(all(test, not(backstop_loom)))]
mod tests;
mod trip;
mod watch;

pub use self::config::CircuitBreakerBuilder;
pub use self::permit::Permit;
pub use self::snapshot::Snapshot;
pub use self::trip::{HalfOpen, Trip};
pub use self::watch::Transitions;
pub use crate::event::{Cause, State, Transition};

use self::inner::Inner;
use self::state::{HalfOpenRules, Plan};

/// Refuses calls to a dependency that is down. See the [module page](self).
///
/// Cheap to clone; clones are one breaker.
#[derive(Clone)]
pub struct CircuitBreaker {
    inner: Arc<Inner>,
}

/// What does not change.
struct Settings {
    name: &'static str,
    break_for: Break,
    max_hint: Duration,
    ramp_up: Duration,
    cancelled_as: Health,
    panicked_as: Health,
    shadow: bool,
    observer: Option<Arc<dyn Observer>>,
    clock: ClockHandle,
}

/// How long the circuit stays open.
#[derive(Clone)]
enum Break {
    Backoff(Backoff),
    Custom(Arc<dyn Fn(u32, f64) -> Duration + Send + Sync>),
}

impl CircuitBreaker {
    /// Sets everything that is not to be as by default.
    pub const fn builder() -> CircuitBreakerBuilder {
        CircuitBreakerBuilder::new()
    }

    fn new(
        settings: Settings,
        plan: Plan,
        rules: HalfOpenRules,
        seed: Option<u64>,
        restore: Option<&Snapshot>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner::new(settings, plan, rules, seed, restore)),
        }
    }

    /// The name in errors and events.
    pub fn name(&self) -> &'static str {
        self.inner.settings.name
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
        let now = self.inner.settings.clock.now();
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
        let now = self.inner.settings.clock.now();
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
            machine.open(due, state::Break { length, progress });
        });
    }

    /// Makes the circuit half-open: the next calls are trial calls.
    pub fn half_open(&self) {
        self.change(|machine, now| machine.half_open(Inner::MANUAL, now));
    }

    /// Closes the circuit, with empty windows, as trial calls that succeed do: with a ramp-up, if
    /// there is one. Ends [`disable`](Self::disable) and [`metrics_only`](Self::metrics_only) too.
    pub fn close(&self) {
        self.change(|machine, now| machine.close(Inner::MANUAL, true, now));
    }

    /// Closes the circuit and forgets everything, as if it had just been built. An isolation goes on
    /// until its handle is dropped.
    pub fn reset(&self) {
        self.change(|machine, now| machine.close(Inner::MANUAL, false, now));
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
        self.change(state::Machine::isolate);
        Isolation {
            breaker: self.clone(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut state::Machine, Instant)) {
        let now = self.inner.settings.clock.now();
        self.inner
            .with_machine(None, now, |machine| change(machine, now));
    }
}

impl fmt::Debug for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backoff(backoff) => backoff.fmt(f),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}

/// Closed without failures, or its history is older than its rules can see.
impl Evictable for CircuitBreaker {
    fn evictable_in(&self) -> Option<Duration> {
        let inner = &*self.inner;
        if !is_unshared(&self.inner) || !inner.is_unwatched() {
            return None;
        }
        let (now, horizon) = (inner.settings.clock.now(), inner.plan.horizon());
        inner.look(|machine| {
            let forgettable_at = machine.forgettable_at(horizon)?;
            let is_closed = machine.underlying() == State::Closed;
            if is_closed && !inner.tally(machine).is_clean(now) {
                return Some(horizon);
            }
            Some(forgettable_at.saturating_duration_since(now))
        })
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
