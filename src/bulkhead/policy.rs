//! The bulkhead around an operation.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::acquire::Acquire;
use super::held::{Ending, Held};
use super::queue::Full;
use super::{Bulkhead, Inner};
use crate::clock::ClockHandle;
use crate::error::Reason;
use crate::event::{Listener, Observer};
use crate::policy::{
    AtMostOnce, Context, Describe, Layer, OnUnwind, Operation, Outcome, Policy, Run,
};

impl Policy for Bulkhead {}

impl AtMostOnce for Bulkhead {}

impl<'a, Op: Operation> Run<Op> for &'a Bulkhead {
    type Future = BulkheadFuture<'a, Op>;

    #[inline(always)]
    fn run(self, op: Op, mut cx: Context) -> BulkheadFuture<'a, Op> {
        let inner = &*self.inner;
        let listener = op.listener();
        let entered = inner.try_enter(self.entrant(&cx), &mut cx, listener.observer());
        // Each end makes a future of its own: in one that all share, the fields of the others are
        // written too.
        match entered {
            Ok(held) => {
                let guard = OnUnwind::new(|| drop(Running { inner, held }));
                let attempt = op.attempt(cx);
                guard.disarm();
                BulkheadFuture {
                    stage: Stage::Attempting { attempt },
                    running: Running { inner, held },
                    listener,
                }
            }
            Err(Full::Busy) if inner.may_wait => BulkheadFuture {
                stage: Stage::Full {
                    bulkhead: self,
                    cx,
                    op,
                },
                running: Running::nothing(inner),
                listener,
            },
            Err(full) => BulkheadFuture {
                stage: Stage::Refused {
                    reason: full.reason(),
                },
                running: Running::nothing(inner),
                listener,
            },
        }
    }
}

impl Describe for Bulkhead {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        layers.push(Layer::Bulkhead {
            adaptive: self.inner.adaptive.is_some(),
        });
    }
}

/// The permits of an operation that runs; nothing, as long as it does not.
struct Running<'a> {
    inner: &'a Inner,
    held: Held,
}

impl<'a> Running<'a> {
    const fn nothing(inner: &'a Inner) -> Self {
        let held = Held::NOTHING;
        Self { inner, held }
    }

    /// Gives back what the call held, whose outcome this is.
    #[inline(always)]
    fn end<T, E>(
        &mut self,
        outcome: Outcome<T, E>,
        observer: Option<&dyn Observer>,
    ) -> Outcome<T, E> {
        if self.inner.adaptive.is_some() {
            return self.end_of_sample(outcome, observer);
        }
        if let Some(held) = self.held.take() {
            self.inner.gate.give_back(held.cost(), held.lane());
        }
        outcome
    }

    /// As [`end`](Self::end), where an algorithm wants to know how long the call took and how it went.
    ///
    /// Out of line, and the outcome by value: taking its address would force every outcome out of the
    /// registers.
    #[inline(never)]
    fn end_of_sample<T, E>(
        &mut self,
        mut outcome: Outcome<T, E>,
        observer: Option<&dyn Observer>,
    ) -> Outcome<T, E> {
        if let Some(held) = self.held.take() {
            let ending = Ending::of(&outcome.verdict);
            let finished = || outcome.finished(&self.inner.clock);
            self.inner.leave(held, ending, finished, observer);
        }
        outcome
    }

    /// The call was dropped, or the operation panicked.
    #[inline(never)]
    fn abandon(&mut self) {
        let Some(held) = self.held.take() else {
            return;
        };
        // A panic is a fault of the code, not a sign of load.
        let overload = self.inner.cancel_is_overload && !std::thread::panicking();
        let ending = if overload {
            Ending::Overloaded
        } else {
            Ending::Neutral
        };
        let now = || self.inner.clock.now();
        self.inner.leave(held, ending, now, None);
    }
}

impl Drop for Running<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if !self.held.is_nothing() {
            self.abandon();
        }
    }
}

pin_project! {
    pub struct BulkheadFuture<'a, Op: Operation> {
        // Dropped before the permits: what the operation holds goes first.
        #[pin]
        stage: Stage<'a, Op>,
        running: Running<'a>,
        listener: Op::Listener,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<'a, Op: Operation> {
        Refused { reason: Reason },
        // On its way into the line. Apart, because a place in line with its timer is large: made in `run`,
        // it costs time also where a call is let in at once.
        Full { bulkhead: &'a Bulkhead, cx: Context, op: Op },
        Waiting { #[pin] acquire: Acquire<'a>, op: Op },
        Attempting { #[pin] attempt: Op::Attempt },
    }
}

impl<Op: Operation> Future for BulkheadFuture<'_, Op> {
    type Output = Outcome<Op::Value, Op::Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            if let StageProj::Attempting { attempt } = this.stage.as_mut().project() {
                let outcome = ready!(attempt.poll(task));
                let outcome = this.running.end(outcome, this.listener.observer());
                return Poll::Ready(outcome.handed_on());
            }
            let held = &mut this.running.held;
            let stage = this.stage.as_mut();
            match ready!(stage.poll_acquire(Op::READS_TIME, held, task)) {
                Ok((op, cx)) => {
                    let attempt = op.attempt(cx);
                    this.stage.set(Stage::Attempting { attempt });
                }
                Err(reason) => {
                    let rejected = this.running.inner.reject(reason, this.listener.observer());
                    return Poll::Ready(Outcome::rejected(rejected));
                }
            }
        }
    }
}

impl<Op: Operation> Stage<'_, Op> {
    /// Waits for the permits of a call that does not run yet, and puts them into `held`. `timed`: the
    /// operation may look at the times in its context.
    #[cold]
    fn poll_acquire(
        mut self: Pin<&mut Self>,
        timed: bool,
        held: &mut Held,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<(Op, Context), Reason>> {
        if let StageProj::Full { bulkhead, cx, op } = self.as_mut().project() {
            let (bulkhead, cx, op) = (*bulkhead, *cx, *op);
            let acquire = Acquire::new(bulkhead, cx, timed);
            self.set(Stage::Waiting { acquire, op });
        }
        match self.project() {
            StageProj::Waiting { mut acquire, op } => {
                let admitted = ready!(acquire.as_mut().poll(held, task));
                Poll::Ready(admitted.map(|()| (*op, acquire.context())))
            }
            StageProj::Refused { reason } => Poll::Ready(Err(*reason)),
            StageProj::Full { .. } | StageProj::Attempting { .. } => Poll::Pending,
        }
    }
}
