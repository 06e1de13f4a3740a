//! The permission to make one call.

use std::time::Duration;
use std::{fmt, mem};

use super::CircuitBreaker;
use super::inner::{Inner, Listener, Ticket};
use crate::clock::ClockHandle;
use crate::instant::Instant;
use crate::life::Life;
use crate::verdict::{Health, Verdict};

/// The permission to make one call, given by [`CircuitBreaker::try_acquire`].
///
/// Say how the call went with [`success`](Self::success), [`failure`](Self::failure) or
/// [`record`](Self::record). Dropped without, it counts as
/// [`cancelled_as`](super::CircuitBreakerBuilder::cancelled_as) says, by default as nothing; dropped
/// by a panic, as [`panicked_as`](super::CircuitBreakerBuilder::panicked_as) says. A trial call's
/// place comes back in every case.
///
/// What is said of a call that began before the state changed changes nothing.
#[must_use = "dropping it says nothing about the call"]
pub struct Permit<'a> {
    inner: &'a Inner,
    ticket: Ticket,
    started: Instant,
    pub(super) life: Life,
}

impl<'a> Permit<'a> {
    #[inline]
    pub(super) fn new(
        breaker: &'a CircuitBreaker,
        ticket: Ticket,
        started: Instant,
        life: Life,
    ) -> Self {
        Self::of(&breaker.inner, ticket, started, life)
    }

    #[inline]
    pub(super) const fn of(inner: &'a Inner, ticket: Ticket, started: Instant, life: Life) -> Self {
        Self {
            inner,
            ticket,
            started,
            life,
        }
    }

    /// Moves the permit; the one here has ended.
    #[inline(always)]
    pub(super) const fn move_out(&mut self) -> Self {
        Self::of(self.inner, self.ticket, self.started, self.life.take())
    }

    /// Whether this is a trial call of a half-open circuit.
    pub const fn is_probe(&self) -> bool {
        self.ticket.probe != 0
    }

    /// The call went well.
    #[inline]
    pub fn success(self) {
        let (inner, ticket, started) = self.into_parts();
        if !inner.is_settled(ticket) {
            inner.succeeded(ticket, started);
        }
    }

    /// The call failed, and the dependency is to blame.
    #[inline]
    pub fn failure(self) {
        let (inner, ticket, started) = self.into_parts();
        inner.failed(ticket, started);
    }

    /// The call ended with a result of this verdict: healthy is a success, unhealthy a failure,
    /// neutral nothing. A [`hint`](Verdict::hint) may lengthen the break it leads to.
    #[inline]
    pub fn record(self, verdict: Verdict) {
        let (inner, ticket, started) = self.into_parts();
        let is_good = matches!(verdict.health(), Health::Healthy);
        if !(is_good && inner.is_settled(ticket)) {
            inner.conclude(ticket, started, None, verdict, None, None);
        }
    }

    /// As [`record`](Self::record), for a call whose duration is known better than from the permit.
    pub fn record_taken(self, verdict: Verdict, took: Duration) {
        let (inner, ticket, started) = self.into_parts();
        inner.conclude(ticket, started, Some(took), verdict, None, None);
    }

    /// As [`record`](Self::record), where the permit stands: moving one that was just written costs more
    /// than all the rest.
    #[inline(always)]
    pub(super) fn finish_here(
        &mut self,
        verdict: Verdict,
        now: impl FnOnce(&ClockHandle) -> Instant,
        listener: Listener<'_>,
    ) {
        if !self.life.end() {
            return;
        }
        let inner = self.inner;
        if matches!(verdict.health(), Health::Healthy) && inner.is_settled(self.ticket) {
            return;
        }
        let now = self.is_timed().then(|| now(self.clock()));
        inner.conclude(self.ticket, self.started, None, verdict, now, listener);
    }

    /// Whether the end of the call must be timed.
    #[inline]
    pub(super) fn is_timed(&self) -> bool {
        self.inner.plan.needs_clock()
    }

    #[inline]
    pub(super) fn clock(&self) -> &'a ClockHandle {
        &self.inner.settings.clock
    }

    /// What is needed to conclude the call, which the caller must do.
    #[inline]
    fn into_parts(self) -> (&'a Inner, Ticket, Instant) {
        let parts = (self.inner, self.ticket, self.started);
        // Not dropped, so that it is not counted twice. There is nothing in it to be freed.
        mem::forget(self);
        parts
    }
}

impl Drop for Permit<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if !self.life.is_over() {
            self.give_up();
        }
    }
}

impl Permit<'_> {
    // Out of line: it stands wherever a permit may be dropped, and nearly none is.
    #[cold]
    fn give_up(&self) {
        let settings = &self.inner.settings;
        let health = self
            .life
            .dropped_as(settings.cancelled_as, settings.panicked_as);
        let verdict = Verdict::ignore().with_health(health);
        self.inner
            .conclude(self.ticket, self.started, None, verdict, None, None);
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("name", &self.inner.settings.name)
            .field("is_probe", &self.is_probe())
            .finish_non_exhaustive()
    }
}
