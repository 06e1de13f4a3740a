//! The limiter before an operation.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::state::Refusal;
use super::{Acquire, RateLimiter};
use crate::clock::ClockHandle;
use crate::error::Rejected;
use crate::event::Listener;
use crate::policy::{AtMostOnce, Context, Describe, Layer, Operation, Outcome, Policy, Run};

impl Policy for RateLimiter {}

impl AtMostOnce for RateLimiter {}

impl<'a, Op: Operation> Run<Op> for &'a RateLimiter {
    type Future = Limited<'a, Op>;

    #[inline(always)]
    fn run(self, op: Op, mut cx: Context) -> Limited<'a, Op> {
        let inner = &*self.inner;
        let cost = u64::from(cx.cost());
        let now = cx.now(&inner.outside.clock);
        // Each end makes a future of its own: in one that both share, the fields of the other are written
        // too.
        match inner.take(now, cost) {
            Ok(()) => Limited {
                stage: Stage::Running {
                    attempt: op.attempt(cx),
                },
            },
            Err(refusal) => Limited {
                stage: Stage::Refused {
                    limiter: self,
                    refusal,
                    op,
                    cx,
                },
            },
        }
    }
}

impl Describe for RateLimiter {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.outside.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        layers.push(Layer::RateLimiter);
    }
}

pin_project! {
    pub struct Limited<'a, Op: Operation> {
        #[pin]
        stage: Stage<'a, Op>,
    }
}

pin_project! {
    #[project = StageProj]
    enum Stage<'a, Op: Operation> {
        // Not let through at once. Apart from who waits, because a place in line with its timer is large:
        // made in `run`, it costs time also where a call is let through.
        Refused {
            limiter: &'a RateLimiter,
            refusal: Refusal,
            op: Op,
            cx: Context,
        },
        Waiting {
            #[pin]
            acquire: Acquire<'a>,
            op: Op,
            cx: Context,
        },
        Running {
            #[pin]
            attempt: Op::Attempt,
        },
    }
}

impl<Op: Operation> Future for Limited<'_, Op> {
    type Output = Outcome<Op::Value, Op::Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            if let StageProj::Running { attempt } = this.stage.as_mut().project() {
                return attempt.poll(task);
            }
            match ready!(this.stage.as_mut().poll_acquire(task)) {
                Ok((op, cx)) => {
                    let attempt = op.attempt(cx);
                    this.stage.set(Stage::Running { attempt });
                }
                Err(rejected) => return Poll::Ready(Outcome::rejected(rejected)),
            }
        }
    }
}

impl<'a, Op: Operation> Stage<'a, Op> {
    /// Refuses a call that was not let through at once, or waits for its tokens.
    #[cold]
    fn poll_acquire(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<(Op, Context), Rejected>> {
        if let StageProj::Refused {
            limiter,
            refusal,
            op,
            cx,
        } = self.as_mut().project()
        {
            let (limiter, op, mut cx): (&'a RateLimiter, Op, Context) = (limiter, *op, *cx);
            let inner = &*limiter.inner;
            // Who waits, and shadow mode for those who would have, is up to `Acquire`.
            if inner.outside.max_wait.is_zero() {
                let now = cx.now(&inner.outside.clock);
                inner.refuse(now, *refusal, op.listener().observer())?;
                return Poll::Ready(Ok((op, cx)));
            }
            let acquire = limiter.acquire_within(cx.cost().into(), inner.outside.max_wait);
            self.set(Stage::Waiting { acquire, op, cx });
        }
        match self.project() {
            StageProj::Waiting {
                mut acquire,
                op,
                cx,
            } => {
                let clock = acquire.clock();
                let reading = match acquire.is_queued() {
                    true => clock.now(),
                    false => cx.now(clock),
                };
                let deadline = cx.deadline(clock);
                let observer = op.listener().observer();
                let acquire = acquire.as_mut();
                ready!(acquire.poll_with(task, reading, deadline, observer))?;
                cx.refresh(clock);
                Poll::Ready(Ok((*op, *cx)))
            }
            StageProj::Refused { .. } | StageProj::Running { .. } => Poll::Pending,
        }
    }
}
