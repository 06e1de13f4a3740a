//! State shared by the clones of a bulkhead: admission, release, and reports.

use std::fmt;
use std::time::Duration;

use super::adaptive::Adaptive;
use super::permit_queue::{Entrant, Full, PermitQueue};
use super::raw_permit::{Ending, RawPermit};
use super::state::{MAX_PERMITS, PackedState, Sample, Taken};
use crate::base::Base;
use crate::error::{Reason, Rejected};
use crate::event::{Event, Observer, Panics};
use crate::instant::Instant;
use crate::policy::{Context, OnUnwind};
use crate::sync::{AtomicU64, Ordering};

/// Index of no partition, for calls that bypass the bulkhead.
pub(super) const BYPASS: u32 = u32::MAX;

pub(super) struct Inner {
    pub(super) base: Base,
    pub(super) queue: PermitQueue,
    /// The limit that the bulkhead was built with.
    pub(super) initial_limit: u32,
    pub(super) max_wait: Duration,
    pub(super) adaptive: Option<Box<Adaptive>>,
    pub(super) cancel_is_overload: bool,
    pub(super) rejected: AtomicU64,
    pub(super) timed_out: AtomicU64,
    pub(super) would_reject: AtomicU64,
}

impl Inner {
    /// Returns whether calls may wait for a permit.
    #[inline]
    pub(super) const fn may_wait(&self) -> bool {
        self.queue.rules.capacity > 0
    }

    pub(super) const fn entrant(&self, cx: &Context, partition: u32) -> Entrant {
        Entrant {
            cost: cx.cost(),
            partition,
            priority: cx.priority(),
        }
    }

    /// Admits a call if permits are free, if it bypasses the bulkhead, or in shadow mode.
    ///
    /// Always inlined: out of line, arguments and result pass through memory, which costs three times as much as
    /// the two atomic operations of a permit.
    #[inline(always)]
    pub(super) fn try_enter(
        &self,
        entrant: Entrant,
        cx: &mut Context,
        observer: Option<&dyn Observer>,
    ) -> Result<RawPermit, Full> {
        if entrant.partition == BYPASS {
            return Ok(RawPermit::NOTHING);
        }
        let taken = match self.queue.try_admit(entrant) {
            Ok(taken) => taken,
            Err(full) if self.base.shadow => self.enter_anyway(entrant, full, observer),
            Err(full) => return Err(full),
        };
        // Only an algorithm needs the latency of the call.
        let started = if self.adaptive.is_some() {
            let guard = OnUnwind::new(|| self.queue.release(taken.cost(), entrant.partition));
            let now = cx.now(&self.base.clock);
            guard.disarm();
            now
        } else {
            Instant::ORIGIN
        };
        Ok(RawPermit::new(taken, entrant.partition, started))
    }

    #[cold]
    fn enter_anyway(&self, entrant: Entrant, full: Full, observer: Option<&dyn Observer>) -> Taken {
        let state = self.queue.read();
        // In shadow mode, calls that would wait in the queue do not count as rejected.
        let waiting = state.in_flight().saturating_sub(state.limit()) as usize;
        if full == Full::TooLarge || waiting >= self.queue.rules.capacity {
            self.would_reject.fetch_add(1, Ordering::Relaxed);
            let rejected = Rejected::new(self.base.name, full.reason());
            self.base.report(Event::would_reject(&rejected), observer);
        }
        self.queue.force(entrant)
    }

    /// Releases permits without a sample.
    #[inline(always)]
    pub(super) fn release(&self, permit: RawPermit) {
        self.queue.release(permit.cost(), permit.partition());
    }

    /// Returns how a call ends that was dropped or panicked while it ran.
    pub(super) fn ending_of_drop(&self) -> Ending {
        // A panic is a bug, not a sign of load.
        match self.cancel_is_overload && !std::thread::panicking() {
            true => Ending::Overloaded,
            false => Ending::Neutral,
        }
    }

    /// Ends a call: releases its permits, and gives the algorithm a sample.
    #[inline(always)]
    pub(super) fn leave(
        &self,
        permit: RawPermit,
        ending: Ending,
        finished: impl FnOnce() -> Instant,
        observer: Option<&dyn Observer>,
    ) {
        // First, so that a bulkhead with a fixed limit does not compute the ending.
        match &self.adaptive {
            None => self.release(permit),
            Some(adaptive) => {
                let before = self.release_to_sample(permit);
                if ending != Ending::Neutral {
                    self.sample(adaptive, permit, before, ending, finished(), observer);
                }
            }
        }
    }

    /// Ends a call in a drop: a panic of the clock, an algorithm, a waker, or an observer does not abort a thread that
    /// panics already.
    #[cold]
    pub(super) fn leave_in_drop(&self, permit: RawPermit, ending: Ending) {
        let mut panics = Panics::default();
        panics.run(|| self.leave(permit, ending, || self.base.now(), None));
        panics.resume();
    }

    // Out of line, because every drop of a permit contains a call of it.
    #[inline(never)]
    fn release_to_sample(&self, permit: RawPermit) -> PackedState {
        self.queue.release_all(permit.cost(), permit.partition())
    }

    #[inline(never)]
    fn sample(
        &self,
        adaptive: &Adaptive,
        permit: RawPermit,
        before: PackedState,
        ending: Ending,
        now: Instant,
        observer: Option<&dyn Observer>,
    ) {
        let latency = now.saturating_duration_since(permit.started);
        let mut sample = Sample::new(now, latency, permit.in_flight as u32);
        sample.started = permit.started;
        sample.overloaded = ending == Ending::Overloaded;
        sample.full = before.in_flight() >= before.limit();
        sample.random = adaptive.rng.unit();
        adaptive.sample(sample, |limit| self.set_limit(limit, observer));
    }

    pub(super) fn set_limit(&self, limit: u32, observer: Option<&dyn Observer>) {
        let limit = limit.clamp(1, MAX_PERMITS);
        if limit == self.queue.read().limit() {
            return;
        }
        let number = || match self.base.has_observer(observer) {
            true => self.base.number(),
            false => 0,
        };
        let Some((from, sequence)) = self.queue.set_limit(limit, number) else {
            return;
        };
        let mut panics = Panics::default();
        // Runs wakers.
        panics.run(|| self.queue.serve_waiting());
        let event = Event::LimitChanged {
            policy: self.base.name,
            pipeline: None,
            from,
            to: limit,
            sequence,
        };
        self.base.report_in(&mut panics, event, observer);
        panics.resume();
    }

    #[cold]
    pub(super) fn reject(&self, reason: Reason, observer: Option<&dyn Observer>) -> Rejected {
        let counter = match reason {
            Reason::QueueTimeout | Reason::DeadlineTooClose => &self.timed_out,
            _ => &self.rejected,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let rejected = Rejected::new(self.base.name, reason);
        self.base.report(Event::rejected(&rejected), observer);
        rejected
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bulkhead")
            .field("name", &self.base.name)
            .field("limit", &self.queue.read().limit())
            .field("in_flight", &self.queue.in_flight())
            .finish_non_exhaustive()
    }
}
