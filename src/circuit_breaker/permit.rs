//! Permits for single calls.

use std::time::Duration;
use std::{fmt, mem};

use super::inner::Inner;
use super::ticket::{Finish, Ticket};
use crate::instant::Instant;
use crate::life::Life;
use crate::verdict::{Health, Verdict};

/// A permit for one call, returned by
/// [`CircuitBreaker::try_acquire`](super::CircuitBreaker::try_acquire).
///
/// Record the result with [`success`](Self::success), [`failure`](Self::failure), or
/// [`record`](Self::record). A permit that is dropped without a result counts as
/// [`cancelled_as`](super::CircuitBreakerBuilder::cancelled_as) (by default, it is not counted); one that is
/// dropped by a panic counts as [`panicked_as`](super::CircuitBreakerBuilder::panicked_as). A probe is
/// released in every case.
///
/// Results of calls that began before the state changed are ignored.
#[must_use = "a dropped permit records no result"]
pub struct Permit<'a> {
    inner: &'a Inner,
    ticket: Ticket,
    // Between the two words that are moved: if they were adjacent, they would be loaded as one 16-byte value,
    // and store forwarding from the two stores before fails (10 ns a call).
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

    /// Moves the permit of a policy out, and leaves one that has ended. The life is a new one, so that it is not loaded
    /// together with its neighbors either.
    #[inline(always)]
    pub(super) const fn move_out(&mut self) -> Self {
        self.life.end();
        Self::new(self.inner, self.ticket, self.started, Life::of_policy())
    }

    /// Returns whether this call is a probe: it was admitted by a half-open circuit.
    pub const fn is_probe(&self) -> bool {
        self.ticket.is_probe()
    }

    /// Records a success.
    #[inline]
    pub fn success(self) {
        self.finish(Health::Healthy, &Finish::UNKNOWN);
    }

    /// Records a failure of the dependency.
    #[inline]
    pub fn failure(self) {
        self.finish(Health::Unhealthy, &Finish::UNKNOWN);
    }

    /// Records a result by its verdict: healthy is a success, unhealthy a failure, and neutral is not
    /// counted. The verdict's [`hint`](Verdict::hint) may lengthen the break if the circuit opens.
    #[inline]
    pub fn record(self, verdict: Verdict) {
        let finish = Finish {
            hint: verdict.hint(),
            ..Finish::UNKNOWN
        };
        self.finish(verdict.health(), &finish);
    }

    /// Records a result like [`record`](Self::record), with the duration that the caller has measured. By
    /// default the duration is the time since the permit was returned.
    pub fn record_with_duration(self, verdict: Verdict, duration: Duration) {
        let finish = Finish {
            duration: Some(duration),
            hint: verdict.hint(),
            ..Finish::UNKNOWN
        };
        self.finish(verdict.health(), &finish);
    }

    #[inline(always)]
    fn finish(self, health: Health, finish: &Finish<'_>) {
        let (inner, ticket, started) = self.into_parts();
        if !(health == Health::Healthy && inner.success_changes_nothing(ticket)) {
            inner.record(ticket, started, health, finish);
        }
    }

    /// Takes the permit apart. The caller must record the result.
    #[inline(always)]
    pub(super) fn into_parts(self) -> (&'a Inner, Ticket, Instant) {
        let parts = (self.inner, self.ticket, self.started);
        // Forgotten, so that it is not counted twice. It owns nothing.
        mem::forget(self);
        parts
    }
}

impl Drop for Permit<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if !self.life.is_over() {
            self.abandon();
        }
    }
}

impl Permit<'_> {
    /// Records a permit that was dropped without a result. Cold, because it is called wherever a permit may be
    /// dropped, which is rare.
    #[cold]
    fn abandon(&self) {
        let settings = self.inner.settings();
        let health = self
            .life
            .dropped_as(settings.cancelled_as, settings.panicked_as);
        if health == Health::Neutral && !self.ticket.is_probe() {
            return;
        }
        // A panic of the clock must not lose a probe.
        self.inner.base.at_now_or(self.started, |now| {
            let finish = Finish {
                now: Some(now),
                ..Finish::UNKNOWN
            };
            self.inner
                .record(self.ticket, self.started, health, &finish);
        });
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
