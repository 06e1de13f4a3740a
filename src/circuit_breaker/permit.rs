//! The permission to make one call.

use std::thread;
use std::time::Duration;

use super::CircuitBreaker;
use super::inner::{Inner, Listener, Ticket};
use crate::clock::{ClockHandle, Instant};
use crate::policy::{Health, Verdict};

/// The permission to make one call, given by [`CircuitBreaker::try_acquire`].
///
/// Say how the call went with [`success`](Self::success), [`failure`](Self::failure) or
/// [`record`](Self::record). Dropped without, it counts as
/// [`cancelled_as`](super::CircuitBreakerBuilder::cancelled_as) says, by default as nothing; dropped
/// by a panic, as [`panicked_as`](super::CircuitBreakerBuilder::panicked_as) says. A trial call's
/// place comes back in every case.
///
/// What is said of a call that began before the state changed changes nothing.
#[derive(Debug)]
#[must_use = "dropping it says nothing about the call"]
pub struct Permit<'a> {
    breaker: &'a CircuitBreaker,
    ticket: Ticket,
    started: Instant,
    /// The call is being polled: if it is dropped now, it panicked.
    pub(super) is_running: bool,
    /// A panic of the thread says nothing about the call.
    ignores_panics: bool,
    is_settled: bool,
}

impl<'a> Permit<'a> {
    #[inline]
    pub(super) const fn new(
        breaker: &'a CircuitBreaker,
        ticket: Ticket,
        started: Instant,
        ignores_panics: bool,
    ) -> Self {
        Self {
            breaker,
            ticket,
            started,
            is_running: false,
            ignores_panics,
            is_settled: false,
        }
    }

    /// Whether this is a trial call of a half-open circuit.
    pub const fn is_probe(&self) -> bool {
        self.ticket.probe != 0
    }

    /// The call went well.
    pub fn success(self) {
        self.record(Verdict::success());
    }

    /// The call failed, and the dependency is to blame.
    pub fn failure(self) {
        self.record(Verdict::failure());
    }

    /// The call ended with a result of this verdict: healthy is a success, unhealthy a failure,
    /// neutral nothing. A [`hint`](Verdict::hint) may lengthen the break it leads to.
    pub fn record(self, verdict: Verdict) {
        let breaker = self.breaker;
        self.finish(verdict, || breaker.inner.settings.clock.now(), None);
    }

    /// As [`record`](Self::record), for a call whose duration is known better than from the permit.
    pub fn record_taken(mut self, verdict: Verdict, took: Duration) {
        let inner = self.inner();
        self.is_settled = true;
        self.conclude(
            verdict.health(),
            Some(took),
            || inner.settings.clock.now(),
            verdict.hint(),
            None,
        );
    }

    #[inline]
    pub(super) fn finish(
        mut self,
        verdict: Verdict,
        now: impl Fn() -> Instant,
        listener: Listener<'_>,
    ) {
        self.is_settled = true;
        self.conclude(verdict.health(), None, now, verdict.hint(), listener);
    }

    /// Whether the end of the call must be timed.
    #[inline]
    pub(super) fn is_timed(&self) -> bool {
        self.inner().plan.needs_clock()
    }

    pub(super) fn clock(&self) -> &'a ClockHandle {
        &self.inner().settings.clock
    }

    #[inline]
    fn inner(&self) -> &'a Inner {
        &self.breaker.inner
    }

    #[inline]
    fn conclude(
        &self,
        health: Health,
        took: Option<Duration>,
        now: impl Fn() -> Instant,
        hint: Option<Duration>,
        listener: Listener<'_>,
    ) {
        let inner = self.inner();
        let failed = match health {
            Health::Healthy => false,
            Health::Unhealthy => true,
            Health::Neutral if self.ticket.probe == 0 => return,
            Health::Neutral => return inner.end_probe(self.ticket, None, now(), hint, listener),
        };
        if inner.plan.needs_clock() {
            let now = now();
            let took = took.unwrap_or_else(|| now.saturating_duration_since(self.started));
            let sample = inner.plan.sample(failed, took);
            inner.record(self.ticket, sample, || now, hint, listener);
        } else {
            let sample = inner.plan.sample(failed, Duration::ZERO);
            inner.record(self.ticket, sample, now, hint, listener);
        }
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        let settings = &self.inner().settings;
        let panicked = self.is_running || (!self.ignores_panics && thread::panicking());
        let health = if panicked {
            settings.panicked_as
        } else {
            settings.cancelled_as
        };
        self.conclude(health, None, || settings.clock.now(), None, None);
    }
}
