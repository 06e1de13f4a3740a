//! The permission to make one call.

use std::time::Duration;
use std::{fmt, mem};

use super::inner::Inner;
use super::ticket::{End, Ticket};
use crate::instant::Instant;
use crate::life::Life;
use crate::verdict::{Health, Verdict};

/// The permission to make one call, given by
/// [`CircuitBreaker::try_acquire`](super::CircuitBreaker::try_acquire).
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
    // Between the two words that are copied: side by side, they would be loaded as one of 16 bytes, which
    // stalls until the two stores before have reached the cache (10 ns a call).
    pub(super) life: Life,
    started: Instant,
}

impl<'a> Permit<'a> {
    #[inline]
    pub(super) const fn new(
        inner: &'a Inner,
        ticket: Ticket,
        started: Instant,
        life: Life,
    ) -> Self {
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
        Self::new(self.inner, self.ticket, self.started, self.life.take())
    }

    /// Whether this is a trial call of a half-open circuit.
    pub const fn is_probe(&self) -> bool {
        self.ticket.is_probe()
    }

    /// The call went well.
    #[inline]
    pub fn success(self) {
        let (inner, ticket, started) = self.into_parts();
        if !inner.is_settled(ticket) {
            inner.record_health(ticket, started, Health::Healthy);
        }
    }

    /// The call failed, and the dependency is to blame.
    #[inline]
    pub fn failure(self) {
        let (inner, ticket, started) = self.into_parts();
        inner.record_health(ticket, started, Health::Unhealthy);
    }

    /// The call ended with a result of this verdict: healthy is a success, unhealthy a failure,
    /// neutral nothing. A [`hint`](Verdict::hint) may lengthen the break it leads to.
    #[inline]
    pub fn record(self, verdict: Verdict) {
        let end = End {
            hint: verdict.hint(),
            ..End::UNKNOWN
        };
        self.end(verdict.health(), &end);
    }

    /// As [`record`](Self::record), for a call whose duration is known better than from the permit.
    pub fn record_taken(self, verdict: Verdict, took: Duration) {
        let end = End {
            took: Some(took),
            hint: verdict.hint(),
            ..End::UNKNOWN
        };
        self.end(verdict.health(), &end);
    }

    #[inline]
    fn end(self, health: Health, end: &End<'_>) {
        let (inner, ticket, started) = self.into_parts();
        if !(health == Health::Healthy && inner.is_settled(ticket)) {
            inner.record(ticket, started, health, end);
        }
    }

    /// What is needed to record the call, which the caller must do.
    #[inline(always)]
    pub(super) fn into_parts(self) -> (&'a Inner, Ticket, Instant) {
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
        let settings = self.inner.settings();
        let health = self
            .life
            .dropped_as(settings.cancelled_as, settings.panicked_as);
        self.inner.record_health(self.ticket, self.started, health);
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("name", &self.inner.base.name)
            .field("is_probe", &self.is_probe())
            .finish_non_exhaustive()
    }
}
