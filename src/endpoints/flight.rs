//! A call in flight on a node.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::inner::{Core, Effect, Inner};
use super::node::{Node, NodeEntry};
use super::state::stats::NodeStats;
use crate::event::{Observer, Panics};
use crate::instant::{Instant, nanos};
use crate::life::Life;
use crate::verdict::{ErrorClass, Health, Verdict};

/// A call that counts as in flight on a node until it is recorded or dropped.
pub struct Flight<'a, N> {
    inner: &'a Inner<N>,
    /// `None` once the call has ended or was moved.
    node: Option<Node<N>>,
    epoch: u32,
    is_probe: bool,
    start: Instant,
    pub(super) life: Life,
}

impl<'a, N> Flight<'a, N> {
    #[inline]
    pub(super) fn new(
        inner: &'a Inner<N>,
        node: Node<N>,
        start: Instant,
        is_probe: bool,
        life: Life,
    ) -> Self {
        Self {
            epoch: node.member.stats.epoch(),
            node: Some(node),
            inner,
            is_probe,
            start,
            life,
        }
    }

    pub(super) const fn inner(&self) -> &'a Inner<N> {
        self.inner
    }

    /// Returns the node of the call, unless the call has ended.
    #[inline]
    pub(super) const fn node(&self) -> Option<&Node<N>> {
        self.node.as_ref()
    }

    /// Moves the call out. The call that is left has ended: dropping it records nothing.
    #[inline]
    pub(super) fn move_out(&mut self) -> Self {
        Self {
            inner: self.inner,
            node: self.node.take(),
            epoch: self.epoch,
            is_probe: self.is_probe,
            start: self.start,
            life: self.life.take(),
        }
    }

    /// Ends the call at `now`, with this verdict.
    #[inline]
    pub(super) fn end(&mut self, verdict: Verdict, now: Instant, listener: Option<&dyn Observer>) {
        let Some(Node { member }) = self.node.take() else {
            return;
        };
        let stats = &member.stats;
        let elapsed = now.as_nanos().saturating_sub(self.start.as_nanos());
        // The result of a call of an earlier epoch says nothing about the current state of the node.
        let is_current = stats.epoch() == self.epoch;
        match verdict.health() {
            Health::Healthy => {
                if is_current {
                    stats
                        .latency
                        .record(elapsed, now, self.inner.settings.decay);
                }
                stats.succeed(is_current);
                if self.is_probe {
                    self.end_good_probe(&member, now, listener);
                } else {
                    leave(self.inner, stats);
                }
            }
            Health::Unhealthy => self.fail(&member, verdict, elapsed, is_current, now, listener),
            Health::Neutral => self.end_neutral(stats, verdict, elapsed, is_current, now),
        }
    }

    /// Ends a call whose result says nothing about the health of the node.
    #[inline(never)]
    fn end_neutral(
        &self,
        stats: &Arc<NodeStats>,
        verdict: Verdict,
        elapsed: u64,
        is_current: bool,
        now: Instant,
    ) {
        let settings = &self.inner.settings;
        if is_current {
            match verdict.class() {
                ErrorClass::Throttled => {
                    let sample = self.sample_of_failure(verdict, elapsed);
                    stats.latency.record(sample, now, settings.decay);
                }
                _ if verdict.may_have_been_executed() => {
                    stats.latency.record_at_least(elapsed, now, settings.decay);
                }
                _ => {}
            }
        }
        if self.is_probe && is_current {
            stats.release_probe(self.start, settings.lease);
        }
        leave(self.inner, stats);
    }

    /// Returns the latency that a failed or throttled call counts as, in nanoseconds.
    fn sample_of_failure(&self, verdict: Verdict, elapsed: u64) -> u64 {
        let hint = self.hint(verdict).map_or(0, nanos);
        elapsed.max(self.inner.settings.penalty).max(hint)
    }

    fn hint(&self, verdict: Verdict) -> Option<Duration> {
        let hint = verdict.hint()?;
        Some(hint.min(self.inner.settings.max_hint))
    }

    #[cold]
    #[inline(never)]
    fn fail(
        &self,
        member: &NodeEntry<N>,
        verdict: Verdict,
        elapsed: u64,
        is_current: bool,
        now: Instant,
        listener: Option<&dyn Observer>,
    ) {
        let settings = &self.inner.settings;
        let stats = &member.stats;
        if is_current {
            let sample = self.sample_of_failure(verdict, elapsed);
            stats.latency.record(sample, now, settings.decay);
        }
        let failures = stats.fail(is_current);
        // At each multiple, so that an ejection that was not enforced is considered again.
        let is_at_limit = |limit: u32| !self.is_probe && failures > 0 && failures % limit == 0;
        let is_at_limit = settings.consecutive.is_some_and(is_at_limit);
        let hint = self.hint(verdict);
        if !self.is_probe && !is_at_limit && hint.is_none() {
            return leave(self.inner, stats);
        }
        let random = self.inner.rng.unit();
        self.leave_and_change(stats, now, listener, |core| {
            let (machine, index, epoch) = (&mut core.machine, member.address.index, self.epoch);
            let ejected = match is_at_limit {
                true => machine.eject_failing(index, stats, epoch, now, random),
                false if self.is_probe => {
                    machine.end_probe(index, stats, epoch, false, now, random)
                }
                false => None,
            };
            let parked = hint.and_then(|hint| machine.park(index, stats, hint, now));
            Effect::of(ejected.into_iter().chain(parked).collect())
        });
    }

    #[cold]
    fn end_good_probe(&self, member: &NodeEntry<N>, now: Instant, listener: Option<&dyn Observer>) {
        self.leave_and_change(&member.stats, now, listener, |core| {
            let (machine, index) = (&mut core.machine, member.address.index);
            let change = machine.end_probe(index, &member.stats, self.epoch, true, now, 0.0);
            Effect::of(change.into_iter().collect())
        });
    }

    /// Ends the call and then changes the core, because the change may run observers, for which the call is no longer
    /// in flight. A panic of a waker or an observer prevents neither.
    fn leave_and_change(
        &self,
        stats: &Arc<NodeStats>,
        now: Instant,
        listener: Option<&dyn Observer>,
        change: impl FnOnce(&mut Core<N>) -> Effect,
    ) {
        let mut panics = Panics::default();
        panics.run(|| leave(self.inner, stats));
        panics.run(|| self.inner.change(now, listener, change));
        panics.resume();
    }
}

#[inline]
fn leave<N>(inner: &Inner<N>, stats: &Arc<NodeStats>) {
    if stats.leave() {
        inner.after_last_call(stats);
    }
}

/// A dropped call was cancelled, so its elapsed time is a lower bound of the latency, or it panicked, which is a
/// failure.
impl<N> Drop for Flight<'_, N> {
    #[inline]
    fn drop(&mut self) {
        if self.node.is_none() {
            return;
        }
        let verdict = match self.life.dropped_as(Health::Neutral, Health::Unhealthy) {
            Health::Unhealthy => Verdict::failure(),
            _ => Verdict::ignore(),
        };
        let base = &self.inner.base;
        base.at_now_or(self.start, |now| self.end(verdict, now, None));
    }
}

impl<N> fmt::Debug for Flight<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flight")
            .field("node", &self.node)
            .field("is_probe", &self.is_probe)
            .finish_non_exhaustive()
    }
}
