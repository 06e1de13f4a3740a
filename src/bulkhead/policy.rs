//! The bulkhead around an operation.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::Bulkhead;
use super::acquire::Acquire;
use super::inner::Inner;
use super::permit_queue::Full;
use super::raw_permit::{Ending, RawPermit};
use crate::clock::ClockHandle;
use crate::error::Reason;
use crate::event::{Listener, Observer};
use crate::policy::{Context, Layer, OnUnwind, Operation, Outcome, Policy};

impl<T, E> Policy<T, E> for Bulkhead {
    #[inline(always)]
    fn run<Op: Operation<T, E>>(
        &self,
        op: Op,
        mut cx: Context,
    ) -> impl Future<Output = Outcome<T, E>> {
        let inner = &*self.inner;
        let listener = op.listener();
        let entered = inner.try_enter(
            inner.entrant(&cx, self.partition),
            &mut cx,
            listener.observer(),
        );
        let make = |op: Op, cx: Context| op.attempt(cx);
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
                    make,
                    listener,
                    outcome: PhantomData,
                }
            }
            Err(Full::Busy) if inner.may_wait() => BulkheadFuture {
                stage: Stage::Full {
                    bulkhead: self,
                    cx,
                    op,
                },
                running: Running::nothing(inner),
                make,
                listener,
                outcome: PhantomData,
            },
            Err(full) => BulkheadFuture {
                stage: Stage::Refused {
                    reason: full.reason(),
                },
                running: Running::nothing(inner),
                make,
                listener,
                outcome: PhantomData,
            },
        }
    }

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
    held: RawPermit,
}

impl<'a> Running<'a> {
    const fn nothing(inner: &'a Inner) -> Self {
        let held = RawPermit::NOTHING;
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
            self.inner.release(held);
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
    struct BulkheadFuture<'a, Op, L, Make, Fut, T, E> {
        // Dropped before the permits: what the operation holds goes first.
        #[pin]
        stage: Stage<'a, Op, Fut>,
        running: Running<'a>,
        listener: L,
        // Makes an attempt. A closure of no size, so that the attempt's type needs no name.
        make: Make,
        outcome: PhantomData<fn() -> (T, E)>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<'a, Op, Fut> {
        Refused { reason: Reason },
        // On its way into the line. Apart, because a place in line with its timer is large: made in `run`,
        // it costs time also where a call is let in at once.
        Full { bulkhead: &'a Bulkhead, cx: Context, op: Op },
        Waiting { #[pin] acquire: Acquire<'a>, op: Op },
        Attempting { #[pin] attempt: Fut },
    }
}

impl<T, E, Op, L, Make, Fut> Future for BulkheadFuture<'_, Op, L, Make, Fut, T, E>
where
    Op: Operation<T, E>,
    L: Listener,
    Make: Fn(Op, Context) -> Fut,
    Fut: Future<Output = Outcome<T, E>>,
{
    type Output = Outcome<T, E>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Outcome<T, E>> {
        let mut this = self.project();
        loop {
            if let StageProj::Attempting { attempt } = this.stage.as_mut().project() {
                let outcome = ready!(attempt.poll(task));
                let outcome = this.running.end(outcome, this.listener.observer());
                return Poll::Ready(outcome.handed_on());
            }
            let held = &mut this.running.held;
            let (stage, observer) = (this.stage.as_mut(), this.listener.observer());
            match ready!(stage.poll_acquire(Op::LOOKS_AT_TIME, held, observer, task)) {
                Ok((op, cx)) => {
                    let attempt = (this.make)(op, cx);
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

impl<Op: Copy, Fut> Stage<'_, Op, Fut> {
    /// Waits for the permits of a call that does not run yet, and puts them into `held`. `timed`: the
    /// operation may look at the times in its context.
    #[cold]
    fn poll_acquire(
        mut self: Pin<&mut Self>,
        timed: bool,
        held: &mut RawPermit,
        observer: Option<&dyn Observer>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<(Op, Context), Reason>> {
        if let StageProj::Full { bulkhead, cx, op } = self.as_mut().project() {
            let (bulkhead, cx, op) = (*bulkhead, *cx, *op);
            let acquire = Acquire::new(&bulkhead.inner, bulkhead.partition, cx, timed);
            self.set(Stage::Waiting { acquire, op });
        }
        match self.project() {
            StageProj::Waiting { mut acquire, op } => {
                let admitted = ready!(acquire.as_mut().poll(held, observer, task));
                Poll::Ready(admitted.map(|()| (*op, acquire.context())))
            }
            StageProj::Refused { reason } => Poll::Ready(Err(*reason)),
            StageProj::Full { .. } | StageProj::Attempting { .. } => Poll::Pending,
        }
    }
}
