//! The bulkhead around an operation.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::acquire::Acquire;
use super::queue::Full;
use super::{Bulkhead, Ending, Held, Inner};
use crate::clock::ClockHandle;
use crate::error::Reason;
use crate::observe::Observer;
use crate::policy::{Context, Layer, Operation, Outcome, Policy};

impl<T, E> Policy<T, E> for Bulkhead {
    #[inline(always)]
    fn run<Op: Operation<T, E>>(
        &self,
        op: Op,
        mut cx: Context,
    ) -> impl Future<Output = Outcome<T, E>> {
        let make = move |cx| op.attempt(cx);
        let entered = self
            .inner
            .try_enter(self.entrant(&cx), &mut cx, op.observer());
        let (stage, running) = match entered {
            Ok(held) => {
                // Before the attempt is made: it may panic.
                let running = Running::new(&self.inner, held);
                let attempt = make(cx);
                (Stage::Attempting { attempt }, Some(running))
            }
            Err(Full::Busy) if self.inner.may_wait => {
                let acquire = Acquire::new(self, cx);
                (Stage::Waiting { acquire }, None)
            }
            Err(full) => {
                let reason = full.reason();
                (Stage::Refused { reason }, None)
            }
        };
        BulkheadFuture {
            stage,
            running,
            inner: &self.inner,
            make,
            op,
            outcome: PhantomData,
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

/// The permits of an operation that runs.
struct Running<'a> {
    inner: &'a Inner,
    held: Held,
}

impl<'a> Running<'a> {
    #[inline]
    const fn new(inner: &'a Inner, held: Held) -> Self {
        Self { inner, held }
    }

    #[inline(always)]
    fn end<T, E>(&mut self, outcome: &mut Outcome<T, E>, observer: Option<&dyn Observer>) {
        if let Some(held) = self.held.take() {
            let ending = Ending::of(&outcome.verdict);
            let finished = || outcome.finished(&self.inner.clock);
            self.inner.leave(held, ending, finished, observer);
        }
    }
}

impl Drop for Running<'_> {
    /// The call was dropped, or the operation panicked.
    #[inline]
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
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
}

pin_project! {
    struct BulkheadFuture<'a, Op, M, Fut, T, E> {
        // Dropped before the permits: what the operation holds goes first.
        #[pin]
        stage: Stage<'a, Fut>,
        running: Option<Running<'a>>,
        inner: &'a Inner,
        make: M,
        op: Op,
        outcome: PhantomData<fn() -> (T, E)>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<'a, Fut> {
        Refused { reason: Reason },
        Waiting { #[pin] acquire: Acquire<'a> },
        Attempting { #[pin] attempt: Fut },
    }
}

impl<T, E, Op, M, Fut> Future for BulkheadFuture<'_, Op, M, Fut, T, E>
where
    Op: Operation<T, E>,
    M: Fn(Context) -> Fut,
    Fut: Future<Output = Outcome<T, E>>,
{
    type Output = Outcome<T, E>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Outcome<T, E>> {
        let mut this = self.project();
        loop {
            let entered = match this.stage.as_mut().project() {
                StageProj::Attempting { attempt } => {
                    let mut outcome = ready!(attempt.poll(task));
                    if let Some(running) = this.running {
                        running.end(&mut outcome, this.op.observer());
                    }
                    return Poll::Ready(outcome);
                }
                StageProj::Waiting { mut acquire } => {
                    ready!(acquire.as_mut().poll(task)).map(|held| (held, acquire.context()))
                }
                StageProj::Refused { reason } => Err(*reason),
            };
            match entered {
                Ok((held, cx)) => {
                    *this.running = Some(Running::new(this.inner, held));
                    let attempt = (this.make)(cx);
                    this.stage.set(Stage::Attempting { attempt });
                }
                Err(reason) => {
                    let rejected = this.inner.reject(reason, this.op.observer());
                    return Poll::Ready(Outcome::rejected(rejected));
                }
            }
        }
    }
}
