//! The limiter before an operation.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use super::{Acquire, RateLimiter};
use crate::clock::ClockHandle;
use crate::error::Rejected;
use crate::observe::Listener;
use crate::policy::{Context, Layer, Operation, Outcome, Policy};

impl<T, E> Policy<T, E> for RateLimiter {
    #[inline(always)]
    fn run<Op: Operation<T, E>>(
        &self,
        op: Op,
        mut cx: Context,
    ) -> impl Future<Output = Outcome<T, E>> {
        let inner = &*self.inner;
        let cost = u64::from(cx.cost());
        let now = inner.steady(cx.now(&inner.clock));
        let stage = match inner.take(now, cost) {
            Ok(()) => Stage::Running {
                attempt: op.attempt(cx),
            },
            Err(_) if inner.max_wait > Duration::ZERO && !inner.shadow => Stage::Waiting {
                acquire: self.acquire_within(cost, inner.max_wait),
                limiter: self,
                op,
                cx,
            },
            Err(refusal) => match inner.refuse(now, refusal, op.listener().observer()) {
                Ok(()) => Stage::Running {
                    attempt: op.attempt(cx),
                },
                Err(rejected) => Stage::Refused { rejected },
            },
        };
        Limited {
            stage,
            make: |op: Op, cx: Context| op.attempt(cx),
            outcome: PhantomData,
        }
    }

    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        layers.push(Layer::RateLimiter);
    }
}

pin_project! {
    struct Limited<'a, Op, Make, Fut, T, E> {
        #[pin]
        stage: Stage<'a, Op, Fut>,
        // Makes an attempt. A closure of no size, so that the attempt's type needs no name.
        make: Make,
        outcome: PhantomData<fn() -> (T, E)>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<'a, Op, Fut> {
        Refused {
            rejected: Rejected,
        },
        Waiting {
            #[pin]
            acquire: Acquire<'a>,
            limiter: &'a RateLimiter,
            op: Op,
            cx: Context,
        },
        Running {
            #[pin]
            attempt: Fut,
        },
    }
}

impl<T, E, Op, Make, Fut> Future for Limited<'_, Op, Make, Fut, T, E>
where
    Op: Operation<T, E>,
    Make: Fn(Op, Context) -> Fut,
    Fut: Future<Output = Outcome<T, E>>,
{
    type Output = Outcome<T, E>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Outcome<T, E>> {
        let mut this = self.project();
        loop {
            if let StageProj::Running { attempt } = this.stage.as_mut().project() {
                return attempt.poll(task);
            }
            match ready!(this.stage.as_mut().poll_acquire::<T, E>(task)) {
                Ok((op, cx)) => {
                    let attempt = (this.make)(op, cx);
                    this.stage.set(Stage::Running { attempt });
                }
                Err(rejected) => return Poll::Ready(Outcome::rejected(rejected)),
            }
        }
    }
}

impl<Op, Fut> Stage<'_, Op, Fut> {
    /// Waits for the tokens of a call that does not run yet.
    #[cold]
    fn poll_acquire<T, E>(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<(Op, Context), Rejected>>
    where
        Op: Operation<T, E>,
    {
        match self.project() {
            StageProj::Waiting {
                acquire,
                limiter,
                op,
                cx,
            } => {
                let clock = &limiter.inner.clock;
                let reading = match acquire.is_queued() {
                    true => clock.now(),
                    false => cx.now(clock),
                };
                let deadline = cx.deadline(clock);
                ready!(acquire.poll_with(task, reading, deadline, op.listener().observer()))?;
                cx.refresh(clock);
                Poll::Ready(Ok((*op, *cx)))
            }
            StageProj::Refused { rejected } => Poll::Ready(Err(*rejected)),
            StageProj::Running { .. } => Poll::Pending,
        }
    }
}
