//! A call in flight on a node.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::inner::{Inner, Then};
use super::node::NodeAddress;
use super::state::vitals::Vitals;
use crate::event::Observer;
use crate::instant::{Instant, nanos};
use crate::life::Life;
use crate::verdict::{ErrorClass, Health, Verdict};

/// A call that counts as in flight on a node until it is recorded or dropped.
pub struct Flight<'a, N> {
    inner: &'a Inner<N>,
    /// `None` once it has ended or moved.
    vitals: Option<Arc<Vitals>>,
    /// The address of the node.
    pub(super) word: u64,
    epoch: u32,
    is_probe: bool,
    start: Instant,
    pub(super) life: Life,
}

impl<'a, N> Flight<'a, N> {
    #[inline]
    pub(super) fn new(
        inner: &'a Inner<N>,
        vitals: Arc<Vitals>,
        word: u64,
        start: Instant,
        is_probe: bool,
        life: Life,
    ) -> Self {
        Self {
            epoch: vitals.epoch(),
            vitals: Some(vitals),
            inner,
            word,
            is_probe,
            start,
            life,
        }
    }

    pub(super) const fn inner(&self) -> &'a Inner<N> {
        self.inner
    }

    /// Moves it; the one here has ended.
    #[inline]
    pub(super) fn move_out(&mut self) -> Self {
        Self {
            inner: self.inner,
            vitals: self.vitals.take(),
            word: self.word,
            epoch: self.epoch,
            is_probe: self.is_probe,
            start: self.start,
            life: self.life.take(),
        }
    }

    /// Ends the call, which ended with this verdict at `now`.
    #[inline]
    pub(super) fn end(&mut self, verdict: Verdict, now: Instant, listener: Option<&dyn Observer>) {
        let Some(vitals) = self.vitals.take() else {
            return;
        };
        let elapsed = now.as_nanos().saturating_sub(self.start.as_nanos());
        // What a call of an earlier epoch finds out says nothing about the node as it is now.
        let is_current = vitals.epoch() == self.epoch;
        match verdict.health() {
            Health::Healthy => {
                if is_current {
                    vitals
                        .latency
                        .record(elapsed, now, self.inner.settings.decay);
                }
                vitals.succeed(is_current);
                leave(self.inner, &vitals);
                if self.is_probe {
                    self.end_good_probe(&vitals, now, listener);
                }
            }
            Health::Unhealthy => self.fail(&vitals, verdict, elapsed, is_current, now, listener),
            Health::Neutral => self.end_neutral(&vitals, verdict, elapsed, is_current, now),
        }
    }

    /// Ends a call whose result says nothing about the health of the node.
    #[inline(never)]
    fn end_neutral(
        &self,
        vitals: &Arc<Vitals>,
        verdict: Verdict,
        elapsed: u64,
        is_current: bool,
        now: Instant,
    ) {
        let settings = &self.inner.settings;
        if is_current && verdict.may_have_been_executed() {
            match verdict.class() {
                ErrorClass::Throttled => {
                    let sample = self.sample_of_failure(verdict, elapsed);
                    vitals.latency.record(sample, now, settings.decay);
                }
                _ => vitals.latency.record_at_least(elapsed, now, settings.decay),
            }
        }
        if self.is_probe && is_current {
            vitals.release_probe(self.start, settings.lease);
        }
        leave(self.inner, vitals);
    }

    /// Returns the latency that a failed or throttled call counts as, in nanoseconds.
    fn sample_of_failure(&self, verdict: Verdict, elapsed: u64) -> u64 {
        let hint = self.hint(verdict).map_or(0, nanos);
        elapsed.max(self.inner.settings.penalty).max(hint)
    }

    fn hint(&self, verdict: Verdict) -> Option<Duration> {
        let hint = verdict.hint()?.min(self.inner.settings.max_hint);
        (!hint.is_zero()).then_some(hint)
    }

    #[cold]
    #[inline(never)]
    fn fail(
        &self,
        vitals: &Arc<Vitals>,
        verdict: Verdict,
        elapsed: u64,
        is_current: bool,
        now: Instant,
        listener: Option<&dyn Observer>,
    ) {
        let settings = &self.inner.settings;
        if is_current {
            let sample = self.sample_of_failure(verdict, elapsed);
            vitals.latency.record(sample, now, settings.decay);
        }
        // The change below may run observers: the call is no longer in flight then.
        let failures = vitals.fail(is_current);
        leave(self.inner, vitals);
        // At each multiple, so that an ejection that was not enforced is considered again.
        let is_at_limit = |limit: u32| !self.is_probe && failures > 0 && failures % limit == 0;
        let is_at_limit = settings.consecutive.is_some_and(is_at_limit);
        let hint = self.hint(verdict);
        if !self.is_probe && !is_at_limit && hint.is_none() {
            return;
        }
        let chance = self.inner.unit();
        self.inner.change(now, listener, |core| {
            let (machine, slot, epoch) = (&mut core.machine, self.slot(), self.epoch);
            let ejected = match is_at_limit {
                true => machine.strike(slot, vitals, epoch, now, chance),
                false if self.is_probe => {
                    machine.end_probe(slot, vitals, epoch, false, now, chance)
                }
                false => None,
            };
            let parked = hint.and_then(|hint| machine.park(slot, vitals, hint, now));
            Then::of(ejected.into_iter().chain(parked).collect())
        });
    }

    #[cold]
    fn end_good_probe(&self, vitals: &Arc<Vitals>, now: Instant, listener: Option<&dyn Observer>) {
        self.inner.change(now, listener, |core| {
            let machine = &mut core.machine;
            let change = machine.end_probe(self.slot(), vitals, self.epoch, true, now, 0.0);
            Then::of(change.into_iter().collect())
        });
    }

    const fn slot(&self) -> u32 {
        NodeAddress::slot_of(self.word)
    }
}

#[inline]
fn leave<N>(inner: &Inner<N>, vitals: &Arc<Vitals>) {
    if vitals.leave() {
        inner.after_last_call(vitals);
    }
}

/// A call that is dropped was cancelled, which says how long it took at least, or it panicked, which is a
/// failure.
impl<N> Drop for Flight<'_, N> {
    #[inline]
    fn drop(&mut self) {
        if self.vitals.is_none() {
            return;
        }
        let verdict = match self.life.dropped_as(Health::Neutral, Health::Unhealthy) {
            Health::Unhealthy => Verdict::failure(),
            _ => Verdict::ignore(),
        };
        let now = self.inner.base.clock.now();
        self.end(verdict, now, None);
    }
}

impl<N> fmt::Debug for Flight<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight")
            .field("slot", &self.slot())
            .field("is_probe", &self.is_probe)
            .finish_non_exhaustive()
    }
}
