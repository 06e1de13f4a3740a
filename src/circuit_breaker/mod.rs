//! Circuit breakers: calls to a dependency that is down are rejected at once.
#![doc = include_str!("../../docs/patterns/circuit-breaker.md")]

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Rejected;
use crate::instant::Instant;
use crate::keyed::{Evictable, is_unshared};
use crate::life::Life;
use crate::striped::StripedCounter;
use crate::sync::{Ordering, cold_path};

mod admission;
mod config;
mod health_check;
mod hold;
mod inner;
#[cfg(all(test, backstop_loom))]
mod loom_tests;
mod permit;
mod policy;
mod recording;
mod replacement;
mod settings;
mod snapshot;
mod state;
#[cfg(all(test, not(backstop_loom)))]
mod tests;
mod ticket;
mod transitions;

pub use self::config::CircuitBreakerBuilder;
pub use self::permit::Permit;
pub use self::snapshot::Snapshot;
pub use self::state::{HalfOpen, Trip};
pub use self::transitions::Transitions;
pub use crate::event::{Cause, State, Transition};
pub use crate::window::Counts;

use self::hold::Hold;
use self::inner::Inner;
use self::ticket::Ticket;

/// Rejects calls to a dependency that is down. See the [module page](self).
///
/// Cheap to clone; clones share one circuit.
#[derive(Clone)]
pub struct CircuitBreaker {
    inner: Arc<Inner>,
}

impl CircuitBreaker {
    /// Returns the name in errors, events, and snapshots.
    pub fn name(&self) -> &'static str {
        if self.inner.packed_state(Ordering::Acquire).is_replaced() {
            cold_path();
            return self.in_force().inner.base.name;
        }
        self.inner.base.name
    }

    /// Returns whether this is a clone of `other`.
    pub(crate) fn is_clone_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Returns whether the breaker counts all calls. With only a rule on consecutive failures, it does not. Never
    /// changes.
    pub(crate) fn counts_calls(&self) -> bool {
        self.inner.terms().rules.has_window()
    }

    /// Admits one call, for code that is not a closure. The result is recorded through the permit.
    ///
    /// # Errors
    ///
    /// If the circuit is open, paused, or isolated, or half-open with all probes in flight; of some calls during a
    /// ramp-up. `retry_after` is the exact rest of the break or the pause, if it is known.
    ///
    /// # Examples
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
        let inner = &*self.inner;
        // Acquire pairs with `publish`, so calls record into window sets that have been cleared.
        let state = inner.packed_state(Ordering::Acquire);
        let (mut ticket, mut started) = (Ticket(state), Instant::ORIGIN);
        // One place constructs permits, so that the code after it is compiled once.
        if !state.is_closed_and_untimed() {
            cold_path();
            if !state.admits_all() {
                (ticket, started) = match inner.admit_at(state) {
                    Ok(admitted) => admitted,
                    Err(rejection) => return Err(rejection.by(inner.base.name)),
                };
            } else if inner.needs_clock() {
                started = inner.now();
            }
        }
        Ok(Permit::new(inner, ticket, started, Life::of_handle()))
    }

    /// Returns the state as last decided: a break that is over counts as open until the next call. Costs one load.
    pub fn state(&self) -> State {
        // Acquire: a thread that observes a state also observes what led to it.
        let state = self.inner.packed_state(Ordering::Acquire);
        if state.is_replaced() {
            cold_path();
            return self.in_force().inner.state();
        }
        state.state()
    }

    /// Returns the state that a call would find now: half-open if a break is over, open if the half-open phase is
    /// over. Changes nothing.
    pub fn peek(&self) -> State {
        let inner = self.in_force().inner;
        let now = inner.base.clock.now();
        inner.read(|machine| machine.state_at(now))
    }

    /// Returns a stream of the transitions from now on.
    ///
    /// # Examples
    ///
    /// ```
    /// use backstop::circuit_breaker::State;
    /// use backstop::{CircuitBreaker, ManualClock};
    ///
    /// let clock = ManualClock::new();
    /// let breaker = CircuitBreaker::builder().clock(clock.clone()).build()?;
    /// let mut transitions = breaker.subscribe();
    /// breaker.trip();
    /// let change = clock.block_on(transitions.next()).expect("the breaker exists");
    /// assert_eq!((change.from, change.to), (State::Closed, State::Open));
    /// # Ok::<(), backstop::ConfigError>(())
    /// ```
    pub fn subscribe(&self) -> Transitions {
        let transitions = Transitions::new();
        self.add_subscription(transitions.subscription());
        transitions
    }

    /// Opens the circuit for the length of the next break, also from disabled and metrics-only, in place of a break
    /// or a pause in force.
    pub fn trip(&self) {
        // Beyond a few races, the function that computes the length changes the circuit itself.
        const RACES: u32 = 8;
        let (mut inner, mut races) = (self.in_force().inner, 0);
        loop {
            let now = inner.base.clock.now();
            let mut opening = inner.read(|machine| machine.trip_manually(now));
            let length = inner.break_length(&opening, None);
            let opened = inner.with_machine_in_force(now, |machine| {
                if races >= RACES {
                    opening = machine.trip_manually(now);
                }
                machine.open(opening, length)
            });
            match opened {
                Ok(true) => return,
                Ok(false) => races += 1,
                Err(next) => inner = next,
            }
        }
    }

    /// Opens the circuit for this long, in place of a break or a pause in force. [`Duration::MAX`] has no end.
    /// A [health check](Self::check_with) does not end it.
    pub fn trip_for(&self, length: Duration) {
        self.change(|machine, now| {
            let opening = machine.trip_manually(now);
            let length = state::BreakLength {
                length,
                without_checks: length,
                progress: opening.progress,
            };
            machine.open(opening, length);
        });
    }

    /// Makes the circuit half-open: the next calls are probes.
    pub fn half_open(&self) {
        self.change(|machine, now| machine.half_open(Cause::Manual, now));
    }

    /// Rejects all calls for this long, whatever a [health check](Self::check_with) says. See
    /// [`pause_until`](Self::pause_until).
    pub fn pause_for(&self, length: Duration) {
        self.change(|machine, now| machine.pause(now + length, now));
    }

    /// Rejects all calls until `until`, for example because a server stated when to retry. Of several pauses and the
    /// break of an open circuit, the one that ends last applies.
    ///
    /// The circuit is open during a pause, and half-open afterwards. Breaks do not grow by it. A circuit that
    /// is [disabled](Self::disable) or [metrics-only](Self::metrics_only) is not paused.
    ///
    /// # Examples
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

    /// Closes the circuit with empty windows and the configured ramp-up, like successful probes. Ends
    /// [`disable`](Self::disable) and [`metrics_only`](Self::metrics_only).
    pub fn close(&self) {
        self.change(|machine, now| machine.close(Cause::Manual, true, now));
    }

    /// Closes the circuit with empty windows and no ramp-up, as if it had just been built. An isolation lasts until
    /// its handle is dropped.
    pub fn reset(&self) {
        self.change(|machine, now| machine.close(Cause::Manual, false, now));
    }

    /// Admits all calls and counts nothing, until [`close`](Self::close), [`reset`](Self::reset), or another manual
    /// change.
    pub fn disable(&self) {
        self.change(|machine, now| machine.admit_all(false, now));
    }

    /// Admits all calls and counts them, but never opens, until [`close`](Self::close), [`reset`](Self::reset), or
    /// another manual change. Each rule that matches is reported once as
    /// [`Event::CircuitWouldOpen`](crate::Event::CircuitWouldOpen).
    pub fn metrics_only(&self) {
        self.change(|machine, now| machine.admit_all(true, now));
    }

    /// Rejects all calls until the returned handle, and every other one, is dropped. Then the breaker continues
    /// in the state it was in; a half-open circuit starts its probes again.
    ///
    /// Results of calls that were in flight are ignored.
    ///
    /// # Examples
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
        // Created first, so the isolation ends if an observer panics.
        let isolation = Isolation {
            breaker: self.in_force(),
            hold: Arc::default(),
        };
        let mut breaker = isolation.breaker.clone();
        loop {
            breaker.isolate_with(&isolation.hold);
            // Replaced before the isolation began: the new breaker does not know it.
            match breaker.successor() {
                Some(next) => breaker = next,
                None => return isolation,
            }
        }
    }

    /// Returns a consistent reading of the breaker. Changes nothing.
    pub fn snapshot(&self) -> Snapshot {
        let inner = &*self.in_force().inner;
        let now = inner.base.clock.now();
        inner.read(|machine| {
            let (counts, min_calls) = inner.counts(machine, now);
            // While health checks suspend probes, this is still the end of the break, so that a restored breaker
            // continues the break.
            let until = machine.phase().break_ends().unwrap_or(Instant::ORIGIN);
            let retry_after = until.saturating_duration_since(now);
            let (probes_in_flight, probes_free) = machine.probes(now);
            let consecutive = inner.consecutive_failures(machine);
            let rejections = inner.rejections.get().map_or(0, StripedCounter::sum);
            let shadow = inner.base.shadow;
            Snapshot {
                name: inner.base.name,
                state: machine.state(),
                underlying: machine.underlying(),
                generation: machine.number_of_changes(),
                in_state: now.saturating_duration_since(machine.since()),
                retry_after: (until != Instant::FAR_FUTURE).then_some(retry_after),
                consecutive_trips: machine.trips(),
                calls: counts.calls,
                failures: counts.failures,
                slow: counts.slow,
                slow_failures: counts.slow_failures,
                total_duration: inner
                    .terms()
                    .rules
                    .tracks_durations()
                    .then_some(counts.total_duration),
                min_calls,
                consecutive_failures: u32::try_from(consecutive).unwrap_or(u32::MAX),
                rejected: if shadow { 0 } else { rejections },
                would_reject: if shadow { rejections } else { 0 },
                probes_in_flight,
                probes_free,
            }
        })
    }

    /// Changes the machine of the breaker in force.
    fn change(&self, change: impl Fn(&mut state::Machine, Instant)) {
        let mut inner = self.in_force().inner;
        loop {
            let now = inner.base.clock.now();
            match inner.with_machine_in_force(now, |machine| change(machine, now)) {
                Ok(()) => return,
                Err(next) => inner = next,
            }
        }
    }

    /// Changes the machine in a drop.
    fn change_in_drop(&self, change: impl FnOnce(&mut state::Machine, Instant)) {
        self.inner.base.at_now_or(Instant::ORIGIN, |now| {
            self.inner
                .with_machine(None, now, |machine| change(machine, now));
        });
    }
}

/// A breaker is evictable if it is equal to a new one, or its history is older than its rules can see, and no other
/// handle or subscription exists.
impl Evictable for CircuitBreaker {
    fn evictable_in(&self) -> Option<Duration> {
        if !is_unshared(&self.inner) {
            return None;
        }
        let now = self.inner.base.clock.now();
        let evictable_at = self.inner.evictable_at(now)?;
        Some(evictable_at.saturating_duration_since(now))
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

/// Isolates a circuit until it is dropped. Returned by [`CircuitBreaker::isolate`].
///
/// Breakers that replace this one in a [`Standard`](crate::Standard) stay isolated as well.
#[must_use = "dropping it ends the isolation"]
pub struct Isolation {
    breaker: CircuitBreaker,
    hold: Arc<Hold>,
}

impl fmt::Debug for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Isolation")
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}
