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
    /// [`RUNNING`] and its like. A whole word, as permits are moved about, and a word written in
    /// parts is slow to read at once.
    flags: u64,
}

/// The operation's code runs: dropped meanwhile, it panicked.
const RUNNING: u64 = 1;
/// A panic of the thread says nothing about the call.
const IGNORES_PANICS: u64 = 2;
/// How the call ended is known.
const SETTLED: u64 = 4;

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
            flags: if ignores_panics { IGNORES_PANICS } else { 0 },
        }
    }

    /// Whether the operation's code runs: dropped meanwhile, it panicked.
    #[inline]
    pub(super) const fn set_running(&mut self, running: bool) {
        self.flags = (self.flags & !RUNNING) | if running { RUNNING } else { 0 };
    }

    /// Whether this is a trial call of a half-open circuit.
    pub const fn is_probe(&self) -> bool {
        self.ticket.probe != 0
    }

    /// The call went well.
    #[inline]
    pub fn success(self) {
        self.end(Verdict::success());
    }

    /// The call failed, and the dependency is to blame.
    #[inline(never)]
    pub fn failure(self) {
        self.end(Verdict::failure());
    }

    /// The call ended with a result of this verdict: healthy is a success, unhealthy a failure,
    /// neutral nothing. A [`hint`](Verdict::hint) may lengthen the break it leads to.
    #[inline]
    pub fn record(self, verdict: Verdict) {
        self.end(verdict);
    }

    #[inline(always)]
    fn end(mut self, verdict: Verdict) {
        let breaker = self.breaker;
        self.finish(verdict, || breaker.inner.settings.clock.now(), None);
    }

    /// As [`record`](Self::record), for a call whose duration is known better than from the permit.
    pub fn record_taken(mut self, verdict: Verdict, took: Duration) {
        let inner = self.inner();
        self.flags |= SETTLED;
        self.conclude(verdict, Some(took), || inner.settings.clock.now(), None);
    }

    #[inline(always)]
    pub(super) fn finish(
        &mut self,
        verdict: Verdict,
        now: impl Fn() -> Instant,
        listener: Listener<'_>,
    ) {
        self.flags |= SETTLED;
        self.conclude(verdict, None, now, listener);
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

    #[inline(always)]
    fn conclude(
        &self,
        verdict: Verdict,
        took: Option<Duration>,
        now: impl Fn() -> Instant,
        listener: Listener<'_>,
    ) {
        let inner = self.inner();
        let failed = match verdict.health() {
            Health::Healthy => false,
            Health::Unhealthy => true,
            Health::Neutral if self.ticket.probe == 0 => return,
            Health::Neutral => return inner.end_probe(self.ticket, None, now(), verdict, listener),
        };
        let (now, took) = if inner.plan.needs_clock() {
            let now = now();
            let took = took.unwrap_or_else(|| now.saturating_duration_since(self.started));
            (now, took)
        } else {
            (Instant::ORIGIN, Duration::ZERO)
        };
        let sample = inner.plan.sample(failed, took);
        inner.record(self.ticket, sample, now, verdict, listener);
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.flags & SETTLED == 0 {
            abandon(self.breaker, self.ticket, self.started, self.flags);
        }
    }
}

/// A call ended without a word. By value, so that permits can live in registers.
#[inline(never)]
fn abandon(breaker: &CircuitBreaker, ticket: Ticket, started: Instant, flags: u64) {
    let settings = &breaker.inner.settings;
    let panics = flags & IGNORES_PANICS == 0 && thread::panicking();
    let health = if flags & RUNNING != 0 || panics {
        settings.panicked_as
    } else {
        settings.cancelled_as
    };
    let mut permit = Permit::new(breaker, ticket, started, true);
    let verdict = Verdict::ignore().with_health(health);
    permit.finish(verdict, || settings.clock.now(), None);
}
