//! A call in flight on a node.

use std::fmt;
use std::sync::Arc;

use super::inner::{Inner, Then};
use super::node::NodeAddress;
use super::state::vitals::Vitals;
use crate::event::Observer;
use crate::instant::{Instant, nanos};
use crate::life::Life;
use crate::verdict::{Health, Verdict};

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
        let decay = self.inner.settings.decay;
        let elapsed = now.as_nanos().saturating_sub(self.start.as_nanos());
        let is_of_epoch = vitals.epoch() == self.epoch;
        match verdict.health() {
            Health::Healthy => {
                vitals.latency.record(elapsed, now, decay);
                if is_of_epoch {
                    vitals.succeed();
                }
                leave(self.inner, &vitals);
                if self.is_probe {
                    self.end_probe(&vitals, true, now, listener);
                }
            }
            Health::Unhealthy => self.fail(&vitals, verdict, elapsed, now, listener),
            Health::Neutral => {
                if verdict.may_have_been_executed() {
                    vitals.latency.record_at_least(elapsed, now, decay);
                }
                if self.is_probe && is_of_epoch {
                    vitals.release_probe();
                }
                leave(self.inner, &vitals);
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn fail(
        &self,
        vitals: &Arc<Vitals>,
        verdict: Verdict,
        elapsed: u64,
        now: Instant,
        listener: Option<&dyn Observer>,
    ) {
        let settings = &self.inner.settings;
        let hint = verdict.hint().map(|hint| hint.min(settings.max_hint));
        let sample = elapsed.max(settings.penalty).max(hint.map_or(0, nanos));
        vitals.latency.record(sample, now, settings.decay);
        // What follows may run observers: the call is no longer in flight then.
        let failures = match vitals.epoch() == self.epoch {
            true => vitals.fail(),
            false => 0,
        };
        leave(self.inner, vitals);
        if self.is_probe {
            self.end_probe(vitals, false, now, listener);
        } else if let Some(limit) = settings.consecutive {
            // At each multiple, so that an ejection that was not enforced is looked at again.
            if failures > 0 && failures % limit == 0 {
                let chance = self.inner.unit();
                self.inner.change(now, listener, |core| {
                    let machine = &mut core.machine;
                    Then::from(machine.strike(self.slot(), vitals, self.epoch, now, chance))
                });
            }
        }
        if let Some(hint) = hint.filter(|hint| !hint.is_zero()) {
            self.inner.change(now, listener, |core| {
                Then::from(core.machine.park(self.slot(), vitals, hint, now))
            });
        }
    }

    #[cold]
    fn end_probe(
        &self,
        vitals: &Arc<Vitals>,
        is_good: bool,
        now: Instant,
        listener: Option<&dyn Observer>,
    ) {
        let chance = self.inner.unit();
        self.inner.change(now, listener, |core| {
            let machine = &mut core.machine;
            Then::from(machine.end_probe(self.slot(), vitals, self.epoch, is_good, now, chance))
        });
    }

    const fn slot(&self) -> u32 {
        NodeAddress::slot_of(self.word)
    }
}

#[inline]
fn leave<N>(inner: &Inner<N>, vitals: &Arc<Vitals>) {
    if vitals.leave() {
        inner.wake_drains(vitals);
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
