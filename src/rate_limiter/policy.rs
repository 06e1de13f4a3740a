//! The limiter as a layer around an operation.

use std::fmt;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::inner::Inner;
use super::state::Unavailable;
use super::{Acquire, RateLimiter};
use crate::clock::ClockHandle;
use crate::error::Rejected;
use crate::event::Observer;
use crate::policy::guarded::{self, Entered, Entrance, Gate, GuardedFuture, Permit};
use crate::policy::{
    AtMostOnce, Context, Describe, LayerKind, OnUnwind, Operation, Outcome, Policy, Run,
};

impl Policy for RateLimiter {}

impl AtMostOnce for RateLimiter {}

impl<'a, Op: Operation> Run<Op> for &'a RateLimiter {
    type Future = GuardedFuture<&'a RateLimiter, Op>;

    #[inline(always)]
    fn run(self, op: Op, cx: Context) -> Self::Future {
        guarded::run(self, op, cx)
    }
}

impl Describe for RateLimiter {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.base.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<LayerKind>) {
        layers.push(LayerKind::RateLimiter);
    }
}

impl<'a> Gate for &'a RateLimiter {
    type Ticket = ();
    type Permit = ResultRecorder<'a>;
    type Entrance = TokenWait<'a>;

    #[inline(always)]
    fn enter(self, cx: &mut Context, _: Option<&dyn Observer>) -> Entered<(), TokenWait<'a>> {
        let inner = &*self.inner;
        let cost = u64::from(cx.cost());
        let now = cx.now(&inner.base.clock);
        match inner.take(now, cost) {
            Ok(()) => Entered::Admitted(()),
            Err(unavailable) => Entered::Waits(TokenWait {
                stage: Stage::Missing {
                    limiter: self,
                    unavailable,
                },
            }),
        }
    }

    #[inline(always)]
    fn permit(self, (): ()) -> ResultRecorder<'a> {
        ResultRecorder::of(&self.inner)
    }
}

/// A running call. Its result is recorded if the limiter learns from results.
pub struct ResultRecorder<'a> {
    inner: Option<&'a Inner>,
}

impl<'a> ResultRecorder<'a> {
    #[inline(always)]
    fn of(inner: &'a Inner) -> Self {
        Self {
            inner: inner.feedback.is_some().then_some(inner),
        }
    }
}

impl Permit for ResultRecorder<'_> {
    #[inline(always)]
    fn take(&mut self) -> Self {
        Self {
            inner: self.inner.take(),
        }
    }

    #[inline(always)]
    fn exit<T, E>(self, outcome: Outcome<T, E>, _: Option<&dyn Observer>) -> Outcome<T, E> {
        let Some(inner) = self.inner else {
            return outcome;
        };
        // A rejection by an inner layer says nothing about the dependency.
        if outcome.is_rejected() {
            return outcome;
        }
        outcome.shown_to(|verdict, mut finished| {
            inner.learn_from(finished.on(&inner.base.clock), &verdict);
            finished
        })
    }
}

impl fmt::Debug for ResultRecorder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResultRecorder").finish_non_exhaustive()
    }
}

pin_project! {
    /// The wait of a call that found too few tokens.
    #[derive(Debug)]
    pub struct TokenWait<'a> {
        #[pin]
        stage: Stage<'a>,
    }
}

pin_project! {
    #[project = StageProj]
    #[derive(Debug)]
    enum Stage<'a> {
        // A separate variant because a wait with its timer is large: building it in `enter` would slow admitted
        // calls.
        Missing {
            limiter: &'a RateLimiter,
            unavailable: Unavailable,
        },
        Waiting {
            #[pin]
            acquire: Acquire<'a>,
        },
    }
}

impl<'a> Entrance for TokenWait<'a> {
    type Permit = ResultRecorder<'a>;

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context,
        _: bool,
        observer: Option<&dyn Observer>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Result<ResultRecorder<'a>, Rejected>> {
        let mut stage = self.project().stage;
        if let StageProj::Missing {
            limiter,
            unavailable,
        } = stage.as_mut().project()
        {
            let limiter: &'a RateLimiter = limiter;
            let inner = &*limiter.inner;
            // Only `Acquire` waits and admits in shadow mode.
            let max_wait = inner.max_wait();
            if max_wait.is_zero() {
                let now = cx.now(&inner.base.clock);
                let admitted = inner.reject_for(now, *unavailable, observer);
                return Poll::Ready(admitted.map(|()| ResultRecorder::of(inner)));
            }
            let acquire = limiter.acquire_within(cx.cost().into(), max_wait);
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
        let (inner, cost) = (acquire.inner(), acquire.cost());
        let refund = OnUnwind::new(|| inner.give(None, cost));
        cx.refresh(clock);
        refund.disarm();
        Poll::Ready(Ok(ResultRecorder::of(inner)))
    }
}
