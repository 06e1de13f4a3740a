//! The limiter before an operation.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::state::Refusal;
use super::{Acquire, RateLimiter};
use crate::clock::ClockHandle;
use crate::error::Rejected;
use crate::event::Observer;
use crate::policy::guarded::{self, Entered, Entrance, Gate, GuardedFuture};
use crate::policy::{AtMostOnce, Context, Describe, Layer, Operation, Policy, Run};

impl Policy for RateLimiter {}

impl AtMostOnce for RateLimiter {}

impl<'a, Op: Operation> Run<Op> for &'a RateLimiter {
    type Future = GuardedFuture<&'a RateLimiter, Op>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        guarded::run(self, op, cx)
    }
}

impl<'a> Gate for &'a RateLimiter {
    type Ticket = ();
    type Permit = ();
    type Entrance = Tokens<'a>;

    #[inline(always)]
    fn enter(self, cx: &mut Context, _: Option<&dyn Observer>) -> Entered<(), Tokens<'a>> {
        let inner = &*self.inner;
        let cost = u64::from(cx.cost());
        let now = cx.now(&inner.outside.clock);
        match inner.take(now, cost) {
            Ok(()) => Entered::Admitted(()),
            Err(refusal) => Entered::Waits(Tokens {
                stage: Stage::Missing {
                    limiter: self,
                    refusal,
                },
            }),
        }
    }

    #[inline(always)]
    fn permit(self, (): ()) {}
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
    /// The wait for tokens of a call that found too few.
    #[derive(Debug)]
    pub struct Tokens<'a> {
        #[pin]
        stage: Stage<'a>,
    }
}

pin_project! {
    #[project = StageProj]
    #[derive(Debug)]
    enum Stage<'a> {
        // Apart from the wait, because a place in the wait queue with its timer is large: made in `enter`,
        // it costs time also if the call is admitted.
        Missing {
            limiter: &'a RateLimiter,
            refusal: Refusal,
        },
        Waiting {
            #[pin]
            acquire: Acquire<'a>,
        },
    }
}

impl<'a> Entrance for Tokens<'a> {
    type Permit = ();

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context,
        _: bool,
        observer: Option<&dyn Observer>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<(), Rejected>> {
        let mut stage = self.project().stage;
        if let StageProj::Missing { limiter, refusal } = stage.as_mut().project() {
            let limiter: &'a RateLimiter = limiter;
            let inner = &*limiter.inner;
            // A call that waits, and shadow mode for one that would, is up to `Acquire`.
            if inner.outside.max_wait.is_zero() {
                let now = cx.now(&inner.outside.clock);
                return Poll::Ready(inner.refuse(now, *refusal, observer));
            }
            let acquire = limiter.acquire_within(cx.cost().into(), inner.outside.max_wait);
            stage.set(Stage::Waiting { acquire });
        }
        let StageProj::Waiting { mut acquire } = stage.project() else {
            return Poll::Pending;
        };
        let clock = acquire.clock();
        let reading = match acquire.is_queued() {
            true => clock.now(),
            false => cx.now(clock),
        };
        let deadline = cx.deadline(clock);
        ready!(
            acquire
                .as_mut()
                .poll_with(task, reading, deadline, observer)
        )?;
        cx.refresh(clock);
        Poll::Ready(Ok(()))
    }
}
