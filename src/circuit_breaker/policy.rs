//! The breaker around an operation.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;

use super::{CircuitBreaker, Permit};
use crate::clock::{ClockHandle, Instant};
use crate::error::Rejected;
use crate::policy::{Context, Layer, Operation, Outcome, Policy};

impl<T, E> Policy<T, E> for CircuitBreaker {
    #[inline]
    fn run<Op: Operation<T, E>>(
        &self,
        op: Op,
        mut cx: Context,
    ) -> impl Future<Output = Outcome<T, E>> {
        let inner = &*self.inner;
        let clock = &inner.settings.clock;
        let started = if inner.plan.needs_clock() {
            cx.now(clock)
        } else {
            Instant::ORIGIN
        };
        match inner.admit(|| cx.now(clock), op.observer()) {
            Ok(ticket) => {
                let mut permit = Permit::new(self, ticket, started, true);
                // Making the future is the operation's code as well.
                permit.set_running(true);
                let attempt = op.attempt(cx);
                permit.set_running(false);
                Guarded::Running {
                    attempt,
                    permit,
                    op,
                }
            }
            Err(rejected) => Guarded::Refused { rejected },
        }
    }

    fn clock(&self) -> Option<ClockHandle> {
        Some(self.inner.settings.clock.clone())
    }

    fn describe(&self, layers: &mut Vec<Layer>) {
        layers.push(Layer::CircuitBreaker);
    }
}

pin_project! {
    #[project = GuardedProj]
    enum Guarded<'a, Op, Fut> {
        Refused { rejected: Rejected },
        // The future is dropped before its permit.
        Running { #[pin] attempt: Fut, permit: Permit<'a>, op: Op },
    }
}

impl<T, E, Op, Fut> Future for Guarded<'_, Op, Fut>
where
    Op: Operation<T, E>,
    Fut: Future<Output = Outcome<T, E>>,
{
    type Output = Outcome<T, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Outcome<T, E>> {
        let (attempt, permit, op) = match self.project() {
            GuardedProj::Refused { rejected } => {
                return Poll::Ready(Outcome::rejected(*rejected));
            }
            GuardedProj::Running {
                attempt,
                permit,
                op,
            } => (attempt, permit, op),
        };
        permit.set_running(true);
        let polled = attempt.poll(task);
        permit.set_running(false);
        let mut outcome = ready!(polled);
        let clock = permit.clock();
        if permit.is_timed() {
            let now = outcome.finished(clock);
            permit.finish(outcome.verdict, || now, op.observer());
        } else {
            permit.finish(outcome.verdict, || clock.now(), op.observer());
        }
        Poll::Ready(outcome)
    }
}
