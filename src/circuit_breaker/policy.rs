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
    #[inline(always)]
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
                    permit: Some(permit),
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
        Running { #[pin] attempt: Fut, permit: Option<Permit<'a>>, op: Op },
    }
}

impl<T, E, Op, Fut> Future for Guarded<'_, Op, Fut>
where
    Op: Operation<T, E>,
    Fut: Future<Output = Outcome<T, E>>,
{
    type Output = Outcome<T, E>;

    #[inline(always)]
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
        set_running(permit, true);
        let polled = attempt.poll(task);
        set_running(permit, false);
        let mut outcome = ready!(polled);
        if let Some(permit) = permit.take() {
            let now = permit.is_timed().then(|| outcome.finished(permit.clock()));
            permit.finish(outcome.verdict, now, op.observer());
        }
        Poll::Ready(outcome)
    }
}

/// Marks the permit while the operation's code runs: dropped meanwhile, the operation panicked.
#[inline]
const fn set_running(permit: &mut Option<Permit<'_>>, running: bool) {
    if let Some(permit) = permit {
        permit.set_running(running);
    }
}
