//! The breaker around an operation.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use pin_project_lite::pin_project;

use super::{CircuitBreaker, Permit};
use crate::clock::ClockHandle;
use crate::error::Rejected;
use crate::event::Listener;
use crate::instant::Instant;
use crate::policy::{
    AtMostOnce, Context, Describe, Layer, OnUnwind, Operation, Outcome, Policy, Run,
};

impl Policy for CircuitBreaker {}

impl AtMostOnce for CircuitBreaker {}

impl<'a, Op: Operation> Run<Op> for &'a CircuitBreaker {
    type Future = Guarded<'a, Op>;

    #[inline(always)]
    fn run(self, op: Op, mut cx: Context) -> Guarded<'a, Op> {
        let inner = &*self.inner;
        let clock = &inner.settings.clock;
        let started = if inner.plan.needs_clock() {
            cx.now(clock)
        } else {
            Instant::ORIGIN
        };
        // On a copy, for the address of `cx` must not get out: see `Context::move_to`.
        let late = |mut cx: Context| cx.now(clock);
        match inner.admit(|| late(cx), op.listener().observer()) {
            Ok(ticket) => {
                // Making the future is the operation's code as well: if it unwinds, that panicked.
                let guard = OnUnwind::new(|| {
                    let mut permit = Permit::new(self, ticket, started, true);
                    permit.set_running(true);
                });
                let attempt = op.attempt(cx);
                guard.disarm();
                Guarded::Running {
                    attempt,
                    permit: Permit::new(self, ticket, started, true),
                    listener: op.listener(),
                }
            }
            Err(rejected) => Guarded::Refused { rejected },
        }
    }
}

impl Describe for CircuitBreaker {
    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.settings.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        layers.push(Layer::CircuitBreaker);
    }
}

pin_project! {
    #[project = GuardedProj]
    pub enum Guarded<'a, Op: Operation> {
        Refused { rejected: Rejected },
        // The future is dropped before its permit.
        Running { #[pin] attempt: Op::Attempt, permit: Permit<'a>, listener: Op::Listener },
    }
}

impl<Op: Operation> Future for Guarded<'_, Op> {
    type Output = Outcome<Op::Value, Op::Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let (attempt, permit, listener) = match self.project() {
            GuardedProj::Refused { rejected } => {
                return Poll::Ready(Outcome::rejected(*rejected));
            }
            GuardedProj::Running {
                attempt,
                permit,
                listener,
            } => (attempt, permit, listener),
        };
        permit.set_running(true);
        let Poll::Ready(mut outcome) = attempt.poll(task) else {
            permit.set_running(false);
            return Poll::Pending;
        };
        permit.finish_here(
            outcome.verdict,
            |clock| outcome.finished(clock),
            listener.observer(),
        );
        Poll::Ready(outcome.handed_on())
    }
}
