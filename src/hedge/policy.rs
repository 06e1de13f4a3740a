//! The copies of a call.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use pin_project_lite::pin_project;

use super::Hedge;
use super::copies::{Copies, Kept, OtherCopy, better, launched};
use super::inner::{Begun, Inner};
use super::state::decision::{self, CopyEffect, LaunchFacts};
use crate::clock::{self, ClockHandle, Sleep};
use crate::error::Error;
use crate::event::{HedgeCause, HedgeEvent, Listener, NotSent, Panics};
use crate::instant::Instant;
use crate::policy::{Context, Describe, LayerKind, Operation, OutcomeOf, Policy, Run};
use crate::sync::Ordering;
use crate::verdict::{ErrorClass, Health};

impl Policy for Hedge {}

impl<'a, Op: Operation> Run<Op> for &'a Hedge {
    type Future = HedgeFuture<'a, Op>;

    #[inline]
    fn run(self, op: Op, mut cx: Context) -> HedgeFuture<'a, Op> {
        let inner: &'a Inner = &self.inner;
        let started = cx.now(&inner.clock);
        let begun = if inner.has_budgets() {
            // On a copy, because the address of `cx` must not escape: see `Context::move_to`.
            let mut copy = cx;
            let begun = inner.begin(&mut copy);
            cx = copy;
            begun
        } else {
            inner.begin_without_budgets()
        };
        HedgeFuture {
            first: Some(op.attempt(cx)),
            timer: None,
            copies: None,
            begun,
            inner,
            op,
            cx,
            started,
            stage: Stage::Fresh,
        }
    }
}

impl Describe for Hedge {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::Hedge);
    }
}

pin_project! {
    /// A run of a [`Hedge`].
    ///
    /// The first copy is stored inline. Further ones are allocated when they are launched.
    #[must_use = "futures do nothing unless you `.await` or poll them"]
    pub struct HedgeFuture<'a, Op: Operation> {
        // `None` once the first copy has ended. Declared before the budgets, so that it is dropped first.
        #[pin]
        first: Option<Op::Attempt>,
        #[pin]
        timer: Option<Sleep>,
        // `None` until another copy is launched.
        copies: Option<Box<Copies<'a, Op>>>,
        begun: Begun<'a>,
        inner: &'a Inner,
        op: Op,
        cx: Context,
        started: Instant,
        stage: Stage,
    }

    impl<'a, Op: Operation> PinnedDrop for HedgeFuture<'a, Op> {
        fn drop(this: Pin<&mut Self>) {
            let records = this.copies.is_some() || this.inner.latencies().is_some();
            if this.stage != Stage::Over && records {
                this.cancel();
            }
        }
    }
}

/// The stage of a call, which determines whether further copies may be launched.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// The first copy has not been pending yet.
    Fresh,
    /// Further copies may be launched: by the timer, or when a copy fails.
    Running,
    /// No further copies: a result ruled them out.
    Stopped,
    /// The call has ended.
    Over,
}

/// A copy: the first one, or one of the others by its index.
#[derive(Clone, Copy)]
enum CopyIndex {
    First,
    Other(usize),
}

impl<Op: Operation> Future for HedgeFuture<'_, Op> {
    type Output = OutcomeOf<Op>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let mut this = self.as_mut().project();
        if let Some(first) = this.first.as_mut().as_pin_mut() {
            if let Poll::Ready(outcome) = first.poll(task) {
                if this.copies.is_none()
                    && outcome.result.is_ok()
                    && decision::is_good(&outcome.verdict)
                {
                    this.first.set(None);
                    *this.stage = Stage::Over;
                    // Called only if necessary: passing the outcome to a function costs more than everything else
                    // here.
                    if this.inner.latencies().is_none() && !this.begun.has_budget() {
                        return Poll::Ready(outcome.moved_by_field());
                    }
                    let outcome = this.inner.finish_plain(outcome, *this.started, this.begun);
                    return Poll::Ready(outcome.moved_by_field());
                }
                if let Some(outcome) = self.as_mut().after_copy(CopyIndex::First, outcome) {
                    return Poll::Ready(outcome);
                }
            }
        }
        self.poll_others(task)
    }
}

impl<'a, Op: Operation> HedgeFuture<'a, Op> {
    /// Polls the further copies and the timer, and launches the copies that are due.
    ///
    /// Out of line, to keep the fast path of calls that are ready at once small.
    #[inline(never)]
    fn poll_others(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<OutcomeOf<Op>> {
        if self.stage == Stage::Fresh {
            self.as_mut().begin_to_wait();
        }
        let mut index = 0;
        loop {
            while let Some(outcome) = self.as_mut().poll_copy(&mut index, task) {
                if let Some(outcome) = self.as_mut().after_copy(CopyIndex::Other(index), outcome) {
                    return Poll::Ready(outcome);
                }
            }
            let this = self.as_mut().project();
            match this.timer.as_pin_mut().map(|timer| timer.poll(task)) {
                Some(Poll::Ready(())) => self.as_mut().after_delay(),
                Some(Poll::Pending) | None => return Poll::Pending,
            }
        }
    }

    /// Polls the copies from `index` on until one is ready, and leaves `index` at that one.
    fn poll_copy(
        self: Pin<&mut Self>,
        index: &mut usize,
        task: &mut TaskContext<'_>,
    ) -> Option<OutcomeOf<Op>> {
        let copies = self.project().copies.as_mut()?;
        while let Some(copy) = copies.in_flight.get_mut(*index) {
            if let Some(attempt) = &mut copy.attempt {
                if let Poll::Ready(outcome) = attempt.as_mut().poll(task) {
                    return Some(outcome);
                }
            }
            *index += 1;
        }
        None
    }

    /// Arms the timer of the first further copy, if there may be one.
    fn begin_to_wait(mut self: Pin<&mut Self>) {
        *self.as_mut().project().stage = Stage::Running;
        let started = self.started;
        let facts = self.as_mut().launch_facts();
        let may_launch = facts.may_launch(started);
        // With an observer, the timer is armed nevertheless: the reason is reported once a copy is due.
        let is_final = matches!(may_launch, Err(reason) if reason != NotSent::Throttled);
        if !is_final || self.op.listener().observer().is_some() {
            self.arm(started, facts.deadline);
        }
    }

    /// Arms the timer for the next copy, whose delay counts from `from`, if it ends before `deadline`.
    fn arm(self: Pin<&mut Self>, from: Instant, deadline: Instant) {
        let this = self.project();
        let launched = launched(this.copies);
        if launched >= this.inner.max_hedges() {
            return;
        }
        let Some(delay) = this.inner.delay(launched + 1, from) else {
            return;
        };
        let at = from.after(delay);
        if at < deadline && at != Instant::FAR_FUTURE {
            clock::arm(&this.inner.clock, at, this.timer);
        }
    }

    /// Returns the facts about the call that decide whether a copy may be launched.
    fn launch_facts(self: Pin<&mut Self>) -> LaunchFacts {
        let this = self.project();
        LaunchFacts {
            idempotent: this.cx.is_idempotent(),
            repeatable: this.cx.is_repeatable() && this.op.is_repeatable(),
            nested: this.cx.is_hedge(),
            probe: this.cx.is_probe(),
            deadline: this.cx.deadline(&this.inner.clock),
            paused_until: this.inner.paused_until(),
        }
    }

    /// Launches the copy that is due by the timer.
    fn after_delay(mut self: Pin<&mut Self>) {
        self.as_mut().project().timer.set(None);
        let now = self.inner.clock.now();
        // If no copy was launched, only a failure triggers another attempt to launch one.
        if self
            .as_mut()
            .launch(now, HedgeCause::Delay, ErrorClass::Timeout)
        {
            let deadline = self.as_mut().launch_facts().deadline;
            self.arm(now, deadline);
        }
    }

    /// Launches one more copy, or reports why not.
    fn launch(
        mut self: Pin<&mut Self>,
        now: Instant,
        cause: HedgeCause,
        class: ErrorClass,
    ) -> bool {
        if launched(&self.copies) >= self.inner.max_hedges() {
            return false;
        }
        let facts = self.as_mut().launch_facts();
        let this = self.project();
        let (inner, observer) = (*this.inner, this.op.listener().observer());
        let mut cx = *this.cx;
        cx.set_now(&inner.clock, now);
        let allowed = match facts.may_launch(now) {
            Ok(()) if inner.delay_is_unknown(now) => Err(NotSent::TooFewCalls),
            Ok(()) => (this.begun.withdraw(class, &mut cx)).ok_or(NotSent::BudgetEmpty),
            Err(reason) => Err(reason),
        };
        let extras = match allowed {
            Ok(extras) => extras,
            Err(reason) => {
                if facts.idempotent && facts.repeatable && !facts.nested {
                    inner.counts.not_sent.fetch_add(1, Ordering::Relaxed);
                }
                if let Some(observer) = observer {
                    observer.on_event(&inner.event(HedgeEvent::NotSent { reason }));
                }
                return false;
            }
        };
        let in_flight = inner.count_copy();
        let attempt = Box::pin(this.op.attempt(cx.with_hedge(true)));
        let copies = this.copies.get_or_insert_with(|| {
            Box::new(Copies {
                in_flight: Vec::with_capacity(1),
                launched: 0,
                kept: None,
                failure_cost: 0,
                paid: None,
            })
        });
        copies.launched += 1;
        let number = copies.launched;
        copies.in_flight.push(OtherCopy {
            attempt: Some(attempt),
            number,
            started: now,
            extras,
            _in_flight: in_flight,
        });
        // Relaxed: counters, read for display.
        inner.counts.launched.fetch_add(1, Ordering::Relaxed);
        if let Some(observer) = observer {
            let after = now.saturating_duration_since(*this.started);
            observer.on_event(&inner.event(HedgeEvent::Launched {
                copy: number,
                after,
                cause,
            }));
        }
        true
    }

    /// Decides what follows the end of a copy. Returns the outcome of the call if that has ended.
    #[cold]
    #[inline(never)]
    fn after_copy(
        mut self: Pin<&mut Self>,
        which: CopyIndex,
        mut outcome: OutcomeOf<Op>,
    ) -> Option<OutcomeOf<Op>> {
        let effect = decision::effect_of(&outcome.result, &outcome.verdict);
        let executed = !outcome.is_rejected();
        let (number, started) = self.as_mut().end_copy(which, executed);
        let inner = self.inner;
        let now = outcome.finished(&inner.clock);
        if effect == CopyEffect::Answer {
            return Some(self.finish(outcome, number, started));
        }
        if executed {
            inner.record_censored(now, started);
        }
        if let CopyEffect::Throttled(hint) = effect {
            inner.pause(now, hint);
        }
        let mut this = self.as_mut().project();
        if effect != CopyEffect::Lost {
            *this.stage = Stage::Stopped;
            this.timer.set(None);
        } else if *this.stage == Stage::Fresh {
            *this.stage = Stage::Running;
        }
        let class = outcome.verdict.class();
        if self.stage == Stage::Running && self.as_mut().launch(now, HedgeCause::Failure, class) {
            self.as_mut().project().timer.set(None);
            let deadline = self.as_mut().launch_facts().deadline;
            self.as_mut().arm(now, deadline);
        }
        let this = self.as_mut().project();
        if this.first.is_none() && this.copies.as_ref().is_none_or(|c| c.in_flight.is_empty()) {
            return Some(self.fail(outcome, now));
        }
        if let Some(copies) = this.copies {
            if executed {
                copies.failure_cost = this.begun.copy_failed();
            }
            let kept = copies.kept.take();
            copies.kept = Some(better(kept, outcome, now, *this.op));
        }
        None
    }

    /// Drops a copy that has ended. Returns its number and its start.
    fn end_copy(self: Pin<&mut Self>, which: CopyIndex, executed: bool) -> (u32, Instant) {
        let mut this = self.project();
        if let (CopyIndex::Other(index), Some(copies)) = (which, this.copies) {
            let mut copy = copies.in_flight.remove(index);
            copy.attempt = None;
            match executed {
                true => copies.paid = copies.paid.max(Some((copy.number, copy.extras.price()))),
                false => this.begun.give_back(copy.extras, copies.last_price()),
            }
            return (copy.number, copy.started);
        }
        this.first.set(None);
        (0, *this.started)
    }

    /// Drops all copies that are in flight, and nothing else. Returns the start of the first one, if it was in flight.
    fn drop_copies(self: Pin<&mut Self>) -> Option<Instant> {
        let mut this = self.project();
        let first = this.first.is_some().then_some(*this.started);
        this.first.set(None);
        this.timer.set(None);
        *this.stage = Stage::Over;
        if let Some(copies) = this.copies {
            for copy in &mut copies.in_flight {
                copy.attempt = None;
            }
        }
        first
    }

    /// Ends the call with the answer of copy `number`, which is 0 for the first one.
    fn finish(
        mut self: Pin<&mut Self>,
        mut outcome: OutcomeOf<Op>,
        number: u32,
        started: Instant,
    ) -> OutcomeOf<Op> {
        let first = self.as_mut().drop_copies();
        let this = self.project();
        let (inner, copies) = (*this.inner, this.copies.take());
        let now = outcome.finished(&inner.clock);
        let others = copies.iter().flat_map(|copies| &copies.in_flight);
        for started in first.into_iter().chain(others.map(|copy| copy.started)) {
            inner.record_censored(now, started);
        }
        let is_timeout = outcome.result.as_ref().is_err_and(Error::is_timeout);
        if let Some(latencies) = inner.latencies() {
            let took = now.as_nanos().saturating_sub(started.as_nanos());
            if outcome.verdict.health() == Health::Healthy || is_timeout {
                latencies.record(now, took, is_timeout);
            }
        }
        this.begun
            .answered(outcome.result.is_ok(), outcome.verdict.health());
        let Some(copies) = copies else {
            return outcome.moved_by_field();
        };
        let event = match (number, first) {
            (1.., _) if is_timeout => None,
            (1.., Some(_)) => Some((&inner.counts.won, HedgeEvent::Won { copy: number })),
            (1.., None) => Some((&inner.counts.saved, HedgeEvent::Saved { copy: number })),
            (0, _) => None,
        };
        let launched = copies.end(*this.op);
        let observer = this.op.listener().observer();
        let Some((count, event)) = event else {
            inner.lose(launched, observer);
            return outcome.moved_by_field();
        };
        // Relaxed: counters, read for display.
        count.fetch_add(1, Ordering::Relaxed);
        let lost = u64::from(launched - 1);
        inner.counts.lost.fetch_add(lost, Ordering::Relaxed);
        if let Some(observer) = observer {
            observer.on_event(&inner.event(event));
        }
        outcome.moved_by_field()
    }

    /// Ends a call whose copies have all failed, the last one now and with this outcome.
    fn fail(mut self: Pin<&mut Self>, outcome: OutcomeOf<Op>, now: Instant) -> OutcomeOf<Op> {
        self.as_mut().drop_copies();
        let this = self.project();
        let (inner, copies) = (*this.inner, this.copies.take());
        let is_rejected = outcome.is_rejected();
        if !is_rejected {
            this.begun.failed();
        }
        let Some(copies) = copies else {
            return outcome;
        };
        let Copies {
            launched,
            mut kept,
            failure_cost,
            ..
        } = *copies;
        if is_rejected {
            this.begun.leave_to_outer(failure_cost);
        }
        let Kept { mut outcome, at } = better(kept.take(), outcome, now, *this.op);
        outcome.verdict = outcome.verdict.later(now.saturating_duration_since(at));
        inner.lose(launched, this.op.listener().observer());
        outcome
    }

    /// Records the copies of a call that is cancelled: they would have taken longer, and the further ones are lost.
    #[cold]
    fn cancel(mut self: Pin<&mut Self>) {
        let first = self.as_mut().drop_copies();
        let this = self.project();
        let (inner, copies) = (*this.inner, this.copies.take());
        // The call may be dropped by a panic. Then no other panic may escape.
        let mut panics = Panics::default();
        if inner.latencies().is_some() {
            let others = copies.iter().flat_map(|copies| &copies.in_flight);
            let starts = first.into_iter().chain(others.map(|copy| copy.started));
            panics.run(|| {
                let now = inner.clock.now();
                starts.for_each(|started| inner.record_censored(now, started));
            });
        }
        if let Some(copies) = copies {
            let launched = copies.end(*this.op);
            let observer = this.op.listener().observer();
            panics.run(|| inner.lose(launched, observer));
        }
        panics.resume();
    }
}

impl<Op: Operation> fmt::Debug for HedgeFuture<'_, Op> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeFuture")
            .field("hedge", &self.inner.name)
            .finish_non_exhaustive()
    }
}
